"""Retrieval against plain loops over all pairs."""

import json
import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladva_kit.data.pairs import Pair
from vladva_kit.evaluation import evaluate_retrieval, retrieval
from vladva_kit.models.images import BadInput


def color(number):
    return number % 256, number // 256, 9


def gallery(n, captions=3):
    wordings = [tuple(f"image {number} wording {word}" for word in range(captions)) for number in range(n)]
    return [Pair(Image.new("RGB", (2, 2), color(number)), captions=texts) for number, texts in enumerate(wordings)]


def meaning(pairs):
    return {text: pair.load_image().getpixel((0, 0)) for pair in pairs for text in pair.captions}


def test_an_oracle_scores_100_and_a_constant_encoder_0(oracle, constant_encoder):
    pairs = gallery(30)
    for embedder, percent, ties in ((oracle(meaning(pairs)), 100, 0), (constant_encoder, 0, 30 + 90)):
        result = evaluate_retrieval(embedder, pairs)
        found = [*result.image_to_text.values(), *result.text_to_image.values()]
        assert {one.percent for one in found} == {percent}
        assert (result.ties, result.n_images, result.n_captions) == (ties, 30, 90)


def test_recalls_equal_a_loop_over_all_pairs(random_encoder):
    pairs = gallery(25)
    result = evaluate_retrieval(random_encoder, pairs)
    texts = [text for pair in pairs for text in pair.captions]
    scores = (
        random_encoder.encode_image([pair.load_image() for pair in pairs]) @ random_encoder.encode_text(texts).T
    ).numpy()
    for k in (1, 5, 10):
        i2t = [any(texts[c] in pairs[i].captions for c in np.argsort(-scores[i])[:k]) for i in range(25)]
        t2i = [any(texts[c] in pairs[i].captions for i in np.argsort(-scores[:, c])[:k]) for c in range(75)]
        assert result.image_to_text[k].percent == pytest.approx(100 * np.mean(i2t))
        assert result.text_to_image[k].percent == pytest.approx(100 * np.mean(t2i))
    assert [margin > 0 for margin in result.caption_margins] == [rank == 0 for rank in result.caption_ranks]


def test_random_embeddings_score_at_chance(random_encoder):
    result = evaluate_retrieval(random_encoder, gallery(200, captions=2), ks=(10, 40, 100))
    for found in (*result.image_to_text.values(), *result.text_to_image.values()):
        assert found.low <= found.chance <= found.high
    assert result.text_to_image[10].chance == pytest.approx(100 * 10 / 200)


def test_chance_equals_enumerating_all_top_k_draws(random_encoder):
    pairs = [*gallery(3, captions=1), Pair(Image.new("RGB", (2, 2), color(9)), captions=("a", "b", "c"))]
    result = evaluate_retrieval(random_encoder, pairs, ks=(1, 2, 50))
    for k in (1, 2):
        draws = list(combinations(range(6), k))
        hits = [np.mean([bool(right & set(draw)) for draw in draws]) for right in ({0}, {1}, {2}, {3, 4, 5})]
        assert result.image_to_text[k].chance == pytest.approx(100 * np.mean(hits))
        assert result.text_to_image[k].chance == pytest.approx(100 * k / 4)
    assert result.image_to_text[50].chance == result.image_to_text[50].percent == 100


def test_a_caption_of_several_images_is_right_for_all(oracle):
    pairs = gallery(12, captions=1)
    pairs[3], pairs[7] = (Pair(pairs[index].image, captions=("the same",)) for index in (3, 7))
    result = evaluate_retrieval(oracle(meaning(pairs) | {"the same": color(7)}), pairs)
    assert result.text_to_image[1].percent == 100
    assert result.caption_ranks == (0,) * 12
    # "the same" is embedded like image 7, so image 3 may miss its only caption; all others find theirs
    assert {rank for image, rank in enumerate(result.image_ranks) if image != 3} == {0}


def test_pairs_with_the_same_image_are_merged_and_encoded_once(tmp_path, random_encoder):
    Image.new("RGB", (2, 2), color(0)).save(tmp_path / "0.png")
    path, drawn = tmp_path / "0.png", Image.new("RGB", (2, 2), color(1))
    pairs = [Pair(path, short="a"), Pair(drawn, short="b"), Pair(Path(path), short="c"), Pair(drawn.copy(), short="a")]
    result = evaluate_retrieval(random_encoder, pairs)
    assert (result.n_images, result.n_captions) == (2, 4)
    assert sorted(random_encoder.images) == [color(0), color(1)]
    assert sorted(random_encoder.texts) == ["a", "b", "c"]


def test_captions_per_image_keeps_the_first_ones(random_encoder):
    result = evaluate_retrieval(random_encoder, gallery(4, captions=7), captions_per_image=5)
    assert result.n_captions == 20 and "image 0 wording 5" not in random_encoder.texts


def test_results_do_not_depend_on_the_block_size(random_encoder, monkeypatch):
    pairs = gallery(20)
    once = evaluate_retrieval(random_encoder, pairs)
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    assert evaluate_retrieval(random_encoder, pairs) == once


def test_the_full_score_matrix_is_never_in_memory(monkeypatch):
    largest = 0
    rank = retrieval.ranks

    def watched(scores, right):
        nonlocal largest
        largest = max(largest, scores.size)
        return rank(scores, right)

    monkeypatch.setattr(retrieval, "ranks", watched)
    vectors = np.eye(700, dtype=np.float32)
    right = [set(range(5 * i, 5 * i + 5)) for i in range(700)]
    found = retrieval.ranks_in_blocks(vectors, np.repeat(vectors, 5, axis=0), right)
    assert found.rank.tolist() == [0] * 700
    assert largest == retrieval.BLOCK * 3500


def test_memory_does_not_grow_with_the_number_of_queries():
    def peak(queries):
        vectors, right = np.ones((queries, 4), dtype=np.float32), [{0}] * queries
        tracemalloc.start()
        try:
            retrieval.ranks_in_blocks(vectors, candidates, right)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    candidates = np.ones((2000, 4), dtype=np.float32)
    few, many = peak(2 * retrieval.BLOCK), peak(8 * retrieval.BLOCK)
    assert many < 1.1 * few
    assert many < 8 * retrieval.BLOCK * 2000 * 8  # the full matrix in float64


def test_per_case_has_each_query_and_k(random_encoder):
    result = evaluate_retrieval(random_encoder, gallery(5, captions=2), ks=(1, 3))
    cases = list(result.per_case())
    assert len(cases) == 2 * (5 + 10)
    for direction, ranks, scores in (
        ("image_to_text", result.image_ranks, result.image_to_text),
        ("text_to_image", result.caption_ranks, result.text_to_image),
    ):
        for k in (1, 3):
            matching = [case for case in cases if case.score == f"{direction} R@{k}"]
            assert [case.correct for case in matching] == [rank < k for rank in ranks]
            assert 100 * np.mean([case.correct for case in matching]) == pytest.approx(scores[k].percent)
    texts = [f"image {image} wording {word}" for image in range(5) for word in range(2)]
    cosines = random_encoder.unit(texts) @ random_encoder.unit([color(image) for image in range(5)]).T
    for text, case in enumerate(case for case in cases if case.score == "text_to_image R@1"):
        hardest = max((image for image in range(5) if image != text // 2), key=lambda image: cosines[text, image])
        assert (case.image, case.caption, case.other) == (str(text // 2), texts[text], f"image {hardest} wording 0")
    for image, case in enumerate(case for case in cases if case.score == "image_to_text R@1"):
        hardest = max((text for text in range(10) if text // 2 != image), key=lambda text: cosines[text, image])
        assert (case.caption, case.other) == (texts[2 * image], texts[hardest])


def test_pairs_without_a_short_caption_can_be_skipped(random_encoder):
    pairs = [*gallery(3), Pair(Image.new("RGB", (2, 2)), long="A long caption.")]
    result = evaluate_retrieval(random_encoder, pairs, on_error="skip")
    assert result.n_images == 3 and result.skipped == ("pair 3: no short caption; each image needs at least one",)


def test_only_the_split_of_a_folder_is_read(tmp_path, random_encoder):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / split / "0.png")
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "short": split}))
    evaluate_retrieval(random_encoder, tmp_path)
    assert random_encoder.texts == ["test"]


def test_as_dict_survives_json(random_encoder):
    plain = evaluate_retrieval(
        random_encoder, gallery(1)
    ).as_dict()  # one image: no candidate is wrong, so margins are infinite
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["text_to_image"]["R@5"]["percent"] == 100 and plain["image_margins"] == [None]


def test_a_pair_without_a_short_caption_and_a_k_of_0_are_rejected(random_encoder):
    pairs = [*gallery(2), Pair(Image.new("RGB", (2, 2)), long="A long caption.")]
    with pytest.raises(BadInput, match="pair 2: no short caption; each image needs at least one"):
        evaluate_retrieval(random_encoder, pairs)
    for wrong in ({"ks": ()}, {"ks": (0,)}, {"captions_per_image": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            evaluate_retrieval(random_encoder, gallery(2), **wrong)
    assert random_encoder.images == []


class ByColor:
    """Score a caption "image 7 …" by how near the image's color number is; `broken` images score NaN."""

    def __init__(self, broken=()):
        self.broken, self.pairs = broken, 0

    def score_pairs(self, images, captions):
        self.pairs += len(images)
        numbers = [image.getpixel((0, 0))[0] for image in images]
        wanted = [int(caption.split()[1]) for caption in captions]
        return [np.nan if a in self.broken else -float(abs(a - b)) for a, b in zip(numbers, wanted, strict=True)]


def test_reranking_finds_what_is_among_the_best_candidates(random_encoder):
    pairs, scorer = gallery(25), ByColor()
    result = evaluate_retrieval(random_encoder, pairs, ks=(1, 4), rerank=4, scorer=scorer)
    plain = evaluate_retrieval(random_encoder, pairs, ks=(1, 4))
    assert result.text_to_image == plain.text_to_image and result.image_to_text == plain.image_to_text
    reranked = result.reranked
    assert reranked.text_to_image.percent == result.text_to_image[4].percent > result.text_to_image[1].percent
    assert reranked.image_to_text.percent == result.image_to_text[4].percent
    chance = result.text_to_image[1].chance  # the sum of the same terms in another order
    assert reranked.text_to_image.chance == pytest.approx(chance, rel=1e-12)
    assert 0 < scorer.pairs <= 4 * (25 + 75) and reranked.seconds_per_query > 0
    values = result.as_dict()["reranked"]
    assert values["text_to_image"]["R@1"]["percent"] == reranked.text_to_image.percent and values["k"] == 4
    assert "reranked" not in plain.as_dict()


def test_nan_never_ranks_first(oracle):
    pairs = gallery(8, captions=1)
    result = evaluate_retrieval(oracle(meaning(pairs)), pairs, rerank=3, scorer=ByColor(broken=[2]))
    assert result.text_to_image[1].percent == 100 and result.reranked.text_to_image.percent == 100 * 7 / 8


def test_reranking_needs_a_scorer(oracle, random_encoder):
    with pytest.raises(TypeError, match="FakeEmbedder cannot score pairs: pass scorer=LikelihoodScorer"):
        evaluate_retrieval(random_encoder, gallery(3), rerank=2)
    with pytest.raises(ValueError, match="rerank=0: pass at least 1"):
        evaluate_retrieval(random_encoder, gallery(3), rerank=0, scorer=ByColor())


def test_each_file_of_a_zip_is_an_image_of_its_own_as_in_a_folder(zipped, random_encoder):
    result = evaluate_retrieval(random_encoder, zipped())
    assert result.n_images == result.n_captions == 3

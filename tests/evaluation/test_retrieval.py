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


def test_an_encoder_that_knows_has_100_and_one_that_sees_nothing_has_0(knowing, blind):
    pairs = gallery(30)
    for embedder, percent, ties in ((knowing(meaning(pairs)), 100, 0), (blind, 0, 30 + 90)):
        result = evaluate_retrieval(embedder, pairs)
        found = [*result.image_to_text.values(), *result.text_to_image.values()]
        assert {one.percent for one in found} == {percent}
        assert (result.ties, result.n_images, result.n_captions) == (ties, 30, 90)


def test_recalls_equal_a_plain_loop_over_all_pairs(guessing):
    pairs = gallery(25)
    result = evaluate_retrieval(guessing, pairs)
    texts = [text for pair in pairs for text in pair.captions]
    scores = (guessing.encode_image([pair.load_image() for pair in pairs]) @ guessing.encode_text(texts).T).numpy()
    for k in (1, 5, 10):
        i2t = [any(texts[c] in pairs[i].captions for c in np.argsort(-scores[i])[:k]) for i in range(25)]
        t2i = [any(texts[c] in pairs[i].captions for i in np.argsort(-scores[:, c])[:k]) for c in range(75)]
        assert result.image_to_text[k].percent == pytest.approx(100 * np.mean(i2t))
        assert result.text_to_image[k].percent == pytest.approx(100 * np.mean(t2i))
    assert [margin > 0 for margin in result.caption_margins] == [rank == 0 for rank in result.caption_ranks]


def test_guessing_is_at_chance_within_its_interval(guessing):
    result = evaluate_retrieval(guessing, gallery(200, captions=2), ks=(10, 40, 100))
    for found in (*result.image_to_text.values(), *result.text_to_image.values()):
        assert found.low <= found.chance <= found.high
    assert result.text_to_image[10].chance == pytest.approx(100 * 10 / 200)


def test_chance_is_the_share_of_draws_that_hold_a_right_one(guessing):
    pairs = [*gallery(3, captions=1), Pair(Image.new("RGB", (2, 2), color(9)), captions=("a", "b", "c"))]
    result = evaluate_retrieval(guessing, pairs, ks=(1, 2, 50))
    for k in (1, 2):
        draws = list(combinations(range(6), k))
        hits = [np.mean([bool(right & set(draw)) for draw in draws]) for right in ({0}, {1}, {2}, {3, 4, 5})]
        assert result.image_to_text[k].chance == pytest.approx(100 * np.mean(hits))
        assert result.text_to_image[k].chance == pytest.approx(100 * k / 4)
    assert result.image_to_text[50].chance == result.image_to_text[50].percent == 100


def test_a_caption_that_stands_with_several_images_is_right_for_all(knowing):
    pairs = gallery(12, captions=1)
    pairs[3], pairs[7] = (Pair(pairs[place].image, captions=("the same",)) for place in (3, 7))
    result = evaluate_retrieval(knowing(meaning(pairs) | {"the same": color(7)}), pairs)
    assert result.text_to_image[1].percent == 100
    assert result.caption_ranks == (0,) * 12
    # "the same" means image 7 to it, so image 3 need not find its only caption; all others find theirs first
    assert {rank for image, rank in enumerate(result.image_ranks) if image != 3} == {0}


def test_pairs_that_name_one_image_are_one_image_and_nothing_is_encoded_twice(tmp_path, guessing):
    Image.new("RGB", (2, 2), color(0)).save(tmp_path / "0.png")
    path, drawn = tmp_path / "0.png", Image.new("RGB", (2, 2), color(1))
    pairs = [Pair(path, short="a"), Pair(drawn, short="b"), Pair(Path(path), short="c"), Pair(drawn.copy(), short="a")]
    result = evaluate_retrieval(guessing, pairs)
    assert (result.n_images, result.n_captions) == (2, 4)
    assert sorted(guessing.images) == [color(0), color(1)]
    assert sorted(guessing.texts) == ["a", "b", "c"]


def test_only_the_first_captions_are_kept_if_asked(guessing):
    result = evaluate_retrieval(guessing, gallery(4, captions=7), captions_per_image=5)
    assert result.n_captions == 20 and "image 0 wording 5" not in guessing.texts


def test_queries_are_scored_in_blocks_with_the_same_outcome(guessing, monkeypatch):
    pairs = gallery(20)
    whole = evaluate_retrieval(guessing, pairs)
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    assert evaluate_retrieval(guessing, pairs) == whole


def test_ranks_of_coco_s_size_need_no_full_square(monkeypatch):
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


def test_more_queries_need_no_more_memory():
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
    assert many < 8 * retrieval.BLOCK * 2000 * 8  # one square of float64


def test_margins_are_kept_for_each_query_and_k(guessing):
    result = evaluate_retrieval(guessing, gallery(5, captions=2), ks=(1, 3))
    cases = list(result.margins())
    assert len(cases) == 2 * (5 + 10)
    for way, ranks, scores in (
        ("image_to_text", result.image_ranks, result.image_to_text),
        ("text_to_image", result.caption_ranks, result.text_to_image),
    ):
        for k in (1, 3):
            kept = [case for case in cases if case.score == f"{way} R@{k}"]
            assert [case.correct for case in kept] == [rank < k for rank in ranks]
            assert 100 * np.mean([case.correct for case in kept]) == pytest.approx(scores[k].percent)
    texts = [f"image {image} wording {word}" for image in range(5) for word in range(2)]
    cosines = guessing._unit(texts) @ guessing._unit([color(image) for image in range(5)]).T
    for place, case in enumerate(case for case in cases if case.score == "text_to_image R@1"):
        rival = max((image for image in range(5) if image != place // 2), key=lambda image: cosines[place, image])
        assert (case.image, case.caption, case.other) == (str(place // 2), texts[place], f"image {rival} wording 0")
    for image, case in enumerate(case for case in cases if case.score == "image_to_text R@1"):
        rival = max((place for place in range(10) if place // 2 != image), key=lambda place: cosines[place, image])
        assert (case.caption, case.other) == (texts[2 * image], texts[rival])


def test_pairs_without_a_short_caption_are_left_out_only_if_asked_and_counted(guessing):
    pairs = [*gallery(3), Pair(Image.new("RGB", (2, 2)), long="A long caption.")]
    result = evaluate_retrieval(guessing, pairs, on_error="skip")
    assert result.n_images == 3 and result.skipped == ("pair 3: no short caption; retrieval needs one for each image",)


def test_a_folder_is_read_by_its_split(tmp_path, guessing):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / split / "0.png")
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "short": split}))
    evaluate_retrieval(guessing, tmp_path)
    assert guessing.texts == ["test"]


def test_the_result_goes_to_json_and_back(guessing):
    plain = evaluate_retrieval(guessing, gallery(1)).as_dict()  # one image: no candidate is wrong, margins infinite
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["text_to_image"]["R@5"]["percent"] == 100 and plain["image_margins"] == [None]


def test_a_pair_without_a_short_caption_or_a_senseless_k_is_refused(guessing):
    pairs = [*gallery(2), Pair(Image.new("RGB", (2, 2)), long="A long caption.")]
    with pytest.raises(BadInput, match="pair 2: no short caption; retrieval needs one"):
        evaluate_retrieval(guessing, pairs)
    for wrong in ({"ks": ()}, {"ks": (0,)}, {"captions_per_image": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            evaluate_retrieval(guessing, gallery(2), **wrong)
    assert guessing.images == []

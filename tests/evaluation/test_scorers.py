"""A scorer of pairs in every benchmark, against an encoder with the same scores."""

import numpy as np
import pytest
from PIL import Image

import vladva_kit as vk
from vladva_kit.cli.evaluate import DEFAULT_DATA, _source
from vladva_kit.data.pairs import Pair
from vladva_kit.evaluation.results import save_results
from vladva_kit.evaluation.tables import score_rows

BENCHMARKS = ("winoground", "sugarcrepe", "sugarcrepe_pp", "word_order", "classification", "retrieval")


class CosineScorer:
    """Score pairs by an encoder's cosines, in batches of its own; record how many pairs were scored."""

    fingerprint = "cosines"

    def __init__(self, encoder):
        self.encoder, self.pairs, self.scored = encoder, 0, 0

    def check_size(self, images, captions):
        self.checked = len(images), len(captions)

    def score_pairs(self, images, captions):
        assert len(images) == len(captions) and all(image.mode == "RGB" for image in images)
        self.pairs += len(images)
        return (self.encoder.encode_image(images) * self.encoder.encode_text(captions)).sum(1)

    def similarity(self, images, captions):
        self.scored += len(images) * len(captions)
        return self.encoder.encode_image(images) @ self.encoder.encode_text(captions).T


class PixelEncoder:
    """Embed images by their pixels and texts by their letters: different for all, the same at any place."""

    def encode_image(self, images):
        return unit([np.asarray(image.resize((4, 4)), dtype=float).ravel() - 100 for image in images])

    def encode_text(self, texts):
        return unit([np.sin(np.arange(48) * (1 + sum(map(ord, text)) + 7 * len(text))) for text in texts])


def unit(rows):
    rows = np.stack(rows)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def run(model, benchmark):
    source, images = _source(benchmark, None, None)
    options = {} if images is None else {"image_folder": images}
    return getattr(vk, f"evaluate_{benchmark}")(model, source, **options)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_a_scorer_gets_the_scores_of_the_encoder_with_the_same_cosines(benchmark, tmp_path):
    assert benchmark in DEFAULT_DATA
    encoder = PixelEncoder()
    scorer = CosineScorer(encoder)
    expected, actual = run(encoder, benchmark), run(scorer, benchmark)
    cases = {case.key: case for case in expected.per_case() if case.score != "tot"}
    found = {case.key: case for case in actual.per_case()}
    assert found.keys() == cases.keys() and actual.data == expected.data
    assert all(
        found[key].margin == pytest.approx(case.margin, abs=1e-5)
        for key, case in cases.items()
        if benchmark != "classification"
    )  # an encoder's templates are normalized again
    assert [found[key].correct for key in cases] == [case.correct for case in cases.values()]
    record = save_results(tmp_path, {"scorer": {benchmark: actual}, "encoder": {benchmark: expected}}, {}, {})
    rows = score_rows(record)
    assert all(row.scores["scorer"] in (None, row.scores["encoder"]) for row in rows)
    assert all(row.scores["scorer"] or row.name.startswith("tot ") for row in rows)


def test_only_the_compared_pairs_are_scored_each_different_one_once(winoground):
    scorer = CosineScorer(PixelEncoder())
    vk.evaluate_winoground(scorer, winoground)
    assert (scorer.pairs, scorer.scored) == (4 * 60, 0)


def test_nan_scores_and_a_cache_are_refused(winoground, tmp_path):
    class Broken(CosineScorer):
        def score_pairs(self, images, captions):
            return np.full(len(images), np.nan)

    with pytest.raises(ValueError, match="NaN or infinite"):
        vk.evaluate_winoground(Broken(None), winoground)
    with pytest.raises(ValueError, match="a CosineScorer has none: leave cache out"):
        vk.evaluate_winoground(CosineScorer(None), winoground, cache=tmp_path)


def test_a_large_gallery_is_refused_before_anything_is_scored():
    scorer = vk.LikelihoodScorer(vk.load_lvlm("emoji-llava"), max_scores=99)
    pairs = [Pair(Image.new("RGB", (8, 8), (number, 0, 0)), short=f"a dog {number}") for number in range(10)]
    with pytest.raises(ValueError, match="10 images x 10 captions: 100 scores, about .*: embed the images and re-rank"):
        vk.evaluate_retrieval(scorer, pairs)


def test_asked_emoji_llava_solves_winoground_cases_that_it_cannot_solve_by_embedding(tmp_path):
    lvlm = vk.load_lvlm("emoji-llava")
    cases = vk.sample("winoground_mini")
    lines = (cases / "examples.jsonl").read_text().splitlines()[::30]
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    (tmp_path / "images").symlink_to(cases / "images")
    assert vk.evaluate_winoground(vk.LikelihoodScorer(lvlm), tmp_path).group.percent == 100
    assert vk.evaluate_winoground(vk.Embedder(lvlm), tmp_path).group.percent < 60

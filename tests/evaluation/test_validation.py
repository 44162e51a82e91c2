"""Benchmarks as validation give the numbers of their evaluations."""

from zlib import crc32

import datasets
import pytest
import torch
from tiny import fit, small, tiny_embedder, tiny_pairs
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.embedder.identity import image_key
from vladva_kit.evaluation.winoground import load_winoground
from vladva_kit.models.images import open_image

pytestmark = pytest.mark.usefixtures("one_thread")


class RandomEncoder:
    """An encoder whose embeddings are random, and the same for the same content."""

    def encode_text(self, texts, **_):
        seeds = [crc32(text.encode()) for text in texts]
        rows = [torch.randn(8, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return F.normalize(torch.stack(rows), dim=-1)

    def encode_image(self, images, **_):
        return self.encode_text([image_key(open_image(image)) for image in images])

    def similarity(self, images, texts):
        return images @ texts.T


@pytest.fixture
def folder(tmp_path):
    """The first cases of winoground_mini, as the official files."""
    lines = (vk.sample("winoground_mini") / "examples.jsonl").read_text().splitlines()
    (tmp_path / "examples.jsonl").write_text("\n".join(lines[:20]))
    (tmp_path / "images").symlink_to(vk.sample("winoground_mini") / "images")
    return tmp_path


def test_metrics_are_those_of_the_evaluations(folder):
    encoder, pairs = RandomEncoder(), [pair for pair in tiny_pairs(9) if pair.short]
    metrics, expected = vk.metrics_on(folder, pairs)(encoder), vk.evaluate_winoground(encoder, folder)
    for name in ("group", "text", "image"):
        assert metrics[f"winoground_{name}"] == pytest.approx(getattr(expected, name).percent)
        assert 0 < metrics[f"winoground_{name}"] < 100
    assert next(iter(metrics)) == "winoground_group"
    assert metrics["mean_r1"] == pytest.approx((metrics["image_to_text_r1"] + metrics["text_to_image_r1"]) / 2)
    assert list(vk.metrics_on(pairs, folder)(encoder))[0] == "mean_r1"


def test_winoground_is_recognized_as_a_dataset_too(folder):
    case = load_winoground(folder)[0]
    row = {"id": 0} | {f"image_{n}": case.images[n].read_bytes() for n in (0, 1)}
    row |= {f"caption_{n}": case.captions[n] for n in (0, 1)}
    dataset = datasets.Dataset.from_list([row])
    for source in (dataset, datasets.DatasetDict(test=dataset)):
        assert set(vk.metrics_on(source)(RandomEncoder())) == {f"winoground_{n}" for n in ("group", "text", "image")}


def test_they_are_in_the_history_and_decide_when_to_stop(folder):
    settings = small(steps=5, validate_every=1, learning_rate=0.0)  # nothing changes, so the first is the best
    history = fit(tiny_embedder(), settings, validation=vk.metrics_on(folder), early_stopping=1)
    assert [row["step"] for row in history] == [1, 2] and history[1]["eval_winoground_group"] >= 0


def test_no_source_two_of_a_kind_and_unusable_data_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no source"):
        vk.metrics_on()
    with pytest.raises(ValueError, match="two of a kind"):
        vk.metrics_on(tiny_pairs(3), tiny_pairs(4))
    with pytest.raises(vk.BadInput, match="is not a folder"):
        vk.metrics_on(tmp_path / "missing")

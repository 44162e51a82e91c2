"""What a batch holds, and which pairs share one when batches are grouped by length."""

import random

import pytest
import torch
from PIL import Image
from tiny import fit, small, tiny_embedder, tiny_pairs

import vladva_kit as vk
from vladva_kit.data import pairs as data_pairs
from vladva_kit.embedder.identity import image_key
from vladva_kit.embedder.prompts import IGNORE_INDEX, encode_caption
from vladva_kit.training.collator import ByLength, Collator, SampledCaptions

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_pair_without_one_caption_contributes_the_other():
    embedder, pairs = tiny_embedder(), tiny_pairs(6)
    batch = Collator(embedder)(pairs)["batch"]
    assert batch.paired.tolist() == [i for i, pair in enumerate(pairs) if pair.short] == [0, 1, 2, 3, 5]
    assert len(batch.texts.summary_positions) == len(batch.keys) == 5
    tokenizer = embedder.lvlm.processor.tokenizer
    for pair, labels in zip(pairs, batch.images.labels, strict=True):
        targets = labels[labels != IGNORE_INDEX].tolist()
        assert targets == ([*encode_caption(tokenizer, pair.long), tokenizer.eos_token_id] if pair.long else [])
    assert len(batch.negatives.summary_positions) == len(batch.negative_keys) == 2


def test_a_batch_tokenizes_its_captions_in_one_call_and_the_checks_tokenize_all_in_one(monkeypatch):
    embedder, pairs, calls = tiny_embedder(), tiny_pairs(6), []
    captions = [text for pair in pairs for text in (pair.short, pair.long, *pair.negatives) if text]
    kind = type(embedder.lvlm.processor.tokenizer)
    call = kind.__call__
    monkeypatch.setattr(kind, "__call__", lambda self, text, **o: calls.append(text) or call(self, text, **o))
    fit(embedder, small(steps=1, warmup=0), pairs)
    checked, batch = (texts for texts in calls if set(texts) & set(captions))
    assert sorted(checked) == sorted(set(captions)) and sorted(batch) == sorted(captions)


def test_each_image_is_hashed_once_in_all_batches(monkeypatch):
    hashed = []
    monkeypatch.setattr(data_pairs, "image_key", lambda image: hashed.append(1) or image_key(image))
    embedder, images = tiny_embedder(), [pair.image for pair in tiny_pairs(3)]
    pairs = [vk.Pair(image, f"caption {number}") for number, image in enumerate(images)]
    batches = [Collator(embedder)(pairs)["batch"] for _ in range(3)]
    assert len(hashed) == 3 and torch.equal(batches[0].keys, batches[2].keys)


def test_equal_content_has_an_equal_key_and_a_recolored_palette_another(tmp_path):
    red, blue = (Image.new("RGB", (64, 64), color).quantize() for color in ("red", "blue"))
    for name in ("one.png", "two.png"):
        red.save(tmp_path / name)
    images = [red, blue, tmp_path / "one.png", tmp_path / "two.png"]
    pairs = [vk.Pair(image, f"{number} walls") for number, image in enumerate(images)]
    keys = Collator(tiny_embedder())(pairs)["batch"].keys[:, 1]
    assert keys[2] == keys[3] and len(set(keys.tolist())) == 3


def test_without_the_next_token_loss_long_captions_are_left_out():
    batch = Collator(tiny_embedder(), next_token=False)(tiny_pairs(4))["batch"]
    assert batch.images.labels is None
    assert set((batch.images.inputs["attention_mask"].sum(1) - 1 - batch.images.summary_positions).tolist()) == {0}


@pytest.fixture(scope="module")
def many_pairs():
    """640 pairs with long captions of many lengths; some have none."""
    rng, image = random.Random(0), Image.new("RGB", (8, 8))
    return [vk.Pair(image, "a dog", None if n % 9 == 0 else "dog " * rng.randint(30, 200)) for n in range(640)]


def padding_share(pairs, order, size):
    """Return the share of characters that are padding if each batch is as long as its longest caption."""
    lengths = [len(pairs[index].long or "") for index in order]
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    return 1 - sum(lengths) / sum(max(batch) * len(batch) for batch in batches)


def test_grouping_by_length_uses_each_pair_once_and_reduces_padding(many_pairs):
    order = list(ByLength(many_pairs, 16, seed=0))
    assert sorted(order) == list(range(640)) and len(ByLength(many_pairs, 16, seed=0)) == 640
    shuffled = torch.randperm(640, generator=torch.Generator().manual_seed(0)).tolist()
    assert padding_share(many_pairs, order, 16) < 0.25 * padding_share(many_pairs, shuffled, 16)


def test_the_longest_captions_come_first(many_pairs):
    order = list(ByLength(many_pairs, 16, seed=0))
    assert len(many_pairs[order[0]].long) == max(len(pair.long or "") for pair in many_pairs)


def test_the_order_depends_only_on_seed_and_epoch(many_pairs):
    first, again, other_seed = (ByLength(many_pairs, 16, seed=seed) for seed in (0, 0, 1))
    epoch_0 = list(first)
    first.set_epoch(1)
    again.set_epoch(1)
    assert list(first) == list(again) != epoch_0 != list(other_seed)


def test_all_captions_of_a_pair_are_trained_on_and_a_resumed_run_repeats_them(tmp_path):
    """Twelve pairs with three captions each: the run sees more than the first, the same ones after a resume."""
    pairs = [
        vk.Pair(Image.new("RGB", (64, 64), (20 * n, 0, 0)), captions=[f"a dog {word} {n}" for word in "xyz"])
        for n in range(12)
    ]
    seen = []

    class Recording(SampledCaptions):
        def __getitem__(self, index):
            seen.append((self.epoch, index, super().__getitem__(index).short))
            return super().__getitem__(index)

    def losses(**changes):
        seen.clear()
        settings = vk.Settings(**{"steps": 6, "batch_size": 4, "warmup": 1, "save_every": 4, **changes})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vladva_kit.training.fit.SampledCaptions", Recording)
            return [row["loss"] for row in vk.fit(tiny_embedder(), pairs, settings, progress=False)]

    whole, all_seen = losses(), set(seen)
    assert {epoch for epoch, _, _ in all_seen} == {0, 1}
    assert len({text for _, _, text in all_seen}) > 12  # more than one caption per pair
    assert any(text.split()[2] != "x" for _, _, text in all_seen)
    stop = iter([False] * 3 + [True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vladva_kit.training.fit.SampledCaptions", Recording)
        settings = vk.Settings(steps=6, batch_size=4, warmup=1, save_every=4, output_dir=str(tmp_path))
        vk.fit(tiny_embedder(), pairs, settings, progress=False, deadline=lambda: next(stop))
    assert losses(output_dir=str(tmp_path), resume=True) == pytest.approx(whole)
    assert {epoch for epoch, _, _ in seen} == {1} and set(seen) <= all_seen


def test_one_caption_per_pair_changes_nothing():
    pairs = tiny_pairs(4)
    sampled = SampledCaptions(pairs, seed=0)
    assert [sampled[index] for index in range(4)] == pairs and sampled[0] is pairs[0]


@pytest.mark.parametrize(
    ("pairs", "batch_size", "warning"),
    [
        ([vk.Pair(Image.new("RGB", (64, 64)), short=f"a dog {n}") for n in range(2)], 1, "one pair has no negatives"),
        ([vk.Pair(Image.new("RGB", (64, 64)), long="a dog " * 30) for n in range(2)], 2, "no pair has a short caption"),
    ],
)
def test_a_run_without_a_contrastive_loss_says_so(pairs, batch_size, warning):
    with pytest.warns(UserWarning, match=warning):
        vk.fit(tiny_embedder(), pairs, vk.Settings(steps=1, batch_size=batch_size), progress=False)

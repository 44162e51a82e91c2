"""Which pairs share a batch: grouped by length, each once an epoch, in an order that a resumed run finds again."""

import random

import pytest
import torch
from PIL import Image
from tiny import tiny_embedder, tiny_pairs

import vladva_kit as vk
from vladva_kit.training.collator import ByLength

PICTURE = Image.new("RGB", (8, 8))


@pytest.fixture(scope="module")
def many():
    """Pairs of long captions of many lengths, some without one."""
    rng = random.Random(0)
    return [vk.Pair(PICTURE, "a dog", None if n % 9 == 0 else "dog " * rng.randint(30, 200)) for n in range(640)]


def padding(pairs, order, size):
    """The share of letters that are padding, where each batch is as long as its longest caption."""
    lengths = [len(pairs[number].long or "") for number in order]
    batches = [lengths[at : at + size] for at in range(0, len(lengths), size)]
    return 1 - sum(lengths) / sum(max(batch) * len(batch) for batch in batches)


def test_each_pair_comes_once_and_like_lengths_together(many):
    order = list(ByLength(many, 16, seed=0))
    assert sorted(order) == list(range(640))
    anyhow = torch.randperm(640, generator=torch.Generator().manual_seed(0)).tolist()
    assert padding(many, order, 16) < 0.25 * padding(many, anyhow, 16)


def test_the_order_follows_from_seed_and_epoch_alone(many):
    first, again, other = ByLength(many, 16, seed=0), ByLength(many, 16, seed=0), ByLength(many, 16, seed=1)
    orders = [list(first)]
    first.set_epoch(1)
    orders.append(list(first))
    again.set_epoch(1)
    assert list(again) == orders[1] != orders[0] != list(other)


def test_fit_takes_the_grouped_order_and_a_resumed_run_goes_on_in_it(tmp_path):
    pairs = [pair for pair in tiny_pairs(13) if pair.short]
    seen = []

    def run(folder, deadline=None, **changes):
        embedder = tiny_embedder()
        settings = vk.Settings(steps=5, batch_size=4, warmup=1, group_by_length=True, output_dir=str(folder),
                               save_every=1, **changes)  # fmt: skip
        seen.append(vk.fit(embedder, pairs, settings, progress=False, deadline=deadline))
        return embedder.encode_text(["a dog on the car"])

    whole = run(tmp_path / "whole")
    told = iter([False, False, False, True])  # stopped in the second epoch
    run(tmp_path / "halted", lambda: next(told))
    assert torch.allclose(run(tmp_path / "halted", resume=True), whole, atol=1e-6)
    ordered = ByLength(pairs, 4, seed=0)
    learned = [sum(len(pairs[n].long or "") for n in list(ordered)[at : at + 4]) for at in (0, 4)]
    assert learned[0] > learned[1]  # the longest come first
    assert [row["loss"] for row in seen[2]] == pytest.approx([row["loss"] for row in seen[0]], rel=1e-5)

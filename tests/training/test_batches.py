"""Fine-tuning on composed batches: what the step sees, on one process, with cached gradients and after a resume."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tiny import tiny_embedder, tiny_lvlm, tiny_pairs

import vladva_kit as vk
from vladva_kit.data.hard_batches import Mining
from vladva_kit.training import batches
from vladva_kit.training.collator import Collator

pytestmark = pytest.mark.usefixtures("one_thread")
MIX = {"groups": 0.5, "mined": 0.25, "random": 0.25}


def grouped_pairs(n=24):
    """Pairs of which the first half form groups of two; every image and caption is different."""
    pairs = []
    for i, pair in enumerate(tiny_pairs(n)):
        group = f"twins {i // 2}" if i < n // 2 else None
        pairs.append(
            vk.Pair(pair.image, f"a dog near the {('red', 'blue', 'small')[i % 3]} car {i}", pair.long, group=group)
        )
    return pairs


def settings(**changes):
    return vk.Settings(
        **{"steps": 3, "batch_size": 8, "warmup": 1, "batches": MIX, "mining": Mining(margin=None), **changes}
    )


def seen_by(monkeypatch, run):
    """Return the short captions of every batch that the collator builds during `run`."""
    batches, original = [], Collator.__call__
    monkeypatch.setattr(
        Collator, "__call__", lambda self, pairs: batches.append([p.short for p in pairs]) or original(self, pairs)
    )
    run()
    monkeypatch.undo()
    return batches


def test_pairs_of_a_group_share_every_batch(monkeypatch):
    pairs = grouped_pairs()
    batches = seen_by(monkeypatch, lambda: vk.fit(tiny_embedder(), pairs, settings(), progress=False))
    groups = {}
    for pair in pairs:
        groups.setdefault(pair.group, set()).add(pair.short)
    groups.pop(None)
    for batch in batches[:3]:
        complete = [group for group in groups.values() if group <= set(batch)]
        assert len(complete) >= 2 and len(set(batch)) == 8


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(monkeypatch):
    runs = [
        seen_by(monkeypatch, lambda s=seed: vk.fit(tiny_embedder(), grouped_pairs(), settings(seed=s), progress=False))
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_cached_gradients_see_the_same_batches():
    histories = [
        vk.fit(tiny_embedder(), grouped_pairs(), settings(micro_batch_size=rows), progress=False) for rows in (None, 3)
    ]
    for plain, cached in zip(*histories, strict=True):
        assert cached["loss"] == pytest.approx(plain["loss"], rel=1e-4)


@pytest.mark.parametrize("changes", [{"distill_weight": 0.5}, {"batches": None, "group_by_length": True}], ids=str)
def test_the_number_of_workers_changes_no_batch(changes):
    pairs = [replace(pair, captions=(pair.short, f"{pair.short} here")) for pair in grouped_pairs()]
    alone, helped = [
        [row["loss"] for row in vk.fit(tiny_embedder(), pairs, settings(steps=4, workers=workers, **changes),
                                       progress=False)]
        for workers in (0, 2)
    ]  # fmt: skip
    assert helped == alone and len(alone) == 4  # an epoch has three


@pytest.mark.parametrize("refresh", [None, 2])
def test_a_resumed_run_ends_where_an_uninterrupted_one_ends(tmp_path, refresh):
    def run(folder, steps_until=None, resume=False):
        calls = iter(range(100))
        embedder = tiny_embedder()
        history = vk.fit(
            embedder,
            grouped_pairs(),
            settings(steps=5, save_every=1, output_dir=str(tmp_path / folder), resume=resume,
                     mining=Mining(margin=None, refresh_every=refresh)),
            progress=False,
            deadline=(lambda: next(calls) >= steps_until) if steps_until else None,
        )  # fmt: skip
        return history, embedder.encode_text(["a dog near the red car"])

    whole, expected = run("whole")
    run("halted", steps_until=3)
    resumed, vector = run("halted", resume=True)
    assert [row["step"] for row in resumed] == [1, 2, 3, 4, 5]
    if refresh is None:
        assert torch.allclose(vector, expected, atol=1e-5)
    assert (tmp_path / "halted" / "checkpoint-5" / "neighbors.safetensors").exists() == (refresh is not None)


def test_neighbors_are_mined_again_with_the_trained_embedder(monkeypatch):
    calls = []
    original = batches.mine_neighbors
    monkeypatch.setattr(batches, "mine_neighbors", lambda e, *a, **k: calls.append(e.adapted) or original(e, *a, **k))
    vk.fit(
        tiny_embedder(), grouped_pairs(), settings(steps=5, mining=Mining(margin=None, refresh_every=2)), progress=False
    )
    assert calls == [False, True, True]  # the base first, then after steps 2 and 4


def test_captions_of_one_image_are_not_each_others_negatives():
    embedder = tiny_embedder()
    images = [pair.image for pair in tiny_pairs(3)]
    pairs = [vk.Pair(images[0], "a dog"), vk.Pair(images[0].copy(), "a cat near a car"), vk.Pair(images[1], "two cars")]
    batch = Collator(embedder)(pairs)["batch"]
    shared = (batch.keys[:, None] == batch.keys).any(-1)
    assert shared.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_unusable_combinations_are_refused():
    with pytest.raises(ValueError, match="use one of them"):
        vk.fit(tiny_embedder(), grouped_pairs(), settings(group_by_length=True), progress=False)
    with pytest.raises(ValueError, match="sum to 1"):
        vk.fit(tiny_embedder(), grouped_pairs(), settings(batches={"groups": 0.5}), progress=False)


def test_cached_neighbors_are_reused_for_the_same_model_and_data_only(tmp_path, monkeypatch):
    calls, original = [], batches.mine_neighbors
    monkeypatch.setattr(batches, "mine_neighbors", lambda *a, **k: calls.append(1) or original(*a, **k))
    chosen = settings(steps=1, mining=Mining(margin=None, cache=str(tmp_path / "neighbors")))
    histories = [vk.fit(tiny_embedder(), grouped_pairs(), chosen, progress=False) for _ in range(2)]
    assert len(calls) == 1 and histories[0][0]["loss"] == histories[1][0]["loss"]
    with pytest.raises(ValueError, match="pairs: .* in the folder"):
        vk.fit(tiny_embedder(), grouped_pairs(20), chosen, progress=False)


def test_mining_and_training_encode_each_image_once_if_features_are_cached(monkeypatch):
    rows, histories = [], []
    for cache_images in (None, "memory"):
        embedder = tiny_embedder()
        tower = embedder.lvlm.model.model.vision_tower
        forward = tower.forward
        monkeypatch.setattr(tower, "forward", lambda x, f=forward, **o: rows.append(len(x)) or f(x, **o))
        rows.clear()
        mining = Mining(margin=0.0, by="image", refresh_every=2)
        histories.append(
            vk.fit(embedder, grouped_pairs(), settings(cache_images=cache_images, mining=mining), progress=False)
        )
    assert sum(rows) == len(grouped_pairs()) + 1  # one more, to know the size
    assert [row["loss"] for row in histories[1]] == pytest.approx([row["loss"] for row in histories[0]], rel=1e-4)


def test_neighbors_of_a_replaced_image_are_not_reused(tmp_path):
    pairs = []
    for number, pair in enumerate(grouped_pairs()):
        pair.image.save(tmp_path / f"{number}.png")
        pairs.append(vk.Pair(tmp_path / f"{number}.png", pair.short, pair.long, group=pair.group))
    chosen = settings(steps=1, mining=Mining(margin=None, cache=str(tmp_path / "neighbors")))
    vk.fit(tiny_embedder(), pairs, chosen, progress=False)
    Image.new("RGB", (64, 64), "white").save(tmp_path / "3.png")
    with pytest.raises(ValueError, match="pairs: [0-9a-f]{12} in the folder, [0-9a-f]{12} now"):
        vk.fit(tiny_embedder(), pairs, chosen, progress=False)
    other = vk.attach(tiny_lvlm(), quiet=True, prompts=("one word:", "one word:"))
    with pytest.raises(ValueError, match="model.prompts: .* in the folder, .*one word.* now"):
        vk.fit(other, pairs, chosen, progress=False)

"""Several processes: what they compute together is what one computes alone on the same global batch."""

import os
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import gradients, largest_difference, tiny_embedder, tiny_pairs

import vladva_kit as vk
from vladva_kit.models.device import world_size
from vladva_kit.training.distributed import (
    average_gradients,
    contrastive_over_ranks,
    gather_rows,
    inside,
    mean_over_ranks,
)
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.losses import caption_keys, contrastive
from vladva_kit.training.trainer import Collator, step_losses

# 7 pairs, shared unevenly; pair 4 has no short caption, so that one of four ranks has none at all
SHARES = {1: [(0, 7)], 2: [(0, 4), (4, 7)], 4: [(0, 2), (2, 4), (4, 5), (5, 7)]}
CHUNKS = (None, 2)  # in one graph, and cached


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_process(number: int, world: int, port: int, function, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=number, world_size=world)
    try:
        torch.save(function(number, world), Path(folder) / f"{number}.pt")
    finally:
        dist.destroy_process_group()


def on_ranks(function, world: int, folder: Path) -> list:
    """What `function(rank, world)` returns in each of `world` processes."""
    mp.spawn(in_process, (world, free_port(), function, str(folder)), nprocs=world)
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in range(world)]


def a_batch(embedder, number: int, world: int, only_long: bool = False):
    pairs = tiny_pairs(7)[slice(*SHARES[world][number])]
    if only_long:
        pairs = [vk.Pair(pair.image, long=pair.long or "a dog") for pair in pairs]
    return Collator(embedder)(pairs)["batch"]


def a_step(embedder, batch, weight: float, rows: int | None) -> dict[str, torch.Tensor]:
    if rows is not None:
        return cached_step(embedder, batch, weight, rows=rows)[0]
    figures = step_losses(embedder, batch, weight)
    figures["loss"].backward()
    return figures


def steps(number: int, world: int) -> list[tuple[dict, dict]]:
    """Figures and averaged gradients of this rank's share: contrastive alone, both losses, next-token alone."""
    embedder, found = tiny_embedder(), []
    for weight, only_long in ((0.0, False), (1.0, False), (1.0, True)):
        for rows in CHUNKS:
            figures = a_step(embedder, a_batch(embedder, number, world, only_long), weight, rows)
            average_gradients(embedder.lvlm.model.parameters())
            found.append((mean_over_ranks(figures), gradients(embedder)))
    return found


def sharded_steps(number: int, world: int) -> list[tuple[dict, dict]]:
    """Both losses on weights that FSDP2 has sharded over the ranks."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    embedder, found = tiny_embedder(), []
    batch, adapter = a_batch(embedder, number, world), embedder.lvlm.adapter
    mesh = dist.init_device_mesh("cpu", (world,))
    for layer in embedder.lvlm.model.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(adapter, mesh=mesh)
    learning = {name: weight for name, weight in embedder.lvlm.model.named_parameters() if weight.requires_grad}
    assert all(isinstance(weight, DTensor) for weight in learning.values())
    for rows in CHUNKS:
        if rows is None:
            figures = inside(adapter, step_losses, embedder, batch)
            figures["loss"].backward()
        else:
            figures, _ = cached_step(embedder, batch, rows=rows, run=partial(inside, adapter))
        found.append((mean_over_ranks(figures), {name: w.grad.full_tensor() for name, w in learning.items()}))
        adapter.zero_grad()
    return found


def a_shortage(number: int, world: int) -> tuple[int, dict]:
    """The second rank runs out of memory, the first does not."""
    embedder = tiny_embedder()
    real = embedder.hidden_states

    def short_of_memory(sequences):
        if number == 1 and len(sequences.summary) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(sequences)

    embedder.hidden_states = short_of_memory
    _, rows = cached_step(embedder, a_batch(embedder, number, world), rows=4)
    average_gradients(embedder.lvlm.model.parameters())
    return rows, gradients(embedder)


def a_fit(rows: int | None, batch_size: int = 8, grouped: bool = False) -> tuple[list[dict], dict[str, torch.Tensor]]:
    embedder = tiny_embedder()
    settings = vk.Settings(steps=2, batch_size=batch_size, warmup=1, micro_batch_size=rows, group_by_length=grouped)
    history = vk.fit(embedder, tiny_pairs(17), settings, progress=False)
    return history, {n: p.detach().clone() for n, p in embedder.lvlm.model.named_parameters() if p.requires_grad}


def all_parts(number: int, world: int) -> dict:
    with pytest.raises(ValueError, match="cannot be shared") as refused:
        a_fit(None, batch_size=7)
    return {
        "steps": steps(number, world),
        "shortage": a_shortage(number, world),
        "fits": [a_fit(rows) for rows in CHUNKS],
        "grouped": [a_fit(2, grouped=True)],
        "refusal": str(refused.value),
        "sharded": sharded_steps(number, world),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """All that two processes found."""
    return on_ranks(all_parts, 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def alone():
    """The one process's steps."""
    return steps(0, 1)


def assert_equal(found: tuple[dict, dict], wanted: tuple[dict, dict]) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    learned = {name for name, gradient in wanted[1].items() if gradient.abs().sum() > 0}
    assert len(learned) > 5
    assert largest_difference({n: found[1][n] for n in learned}, {n: wanted[1][n] for n in learned}) < 1e-5


def test_two_processes_losses_and_gradients_are_one_processs_on_the_global_batch(two, alone):
    for parts in two:
        for found, wanted in zip(parts["steps"], alone, strict=True):
            assert_equal(found, wanted)


def test_four_processes_losses_and_gradients_are_one_processs_on_the_global_batch(alone, tmp_path):
    for parts in on_ranks(steps, 4, tmp_path):
        for found, wanted in zip(parts, alone, strict=True):
            assert_equal(found, wanted)


def test_on_weights_sharded_by_fsdp2_losses_and_gradients_are_the_same(two, alone):
    for parts in two:
        for found in parts["sharded"]:
            assert_equal(found, alone[2])  # both losses, in one graph


@pytest.mark.parametrize("kind", ["fits", "grouped"])
def test_fit_on_two_ranks_is_fit_on_one(two, kind):
    history, weights = a_fit(None, grouped=kind == "grouped")
    for parts in two:
        for found, learned in parts[kind]:
            for name in ("loss", "contrastive", "next_token", "accuracy", "temperature"):
                assert [row[name] for row in found] == pytest.approx([row[name] for row in history], rel=1e-4)
            assert all(torch.allclose(learned[name], weights[name], atol=1e-4) for name in weights)


def test_one_ranks_lack_of_memory_halves_the_chunk_on_all(two, alone):
    for parts in two:
        rows, found = parts["shortage"]
        assert rows == 2 and largest_difference(found, alone[2][1]) < 1e-5


def test_a_batch_that_the_ranks_cannot_share_is_refused(two):
    assert all("7 pairs cannot be shared by 2 ranks: take a multiple of 2" in parts["refusal"] for parts in two)


def test_one_process_alone_needs_no_group():
    assert world_size() == 1
    rows = torch.randn(3, 4)
    assert gather_rows(rows, [3]) is rows
    captions = ["a dog", "a cat", "A  dog"]
    images, texts = torch.eye(3, 4), torch.eye(3, 4).roll(1, 0)
    same = torch.tensor([[False, False, True], [False] * 3, [True, False, False]])
    found, _ = contrastive_over_ranks(images, texts, lambda cosines: cosines * 3, caption_keys(captions))
    assert torch.equal(found, contrastive(images, texts, lambda cosines: cosines * 3, same)[0])

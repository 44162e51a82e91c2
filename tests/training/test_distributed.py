"""Several ranks compute what one process computes on the same global batch: losses, gradients and training runs."""

import json
import os
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.state import PartialState
from safetensors.torch import load_file, save_file
from sharding_on_cpus import init_as_on_accelerators
from tiny import gradients, largest_difference, tiny_embedder, tiny_pairs
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import vladva_kit as vk
from vladva_kit.data.hard_batches import Mining, caption_keys
from vladva_kit.embedder.adapter import adapter_state
from vladva_kit.models.device import world_size
from vladva_kit.training import distillation, distributed, losses
from vladva_kit.training.collator import Collator
from vladva_kit.training.distillation import candidates_of, score_candidates
from vladva_kit.training.distributed import (
    average_gradients,
    contrastive_over_ranks,
    gather_rows,
    mean_over_ranks,
    run_in_forward,
)
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.losses import contrastive_loss
from vladva_kit.training.trainer import step_losses

# The indices of 7 pairs on each rank. Pair 4 has no short caption, 2 and 5 have no long one, 1 and 5 have negatives, so
# some ranks lack texts, long captions or negatives.
SHARES = {
    1: [[0, 1, 2, 3, 4, 5, 6]],
    2: [[0, 1, 3, 4, 5, 6], [2]],
    4: [[0, 1], [2, 3], [4], [5, 6]],
}
WITHOUT_TEXTS = [[0, 1, 2, 3, 5, 6], [4]]
MICRO_BATCHES = (None, 2)  # one graph, and cached gradients
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}


def pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Return a value as JSON and move its tensors to `tensors`."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": {key: pack(item, tensors) for key, item in value.items()}}
    return [pack(item, tensors) for item in value] if isinstance(value, list | tuple) else value


def unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: unpack(item, tensors) for key, item in value["dict"].items()}
    return [unpack(item, tensors) for item in value] if isinstance(value, list) else value


def run_rank(rank: int, world: int, port: int, function: Any, folder: str, environment: dict[str, str]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "HF_HUB_OFFLINE": "1", **environment}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    tensors: dict[str, torch.Tensor] = {}
    try:
        (Path(folder) / f"{rank}.json").write_text(json.dumps(pack(function(rank, world), tensors)))
        save_file(tensors, Path(folder) / f"{rank}.safetensors")
    finally:
        dist.destroy_process_group()


def on_ranks(function: Any, world: int, folder: Path, **environment: str) -> list:
    """Run `function(rank, world)` in `world` processes; return their results."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(run_rank, (world, port, function, str(folder), environment), nprocs=world)
    return [
        unpack(json.loads((folder / f"{rank}.json").read_text()), load_file(folder / f"{rank}.safetensors"))
        for rank in range(world)
    ]


def batch_of(embedder, indices, only_long=False):
    pairs = [tiny_pairs(7)[index] for index in indices]
    if only_long:
        pairs = [vk.Pair(pair.image, long=pair.long or "a dog") for pair in pairs]
    return Collator(embedder)(pairs)["batch"]


def run_steps(rank: int, world: int) -> list:
    """Return metrics and gradients, averaged over ranks: the contrastive loss, both losses, the next-token loss."""
    embedder, results = tiny_embedder(), []
    for weight, only_long in ((0.0, False), (1.0, False), (1.0, True)):
        for rows in MICRO_BATCHES:
            batch = batch_of(embedder, SHARES[world][rank], only_long)
            if rows is None:
                metrics = step_losses(embedder, batch, weight)
                metrics["loss"].backward()
            else:
                metrics, _ = cached_step(step_losses, embedder, batch, weight, rows=rows)
            average_gradients(embedder.lvlm.model.parameters())
            results.append((mean_over_ranks(metrics), gradients(embedder)))
    return results


def run_sharded_steps(rank: int, world: int) -> list:
    """Return metrics and gradients of both losses on weights sharded by FSDP2; ranks differ in their forward passes."""
    embedder, results = tiny_embedder(), []
    model, adapter = embedder.lvlm.model, embedder.lvlm.adapter
    mesh = dist.init_device_mesh("cpu", (world,))
    for layer in model.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(adapter, mesh=mesh)
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(isinstance(weight, DTensor) for weight in trainable.values())
    for share in (SHARES[world], WITHOUT_TEXTS):
        for rows in MICRO_BATCHES:
            batch = batch_of(embedder, share[rank])
            if rows is None:
                metrics = run_in_forward(adapter, step_losses, embedder, batch)
                metrics["loss"].backward()
            else:
                metrics, _ = cached_step(step_losses, embedder, batch, rows=rows, run=partial(run_in_forward, adapter))
            full = {name: weight.grad.full_tensor() for name, weight in trainable.items()}
            results.append((mean_over_ranks(metrics), full))
            adapter.zero_grad()
    return results


def run_out_of_memory(rank: int, world: int) -> tuple:
    """Return chunk size and gradients of a step in which only rank 0 runs out of memory."""
    embedder = tiny_embedder()
    hidden_states = embedder.hidden_states

    def limited(inputs):
        if rank == 0 and len(inputs.summary_positions) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden_states(inputs)

    embedder.hidden_states = limited
    _, rows = cached_step(step_losses, embedder, batch_of(embedder, SHARES[world][rank]), rows=4)
    average_gradients(embedder.lvlm.model.parameters())
    return rows, gradients(embedder)


def fit(rows: int | None, batch_size: int = 8, group_by_length: bool = False, sharded: bool = False) -> tuple:
    """Return history and adapter of two steps, each followed by a validation."""
    embedder, settings = tiny_embedder(), {"warmup": 1, "validate_every": 1, "group_by_length": group_by_length}
    settings = vk.Settings(steps=2, batch_size=batch_size, micro_batch_size=rows, **settings)
    history = vk.fit(embedder, tiny_pairs(17), settings, validation=tiny_pairs(9), progress=False)
    assert any(isinstance(weight, DTensor) for weight in embedder.lvlm.model.parameters()) == sharded
    return history, adapter_state(embedder.lvlm)


def fit_on_hard_batches(sharded: bool = False, **changes: Any) -> tuple:
    """Return history and adapter of three steps on groups and mined neighbors that are mined again after the second."""
    embedder = tiny_embedder()
    pairs = [replace(pair, group=None if n % 4 else f"{n // 8}") for n, pair in enumerate(tiny_pairs(24))]
    batches = {"groups": 0.25, "mined": 0.5, "random": 0.25}
    options = {"batches": batches, "mining": Mining("image", margin=None, refresh_every=2), "warmup": 1, **changes}
    settings = vk.Settings(steps=3, batch_size=8, validate_every=1, **options)
    history = vk.fit(embedder, pairs, settings, validation=tiny_pairs(9), progress=False)
    assert any(isinstance(weight, DTensor) for weight in embedder.lvlm.model.parameters()) == sharded
    return history, adapter_state(embedder.lvlm)


def run_hard_batches(rank: int, world: int, folder: str, sharded: bool = False) -> list:
    """Train on hard batches and with distillation, in one graph and with cached gradients and features."""
    if sharded:
        PartialState.__init__ = init_as_on_accelerators
    cached = {"micro_batch_size": 2, "cache_images": f"{folder}/features-{sharded}"}
    teacher = f"{folder}/teacher-{sharded}"
    return [
        fit_on_hard_batches(sharded),
        fit_on_hard_batches(sharded, **cached),
        fit_on_hard_batches(sharded, mining=Mining(margin=None), distill_weight=1.0, distill_cache=teacher),
    ]


def run_distillation(rank: int, world: int, share: list[list[int]]) -> list:
    """Return metrics and gradients of steps that distill scores of candidates on this and on other ranks."""
    embedder, results = tiny_embedder(), []
    teacher = score_candidates(embedder, candidates_of([tiny_pairs(7)]), 0.2)
    losses = partial(step_losses, distill_weight=2.0)
    for rows in MICRO_BATCHES:
        batch = Collator(embedder, teacher=teacher)([tiny_pairs(7)[index] for index in share[rank]])["batch"]
        if rows is None:
            metrics = losses(embedder, batch)
            metrics["loss"].backward()
        else:
            metrics, _ = cached_step(losses, embedder, batch, rows=rows)
        average_gradients(embedder.lvlm.model.parameters())
        results.append((mean_over_ranks(metrics), gradients(embedder)))
    return results


def fit_with_distillation(folder: str) -> tuple:
    """Return history and adapter of two steps that distill scores which the ranks compute together."""
    distillation.IMAGES_PER_SHARD = 3
    embedder = tiny_embedder()
    settings = vk.Settings(steps=2, batch_size=8, warmup=1, validate_every=1, distill_weight=1.0, distill_cache=folder)
    history = vk.fit(embedder, tiny_pairs(17), settings, validation=tiny_pairs(9), progress=False)
    return history, adapter_state(embedder.lvlm)


def run_distillation_on_two_ranks(rank: int, world: int, folder: str) -> dict:
    scored, score = [], distillation.likelihood
    distillation.likelihood = lambda *arguments, **options: scored.append(1) or score(*arguments, **options)
    return {
        "steps": [run_distillation(rank, world, share) for share in (SHARES[world], WITHOUT_TEXTS)],
        "n_before": len(scored),
        "fit": fit_with_distillation(folder),
        "n_shards": len(scored),
    }


def run_two_ranks(rank: int, world: int) -> dict:
    with pytest.raises(ValueError, match="cannot be divided") as error:
        fit(None, batch_size=7)
    return {
        "steps": run_steps(rank, world),
        "shortage": run_out_of_memory(rank, world),
        "fits": [fit(rows) for rows in MICRO_BATCHES],
        "grouped": [fit(2, group_by_length=True)],
        "error": str(error.value),
        "sharded": run_sharded_steps(rank, world),
    }


def run_sharded_fits(rank: int, world: int) -> list:
    """Train with accelerate's FSDP2."""
    PartialState.__init__ = init_as_on_accelerators
    losses.MAX_LOGITS_PER_CHUNK = 2000  # several chunks, whose number differs between ranks
    return [fit(rows, sharded=True) for rows in MICRO_BATCHES]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return on_ranks(run_two_ranks, 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def one_process():
    """The steps of one process."""
    return run_steps(0, 1)


@pytest.fixture(scope="module")
def one_process_fit():
    return fit(None)


def test_all_ranks_decide_by_the_first_ranks_metrics(monkeypatch):
    assert distributed.first_ranks({"score": 1.0}) == {"score": 1.0}
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(dist, "broadcast_object_list", lambda values, src: values.__setitem__(src, {"score": 2.0}))
    assert distributed.first_ranks({"score": 1.0}) == {"score": 2.0}


def assert_same_step(result, expected):
    assert result[0] == pytest.approx(expected[0], rel=1e-5)
    used = {name for name, gradient in expected[1].items() if gradient.abs().sum() > 0}
    assert len(used) > 5
    assert largest_difference({n: result[1][n] for n in used}, {n: expected[1][n] for n in used}) < 1e-5


def assert_same_fit(result, expected, steps=(1, 2)):
    (history, weights), (expected_history, expected_weights) = result, expected
    assert [row["step"] for row in history] == list(steps)
    for row, expected_row in zip(history, expected_history, strict=True):
        values, expected_values = ({k: v for k, v in r.items() if k != "seconds"} for r in (row, expected_row))
        assert values == pytest.approx(expected_values, rel=1e-4) and "eval_text_to_image_r1" in values
    assert weights.keys() == expected_weights.keys()
    assert all(torch.allclose(weights[name], expected_weights[name], atol=1e-4) for name in weights)


def test_losses_and_gradients_on_two_ranks_equal_one_process(two_ranks, one_process):
    for rank in two_ranks:
        for result, expected in zip(rank["steps"], one_process, strict=True):
            assert_same_step(result, expected)


def test_losses_and_gradients_on_four_ranks_equal_one_process(one_process, tmp_path):
    for results in on_ranks(run_steps, 4, tmp_path):
        for result, expected in zip(results, one_process, strict=True):
            assert_same_step(result, expected)


def test_losses_and_gradients_on_weights_sharded_by_fsdp2_equal_one_process(two_ranks, one_process):
    for rank in two_ranks:
        assert len(rank["sharded"]) == 4
        for result in rank["sharded"]:
            assert_same_step(result, one_process[2])  # both losses, in one graph


def test_fit_and_validation_on_two_ranks_equal_one_process(two_ranks, one_process_fit):
    for rank in two_ranks:
        for result in rank["fits"]:
            assert_same_fit(result, one_process_fit)


def test_fit_grouped_by_length_on_two_ranks_equals_one_process(two_ranks):
    expected = fit(None, group_by_length=True)
    for rank in two_ranks:
        assert_same_fit(rank["grouped"][0], expected)


def test_fit_and_validation_with_fsdp2_equal_one_process(one_process_fit, tmp_path):
    for results in on_ranks(run_sharded_fits, 2, tmp_path, **FSDP):
        for result in results:
            assert_same_fit(result, one_process_fit)


def test_distillation_on_two_ranks_equals_one_process_and_divides_the_teachers_work(tmp_path):
    folder = tmp_path / "teacher"
    expected = run_distillation(0, 1, SHARES[1])
    ranks = on_ranks(partial(run_distillation_on_two_ranks, folder=str(folder)), 2, tmp_path)
    for rank in ranks:
        for steps in rank["steps"]:
            for result, one in zip(steps, expected, strict=True):
                assert "distill" in result[0]
                assert_same_step(result, one)
    shards = [rank["n_shards"] - rank["n_before"] for rank in ranks]
    assert min(shards) > 1 and sum(shards) == len(list(folder.glob("scores-*")))
    alone = fit_with_distillation(str(tmp_path / "alone"))
    for rank in ranks:
        assert_same_fit(rank["fit"], alone)


@pytest.fixture(scope="module")
def one_process_on_hard_batches(tmp_path_factory):
    return run_hard_batches(0, 1, str(tmp_path_factory.mktemp("alone")))


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_hard_batches_refresh_and_distillation_on_two_ranks_equal_one_process(
    tmp_path, one_process_on_hard_batches, sharded
):
    function = partial(run_hard_batches, folder=str(tmp_path), sharded=sharded)
    for results in on_ranks(function, 2, tmp_path, **(FSDP if sharded else {})):
        for result, expected in zip(results, one_process_on_hard_batches, strict=True):
            assert_same_fit(result, expected, steps=[1, 2, 3])


def test_a_memory_shortage_on_one_rank_halves_the_chunks_on_all(two_ranks, one_process):
    for rank in two_ranks:
        rows, result = rank["shortage"]
        assert rows == 2 and largest_difference(result, one_process[2][1]) < 1e-5


def test_a_batch_that_ranks_cannot_divide_raises(two_ranks):
    for rank in two_ranks:
        assert "7 pairs cannot be divided between 2 ranks: use a multiple of 2" in rank["error"]


def test_a_single_process_needs_no_process_group():
    assert world_size() == 1
    rows = torch.randn(3, 4)
    assert gather_rows(rows, [3]) is rows
    keys = torch.stack([caption_keys(["a dog", "a cat", "A  dog"]), torch.arange(3)], dim=1)
    images, texts = torch.eye(3, 4), torch.eye(3, 4).roll(1, 0)
    duplicates = torch.tensor([[False, False, True], [False] * 3, [True, False, False]])
    loss, _ = contrastive_over_ranks(images, texts, lambda cosines: cosines * 3, keys)
    assert torch.equal(loss, contrastive_loss(images, texts, lambda cosines: cosines * 3, duplicates)[0])

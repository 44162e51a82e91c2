"""Cached gradients equal the full batch's for any chunk size; each part runs as often as stated; memory shortages."""

import pytest
import torch
from tiny import gradients, largest_difference, randomize_lora, tiny_embedder, tiny_lvlm, tiny_pairs
from tiny_families import batch_of, embedder_of
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.embedder.embedder import summary_embeddings
from vladva_kit.embedder.prompts import IGNORE_INDEX
from vladva_kit.models.device import MemoryShortage
from vladva_kit.models.families import FAMILIES
from vladva_kit.training.collator import Collator
from vladva_kit.training.encode import encode_batch
from vladva_kit.training.features import take_rows
from vladva_kit.training.fit import enable_layer_checkpointing
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.losses import contrastive_loss
from vladva_kit.training.trainer import step_losses

pytestmark = pytest.mark.usefixtures("one_thread")
PAIRS = 9


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


@pytest.fixture(scope="module")
def batch(embedder):
    return Collator(embedder)(tiny_pairs(PAIRS))["batch"]


def full_step(embedder, batch, *arguments, losses=step_losses):
    """Return metrics and gradients of a step in one graph."""
    metrics = losses(embedder, batch, *arguments)
    metrics["loss"].backward()
    return {name: float(value.detach()) for name, value in metrics.items()}, gradients(embedder)


@pytest.fixture(scope="module")
def full(embedder, batch):
    return full_step(embedder, batch)


def assert_same_gradients(result, expected, tolerance=1e-5):
    """Compare the gradients of all parameters that the expected step uses."""
    used = {name for name, gradient in expected.items() if gradient.abs().sum() > 0}
    assert len(used) > 5
    assert largest_difference({n: result[n] for n in used}, {n: expected[n] for n in used}) < tolerance


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_losses_and_gradients_equal_the_full_batchs_for_any_chunk_size(embedder, batch, full, rows):
    metrics, used_rows = cached_step(step_losses, embedder, batch, rows=rows)
    assert used_rows == rows
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(full[0], rel=1e-5)
    assert largest_difference(gradients(embedder), full[1]) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_the_full_batchs_in_every_family(tmp_path, family):
    embedder = embedder_of(family, tmp_path)
    batch = batch_of(embedder, 4)
    expected_metrics, expected = full_step(embedder, batch)
    metrics, rows = cached_step(step_losses, embedder, batch, rows=3)
    assert rows == 3 and float(metrics["loss"]) == pytest.approx(expected_metrics["loss"], rel=1e-5)
    assert_same_gradients(gradients(embedder), expected)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_gradients_follow_the_weight_of_the_next_token_loss(embedder, batch, weight):
    _, expected = full_step(embedder, batch, weight)
    cached_step(step_losses, embedder, batch, weight, rows=4)
    assert largest_difference(gradients(embedder), expected) < 1e-5


def test_gradients_without_short_captions_are_those_of_the_next_token_loss(embedder):
    pairs = [vk.Pair(pair.image, long=pair.long) for pair in tiny_pairs(6) if pair.long]
    batch = Collator(embedder)(pairs)["batch"]
    _, expected = full_step(embedder, batch)
    metrics, _ = cached_step(step_losses, embedder, batch, rows=2)
    assert float(metrics["contrastive"]) == 0 and float(metrics["next_token"]) > 0
    assert_same_gradients(gradients(embedder), expected)


def losses_with_penalty(embedder, batch, next_token_weight=1.0, encoded=None):
    """Compute the step's losses and a term that couples all images and texts of the batch."""
    encoded = encoded or encode_batch(embedder, batch, next_token_weight > 0)
    metrics = step_losses(embedder, batch, next_token_weight, encoded)
    penalty = encoded.images.mean(0).square().sum() + encoded.texts.std(0).sum()
    return {**metrics, "loss": metrics["loss"] + 3 * penalty, "penalty": penalty}


@pytest.mark.parametrize("rows", [1, 4])
def test_an_additional_loss_term_needs_no_change_of_the_cached_step(embedder, batch, full, rows):
    expected_metrics, expected = full_step(embedder, batch, losses=losses_with_penalty)
    metrics, _ = cached_step(losses_with_penalty, embedder, batch, rows=rows)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected_metrics, rel=1e-5)
    result = gradients(embedder)
    assert largest_difference(result, expected) < 1e-5
    lora = {name for name in expected if "lora_" in name}
    assert largest_difference({n: result[n] for n in lora}, {n: full[1][n] for n in lora}) > 0.01  # the term counts


def full_loss_in_chunk_order(embedder, batch, rows):
    """Compute the loss in one graph from the cached step's chunks, in their order, so that random numbers match."""
    vectors, summed, count = {}, 0.0, 0
    for part in ("images", "texts", "negatives"):
        inputs = getattr(batch, part)
        order = inputs.inputs["attention_mask"].sum(1).argsort(stable=True).tolist()
        chunks = []
        for start in range(0, len(order), rows):
            chunk = take_rows(inputs, order[start : start + rows])
            hidden = embedder.hidden_states(chunk)
            chunks.append(summary_embeddings(hidden, chunk))
            if chunk.labels is not None:
                logits = embedder.lvlm.model.lm_head(hidden[:, :-1])
                labels = chunk.labels[:, 1:]
                summed = summed + F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
                count += int((labels != IGNORE_INDEX).sum())
        vectors[part] = torch.cat(chunks)[torch.tensor(order).argsort()]
    duplicates = (batch.keys[:, None] == batch.keys).any(-1)
    duplicates &= ~torch.eye(len(duplicates), dtype=torch.bool)
    loss, _ = contrastive_loss(
        vectors["images"][batch.paired], vectors["texts"], embedder.lvlm.model.temperature, duplicates,
        vectors["negatives"], batch.keys[:, None, 0] == batch.negative_keys,
    )  # fmt: skip
    return loss + summed / count


def test_dropout_masks_are_the_same_in_both_passes():
    embedder = tiny_embedder(lora_dropout=0.3, dropout=0.2)
    batch = Collator(embedder)(tiny_pairs(PAIRS))["batch"]
    embedder.lvlm.model.train()
    torch.manual_seed(5)
    loss = full_loss_in_chunk_order(embedder, batch, 4)
    next_random = torch.rand(1)
    loss.backward()
    expected = gradients(embedder)
    torch.manual_seed(5)
    metrics, _ = cached_step(step_losses, embedder, batch, rows=4)
    assert torch.rand(1) == next_random  # the second pass does not advance the random numbers
    assert float(metrics["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert largest_difference(gradients(embedder), expected) < 1e-5
    torch.manual_seed(6)
    cached_step(step_losses, embedder, batch, rows=4)
    assert largest_difference(gradients(embedder), expected) > 1e-2  # other masks, other gradients


def test_gradients_with_layer_checkpointing_are_the_same(batch, full):
    embedder = tiny_embedder()
    embedder.lvlm.model.train()
    enable_layer_checkpointing(embedder)
    cached_step(step_losses, embedder, batch, rows=4)
    assert largest_difference(gradients(embedder), full[1]) < 1e-5


def test_both_passes_run_under_autocast(embedder, batch, full):
    def precision():
        return torch.autocast("cpu", torch.bfloat16)

    with precision():
        metrics = step_losses(embedder, batch)
    metrics["loss"].backward()
    expected = gradients(embedder)
    cached_step(step_losses, embedder, batch, rows=4, precision=precision)
    result = gradients(embedder)
    assert largest_difference(result, expected) < 0.05
    assert largest_difference(result, full[1]) > 1e-3  # it is not float32


def test_a_scaled_backward_scales_every_gradient(embedder, batch, full):
    cached_step(step_losses, embedder, batch, rows=4, backward=lambda loss: (loss * 8).backward())
    assert largest_difference({n: g / 8 for n, g in gradients(embedder).items()}, full[1]) < 1e-5


def test_gradients_are_added_to_existing_ones(embedder, batch, full):
    for _ in range(2):
        cached_step(step_losses, embedder, batch, rows=4)
    assert largest_difference({n: g / 2 for n, g in gradients(embedder).items()}, full[1]) < 1e-5


def record_rows(module, monkeypatch):
    """Return a list that collects the number of rows of each forward call."""
    rows, forward = [], module.forward

    def recorded(first, *arguments, **keywords):
        rows.append(len(first))
        return forward(first, *arguments, **keywords)

    monkeypatch.setattr(module, "forward", recorded)
    return rows


def test_a_frozen_vision_encoder_and_projector_see_each_image_once(embedder, batch, monkeypatch):
    model = embedder.lvlm.model.model
    encoder, projector = (record_rows(part, monkeypatch) for part in (model.vision_tower, model.multi_modal_projector))
    cached_step(step_losses, embedder, batch, rows=4)
    gradients(embedder)
    assert sum(encoder) == sum(projector) == PAIRS


def test_without_kept_features_the_vision_encoder_runs_in_both_passes_and_the_gradients_stay(
    embedder, batch, full, monkeypatch
):
    images = record_rows(embedder.lvlm.model.model.vision_tower, monkeypatch)
    metrics, _ = cached_step(step_losses, embedder, batch, rows=4, keep_features=False)
    assert sum(images) == 2 * PAIRS and max(images) == 4
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(full[0], rel=1e-5)
    assert largest_difference(gradients(embedder), full[1]) < 1e-5


def test_a_trainable_vision_encoder_gets_its_gradients(batch):
    embedder = vk.attach(tiny_lvlm(), lora={"target_modules": ["q_proj", "v_proj"]})  # the vision encoder's as well
    randomize_lora(embedder)
    _, expected = full_step(embedder, batch)
    cached_step(step_losses, embedder, batch, rows=4)
    assert any("vision_tower" in name and gradient.abs().sum() > 0 for name, gradient in expected.items())
    assert_same_gradients(gradients(embedder), expected)


def test_only_target_states_pass_through_the_head(embedder, batch, monkeypatch):
    rows = record_rows(embedder.lvlm.model.lm_head, monkeypatch)
    cached_step(step_losses, embedder, batch, rows=4)
    gradients(embedder)
    assert sum(rows) == int((batch.images.labels != IGNORE_INDEX).sum())


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


def limit_memory(embedder, monkeypatch, is_too_large, error=OUT_OF_MEMORY):
    hidden_states = embedder.hidden_states

    def limited(inputs):
        if is_too_large(len(inputs.summary_positions)):
            raise error
        return hidden_states(inputs)

    monkeypatch.setattr(embedder, "hidden_states", limited)


@pytest.mark.parametrize("with_graph", [False, True], ids=["first pass", "second pass"])
def test_a_memory_shortage_halves_the_chunk_and_keeps_the_batch(embedder, batch, full, monkeypatch, with_graph):
    limit_memory(embedder, monkeypatch, lambda rows: rows > 2 and torch.is_grad_enabled() == with_graph)
    with pytest.warns(UserWarning, match=f"chunks of 2 rows; the contrastive batch stays at {PAIRS} pairs"):
        metrics, rows = cached_step(step_losses, embedder, batch, rows=5)
    assert rows == 2
    assert float(metrics["loss"]) == pytest.approx(full[0]["loss"], rel=1e-5)
    assert largest_difference(gradients(embedder), full[1]) < 1e-5


SHORTAGES = [
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("std::bad_alloc"),
    MemoryError("std::bad_alloc"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=str)
def test_every_kind_of_memory_shortage_halves_the_chunk(embedder, batch, full, monkeypatch, error):
    limit_memory(embedder, monkeypatch, lambda rows: rows > 4, error)
    with pytest.warns(UserWarning, match="chunks of 4 rows"):
        metrics, rows = cached_step(step_losses, embedder, batch, rows=9)
    assert rows == 4 and float(metrics["loss"]) == pytest.approx(full[0]["loss"], rel=1e-5)
    gradients(embedder)


def test_another_error_is_not_a_memory_shortage(embedder, batch, monkeypatch):
    limit_memory(embedder, monkeypatch, lambda rows: rows > 4, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        cached_step(step_losses, embedder, batch, rows=9)


@pytest.mark.parametrize(
    "rows, advice", [(None, r"micro_batch_size=1 \(--micro-batch-size\)"), (2, "not even one row")]
)
@pytest.mark.filterwarnings("ignore:out of memory")
def test_a_shortage_that_nothing_avoids_names_the_batch_size_and_the_fix(monkeypatch, rows, advice):
    embedder = tiny_embedder()
    limit_memory(embedder, monkeypatch, lambda rows: True, SHORTAGES[0])
    settings = vk.Settings(steps=1, batch_size=6, micro_batch_size=rows)
    with pytest.raises(MemoryShortage, match=rf"batch_size=6 and micro_batch_size={rows}; .*{advice}.*ALLOC_FAILED"):
        vk.fit(embedder, tiny_pairs(9), settings, progress=False)


def test_the_error_is_raised_if_not_even_one_row_fits(embedder, batch, monkeypatch):
    limit_memory(embedder, monkeypatch, lambda rows: True)
    with pytest.warns(UserWarning, match="chunks of 1 rows"), pytest.raises(torch.OutOfMemoryError):
        cached_step(step_losses, embedder, batch, rows=2)
    assert not any(gradient.any() for gradient in gradients(embedder).values())

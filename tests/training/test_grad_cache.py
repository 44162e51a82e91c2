"""Cached gradients: the whole batch's, whatever the chunk; what is run, how often, and what a lack of memory costs."""

import pytest
import tiny_families
import torch
from tiny import gradients, largest_difference, tiny_embedder, tiny_lvlm, tiny_pairs
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, LONG, example_pictures
from vladva_kit.embedder.embedder import summary_embeddings
from vladva_kit.embedder.prompts import IGNORE_INDEX
from vladva_kit.models.families import FAMILIES
from vladva_kit.training.features import take_rows
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.losses import contrastive
from vladva_kit.training.trainer import Collator, enable_layer_checkpointing, step_losses

PAIRS = 9


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


@pytest.fixture(scope="module")
def batch(embedder):
    return Collator(embedder)(tiny_pairs(PAIRS))["batch"]


@pytest.fixture(scope="module")
def whole(embedder, batch):
    """The one-graph step's losses and gradients."""
    figures = step_losses(embedder, batch)
    figures["loss"].backward()
    return {name: float(value.detach()) for name, value in figures.items()}, gradients(embedder)


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_losses_and_gradients_are_the_whole_batchs_whatever_the_chunk(embedder, batch, whole, rows):
    figures, used = cached_step(embedder, batch, rows=rows)
    assert used == rows
    assert {name: float(value) for name, value in figures.items()} == pytest.approx(whole[0], rel=1e-5)
    assert largest_difference(gradients(embedder), whole[1]) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family_gradients_are_the_whole_batchs(tmp_path, one_thread, family):
    lvlm = vk.load_lvlm(str(tiny_families.build(family, tmp_path / family)), dtype=torch.float32)
    own = vk.attach(lvlm, quiet=True)
    for name, weight in lvlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    pairs = [vk.Pair(*row) for row in zip(example_pictures(), CAPTIONS, LONG, strict=True)]
    batch = Collator(own)(pairs)["batch"]
    wanted = step_losses(own, batch)
    wanted["loss"].backward()
    wanted_gradients = gradients(own)
    found, rows = cached_step(own, batch, rows=2)
    assert rows == 2 and float(found["loss"]) == pytest.approx(float(wanted["loss"]), rel=1e-5)
    learned = {name for name, gradient in wanted_gradients.items() if gradient.abs().sum() > 0}
    found_gradients = gradients(own)
    assert len(learned) > 5
    assert (
        largest_difference({n: found_gradients[n] for n in learned}, {n: wanted_gradients[n] for n in learned}) < 1e-5
    )


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_each_loss_alone_and_weighted(embedder, batch, weight):
    step_losses(embedder, batch, weight)["loss"].backward()
    wanted = gradients(embedder)
    cached_step(embedder, batch, weight, rows=4)
    assert largest_difference(gradients(embedder), wanted) < 1e-5


def test_next_token_alone(embedder):
    pairs = [vk.Pair(pair.image, long=pair.long) for pair in tiny_pairs(6) if pair.long]
    batch = Collator(embedder)(pairs)["batch"]
    step_losses(embedder, batch)["loss"].backward()
    wanted = gradients(embedder)
    figures, _ = cached_step(embedder, batch, rows=2)
    found = gradients(embedder)
    assert float(figures["contrastive"]) == 0 and float(figures["next_token"]) > 0
    wanted = {name: gradient for name, gradient in wanted.items() if gradient.abs().sum() > 0}
    assert largest_difference({name: found[name] for name in wanted}, wanted) < 1e-5


def in_one_graph(embedder, batch, rows):
    """The same chunks, in the same order, all in one graph: the random numbers fall as in the cached step."""
    found, summed, count = {}, 0.0, 0
    for tower in ("images", "texts", "negatives"):
        sequences = getattr(batch, tower)
        order = sequences.inputs["attention_mask"].sum(1).argsort(stable=True).tolist()
        parts = []
        for at in range(0, len(order), rows):
            chunk = take_rows(sequences, order[at : at + rows])
            hidden = embedder.hidden_states(chunk)
            parts.append(summary_embeddings(hidden, chunk))
            if chunk.labels is not None:
                logits = embedder.lvlm.model.lm_head(hidden[:, :-1])
                labels = chunk.labels[:, 1:]
                summed = summed + F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
                count += int((labels != IGNORE_INDEX).sum())
        found[tower] = torch.cat(parts)[torch.tensor(order).argsort()]
    same = batch.keys[:, None] == batch.keys
    same &= ~torch.eye(len(same), dtype=torch.bool)
    loss, _ = contrastive(
        found["images"][batch.paired], found["texts"], embedder.lvlm.model.temperature, same,
        found["negatives"], batch.keys[:, None] == batch.negative_keys,
    )  # fmt: skip
    return loss + summed / count


def test_with_dropout_they_are_those_of_the_same_chunks_and_masks_in_one_graph():
    embedder = tiny_embedder(lora_dropout=0.3, dropout=0.2)
    batch = Collator(embedder)(tiny_pairs(PAIRS))["batch"]
    embedder.lvlm.model.train()
    torch.manual_seed(5)
    loss = in_one_graph(embedder, batch, 4)
    after = torch.rand(1)
    loss.backward()
    wanted = gradients(embedder)
    torch.manual_seed(5)
    figures, _ = cached_step(embedder, batch, rows=4)
    assert torch.rand(1) == after  # what is drawn next is not what was drawn before
    assert float(figures["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert largest_difference(gradients(embedder), wanted) < 1e-5
    torch.manual_seed(6)
    cached_step(embedder, batch, rows=4)
    assert largest_difference(gradients(embedder), wanted) > 1e-2  # other masks, other gradients


def test_with_layers_run_again_for_the_gradient(batch, whole):
    embedder = tiny_embedder()
    embedder.lvlm.model.train()
    enable_layer_checkpointing(embedder)
    cached_step(embedder, batch, rows=4)
    assert largest_difference(gradients(embedder), whole[1]) < 1e-5


def test_under_autocast_both_passes_are_in_bfloat16(embedder, batch, whole):
    def precision():
        return torch.autocast("cpu", torch.bfloat16)

    with precision():
        figures = step_losses(embedder, batch)
    figures["loss"].backward()
    wanted = gradients(embedder)
    cached_step(embedder, batch, rows=4, precision=precision)
    found = gradients(embedder)
    assert largest_difference(found, wanted) < 0.05
    assert largest_difference(found, whole[1]) > 1e-3  # it is not float32


def test_a_scaled_backward_scales_every_gradient(embedder, batch, whole):
    cached_step(embedder, batch, rows=4, backward=lambda loss: (loss * 8).backward())
    assert largest_difference({n: g / 8 for n, g in gradients(embedder).items()}, whole[1]) < 1e-5


def test_gradients_are_added_to_those_already_there(embedder, batch, whole):
    for _ in range(2):
        cached_step(embedder, batch, rows=4)
    assert largest_difference({n: g / 2 for n, g in gradients(embedder).items()}, whole[1]) < 1e-5


def counted(module, monkeypatch, name="forward"):
    sizes, real = [], getattr(module, name)

    def forward(first, *arguments, **keywords):
        sizes.append(len(first))
        return real(first, *arguments, **keywords)

    monkeypatch.setattr(module, name, forward)
    return sizes


def test_the_frozen_tower_and_projector_see_each_picture_once(embedder, batch, monkeypatch):
    model = embedder.lvlm.model.model
    tower, projector = counted(model.vision_tower, monkeypatch), counted(model.multi_modal_projector, monkeypatch)
    cached_step(embedder, batch, rows=4)
    gradients(embedder)
    assert sum(tower) == sum(projector) == PAIRS


def test_a_tower_that_learns_gets_its_gradients(batch):
    lvlm = tiny_lvlm()
    embedder = vk.attach(lvlm, lora={"target_modules": ["q_proj", "v_proj"]})  # the vision tower's too
    for name, weight in lvlm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    assert any("vision_tower" in name for name, weight in lvlm.model.named_parameters() if weight.requires_grad)
    step_losses(embedder, batch)["loss"].backward()
    wanted = gradients(embedder)
    used = {name for name, gradient in wanted.items() if gradient.abs().sum() > 0}
    cached_step(embedder, batch, rows=4)
    found = gradients(embedder)
    assert any("vision_tower" in name for name in used)
    assert largest_difference({n: found[n] for n in used}, {n: wanted[n] for n in used}) < 1e-5


def test_the_head_meets_caption_positions_only(embedder, batch, monkeypatch):
    met = counted(embedder.lvlm.model.lm_head, monkeypatch)
    cached_step(embedder, batch, rows=4)
    gradients(embedder)
    assert sum(met) == int((batch.images.labels != IGNORE_INDEX).sum())


@pytest.mark.parametrize("when", ["embedding", "sending back"])
def test_out_of_memory_halves_the_chunk_aloud_and_never_the_batch(embedder, batch, whole, monkeypatch, when):
    real = embedder.hidden_states

    def short_of_memory(sequences):
        if len(sequences.summary) > 2 and torch.is_grad_enabled() == (when == "sending back"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(sequences)

    monkeypatch.setattr(embedder, "hidden_states", short_of_memory)
    with pytest.warns(UserWarning, match=f"chunks of 2 rows; the contrastive batch stays at {PAIRS} pairs"):
        figures, rows = cached_step(embedder, batch, rows=5)
    assert rows == 2
    assert float(figures["loss"]) == pytest.approx(whole[0]["loss"], rel=1e-5)
    assert largest_difference(gradients(embedder), whole[1]) < 1e-5


def test_where_not_one_row_fits_the_error_comes_out(embedder, batch, monkeypatch):
    def short_of_memory(sequences):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(embedder, "hidden_states", short_of_memory)
    with pytest.warns(UserWarning, match="chunks of 1 rows"), pytest.raises(torch.OutOfMemoryError):
        cached_step(embedder, batch, rows=2)
    assert not any(gradient.any() for gradient in gradients(embedder).values())


def test_fit_with_a_micro_batch_goes_the_way_of_the_whole_batch():
    runs = []
    for changes in ({}, {"micro_batch_size": 3}, {"micro_batch_size": 3, "gradient_checkpointing": True}):
        settings = vk.Settings(steps=3, batch_size=8, warmup=1, **changes)
        runs.append(vk.fit(tiny_embedder(), tiny_pairs(16), settings, progress=False))
    for run in runs[1:]:
        for name in ("loss", "contrastive", "next_token", "accuracy", "temperature"):
            assert [row[name] for row in run] == pytest.approx([row[name] for row in runs[0]], rel=1e-4)

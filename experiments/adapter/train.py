"""Train emoji-llava-vladva on drawn pairs, and choose on validation scenes how far it moves from the base."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vladva_kit as vk
from experiments.world.cases import swap_cases
from experiments.world.samples import write_training_pairs
from vladva_kit.data.pairs import load_pairs
from vladva_kit.emoji_world.render import render
from vladva_kit.evaluation.winoground import winoground_margins
from vladva_kit.models.files import write_json
from vladva_kit.training.fit import recall_at_1

N_SCENES, N_GROUPS = 16_000, 4_500  # random scenes before held-out combinations are removed; groups of twins
SEED = 1  # of the drawn pairs; the shipped samples have seed 0
BATCHES = {"groups": 0.125, "mined": 0.5, "random": 0.375}
STEPS, BATCH_SIZE = 2_600, 64
N_CASES = 30  # validation cases per kind of swap


def settings(folder: Path, steps: int = STEPS, bf16: bool | None = None, resume: bool = False) -> vk.Settings:
    """Return the settings of the shipped adapter; checkpoints go to folder/checkpoints."""
    return vk.Settings(
        steps=steps,
        batch_size=BATCH_SIZE,
        learning_rate=1e-3,
        soft_prompt_learning_rate=0.05,
        warmup=50,
        next_token_weight=0.3,
        bf16=bf16,
        batches=BATCHES,
        cache_images="memory",
        output_dir=str(folder / "checkpoints"),
        save_every=200,
        validate_every=200,
        resume=resume,
    )


def draw_pairs(folder: Path, n_scenes: int = N_SCENES, n_groups: int = N_GROUPS) -> Path:
    """Draw the training pairs into folder/pairs unless they are there; about three minutes."""
    pairs = folder / "pairs"
    if not (pairs / "train" / "metadata.jsonl").is_file():
        write_training_pairs(pairs / "train", n_scenes, n_groups, SEED)
    return pairs


def validate(embedder: vk.Embedder) -> dict[str, float]:
    """Compute recall@1 on the validation split, and the Winoground scores on drawn cases, in percent."""
    metrics = recall_at_1(embedder, load_pairs(vk.sample("emoji_pairs"), "validation"))
    rng, cases = random.Random("adapter validation"), []
    for kind in ("object", "color", "size", "relation"):
        cases += [case for case, _ in zip(swap_cases(rng, kind), range(N_CASES), strict=False)]
    images = embedder.encode_image([render(scene, 160) for case in cases for scene in case.scenes])
    texts = embedder.encode_text([caption for case in cases for caption in case.captions])
    similarity = images.view(len(cases), 2, -1) @ texts.view(len(cases), 2, -1).transpose(1, 2)
    margins = winoground_margins(similarity.numpy())
    return metrics | {f"winoground_{name}": 100 * float(each.correct.mean()) for name, each in margins.items()}


def train(
    folder: Path, steps: int = STEPS, bf16: bool | None = None, log: Callable[[str], None] = print
) -> tuple[vk.Embedder, list[dict[str, Any]]]:
    """Draw the pairs and train on them; resumes from the last checkpoint in folder/checkpoints.

    embedder, history = train(Path("runs/adapter"))
    """
    log(f"drawing pairs into {folder}")
    pairs = draw_pairs(folder)
    embedder = vk.attach(vk.load_lvlm("emoji-llava"), seed=0)
    resume = any((folder / "checkpoints").glob("checkpoint-*/trainer_state.json"))
    history = vk.fit(embedder, pairs, settings(folder, steps, bf16, resume), validation=validate)
    write_json(folder / "history.json", history)
    return embedder, history

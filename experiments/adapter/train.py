"""Train emoji-llava-vladva on drawn pairs, and choose on validation scenes how far it moves from the base."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import vladva_kit as vk
from experiments.world.cases import swap_cases
from experiments.world.samples import write_training_pairs
from vladva_kit.cli.demo import BASE, CLIP, TUNED, evaluate_all
from vladva_kit.data.hard_batches import TWINS_AND_NEIGHBORS
from vladva_kit.data.pairs import load_pairs
from vladva_kit.embedder.identity import describe
from vladva_kit.emoji_world.render import render
from vladva_kit.evaluation.generation import load_scenes
from vladva_kit.evaluation.overview import count_changes
from vladva_kit.evaluation.results import save_results
from vladva_kit.evaluation.validation import winoground_percent
from vladva_kit.models.device import prefer_bfloat16
from vladva_kit.models.files import write_json
from vladva_kit.training.validation import recall_at_1

N_SCENES, N_GROUPS = 16_000, 4_500  # random scenes before held-out combinations are removed; groups of twins
SEED = 1  # of the drawn pairs; the shipped samples have seed 0
STEPS, BATCH_SIZE = 2_600, 64
N_CASES = 30  # validation cases per kind of swap
WEIGHTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


def settings(folder: Path | None, steps: int = STEPS, resume: bool = False) -> vk.Settings:
    """Return the settings of the shipped adapter; checkpoints go to folder/checkpoints."""
    return vk.Settings(
        steps=steps,
        batch_size=BATCH_SIZE,
        learning_rate=1e-3,
        soft_prompt_learning_rate=0.05,
        warmup=50,
        next_token_weight=0.3,
        bf16=prefer_bfloat16(),
        batches=TWINS_AND_NEIGHBORS,
        cache_images="memory",
        output_dir=str(folder / "checkpoints") if folder else None,
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


@cache
def validation_data() -> tuple[list[vk.Pair], list[Image.Image], list[str]]:
    """Load the validation split and draw the Winoground cases, two images and two captions each, once for all calls."""
    rng, cases = random.Random("adapter validation"), []
    for kind in ("object", "color", "size", "relation"):
        cases += [case for case, _ in zip(swap_cases(rng, kind), range(N_CASES), strict=False)]
    images = [render(scene, 160) for case in cases for scene in case.scenes]
    captions = [caption for case in cases for caption in case.captions]
    return load_pairs(vk.sample("emoji_pairs"), "validation"), images, captions


def validate(embedder: vk.Embedder) -> dict[str, float]:
    """Compute recall@1 on the validation split, and the Winoground scores on drawn cases, in percent."""
    pairs, images, captions = validation_data()
    metrics = recall_at_1(embedder, pairs)
    return metrics | winoground_percent(embedder, images, captions)


def train(
    folder: Path, steps: int = STEPS, machine: str = "2 CPU cores", log: Callable[[str], None] = print
) -> tuple[vk.Embedder, dict[str, Any]]:
    """Draw the pairs, train on them and interpolate; resumes from the last checkpoint in folder/checkpoints.

        embedder, training = train(Path("runs/adapter"))

    The second value says what the card needs: steps, seconds, validation during training, and the chosen weight.
    """
    log(f"drawing pairs into {folder / 'pairs'}")
    pairs = draw_pairs(folder)
    lvlm = vk.load_lvlm("emoji-llava")
    base_captions = true_captions(vk.Embedder(lvlm))
    embedder = vk.attach(lvlm, seed=0)
    resume = any((folder / "checkpoints").glob("checkpoint-*"))
    history = vk.fit(embedder, pairs, settings(folder, steps, resume), validation=validate)
    write_json(folder / "history.json", history)
    weights = [score_weight(embedder, weight) for weight in WEIGHTS]
    chosen = choose_weight(weights, base_captions)
    log(f"LoRA's weight: {chosen}")
    vk.interpolate(embedder, chosen)
    return embedder, {
        "steps": steps,
        "pairs": len(load_pairs(pairs)),
        "seconds": max(row["seconds"] for row in history if "seconds" in row),
        "machine": machine,
        "validation": [row for row in history if "eval_winoground_group" in row],
        "base_captions": base_captions,
        "weights": weights,
        "lora_weight": chosen,
    }


def true_captions(embedder: vk.Embedder) -> float:
    """Return the percentage of true short captions on the validation split."""
    scenes = load_scenes(vk.sample("emoji_pairs"), "validation")
    return vk.evaluate_generation(embedder, *scenes, long_captions=False).caption_truth.percent


def score_weight(embedder: vk.Embedder, weight: float) -> dict[str, float]:
    """Validate the embedder with LoRA's update multiplied by a weight, and restore it."""
    lora = [value for name, value in embedder.lvlm.adapter.named_parameters() if "lora_B." in name]
    trained = [value.detach().clone() for value in lora]
    vk.interpolate(embedder, weight)
    scores = {"weight": weight, "captions": true_captions(embedder), **validate(embedder)}
    with torch.no_grad():
        for value, original in zip(lora, trained, strict=True):
            value.copy_(original)
    return scores


def choose_weight(weights: Sequence[Mapping[str, float]], base_captions: float) -> float:
    """Return the largest weight whose true captions are within 2 points of the base's, or the smallest weight.

    choose_weight([{"weight": 1.0, "captions": 80.0}, {"weight": 0.6, "captions": 91.5}], base_captions=93.0)    # 0.6
    """
    good = [row["weight"] for row in weights if row["captions"] >= base_captions - 2]
    return max(good, default=min(row["weight"] for row in weights))


def evaluate(embedder: vk.Embedder, training: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Evaluate the adapter, its base and emoji-clip on the shipped benchmarks, and write results.json to the folder."""
    with embedder.base():
        base, identity = evaluate_all(embedder, generation=True), {BASE: describe(embedder)}
    clip = vk.ClipEmbedder("emoji-clip")
    results = {CLIP: evaluate_all(clip, generation=False), BASE: base, TUNED: evaluate_all(embedder, generation=True)}
    identity |= {CLIP: describe(clip), TUNED: describe(embedder)}
    sentences = [
        "Winoground group, {}: {:.1f} → {:.1f} % ({} fixed, {} broken)".format(
            style,
            base[name].group.percent,
            results[TUNED][name].group.percent,
            *count_changes(base[name], results[TUNED][name], "group"),
        )
        for style, name in (("unseen style", "winoground/unseen style"), ("seen styles", "winoground/seen"))
    ]
    return save_results(folder, results, identity, {"effect": sentences, "training": dict(training)})

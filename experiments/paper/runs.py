"""One cell: load, attach, train, judge, read; the record that is kept of it."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import vladva_kit as vk
from experiments.paper.clip_training import fit_clip
from experiments.paper.measures import measures_of
from experiments.paper.plan import Cell
from experiments.paper.representations import inside
from vladva_kit.cli.demo import judge
from vladva_kit.data.pairs import load_pairs
from vladva_kit.emoji_world.swaps import swapped_captions
from vladva_kit.evaluation.generation import GenerationResult, load_scenes

STYLES = {"seen": "test", "unseen style": "unseen_style"}  # style -> split of emoji_pairs
LONG_LIMIT = 500  # tokens: under it, the contrastive loss takes a long caption too where it is told to
PROBED = 8  # pictures that the adapter must leave as they were when it is off


def run_cell(cell: Cell) -> dict[str, Any]:
    """Trains and judges one cell; plain values for JSON: measures by case, training curve, what the summary tokens do.

    run_cell(Cell(seed=0, lora_rank=16, steps=100, batch_size=64, learning_rate=2e-3))["measures"]
    """
    clock = _Clock()
    record: dict[str, Any] = {"cell": asdict(cell)}
    if cell.model == "emoji-clip":
        clip = vk.ClipEmbedder(cell.model)
        if cell.seed is not None:
            record["history"] = _columns(
                fit_clip(
                    clip, _pairs(cell), cell.steps, cell.batch_size, cell.learning_rate, _warmup(cell), seed=cell.seed
                )
            )
            clock.stop("training")
        record["measures"] = measures_of(judge(clip, talk=False, say=_silent))
    else:
        embedder = _trained(cell, record, clock)
        record["measures"] = _measured(embedder, cell)
        clock.stop("judging")
        record["inside"] = inside(embedder, _test_pairs(cell.reads)) if cell.reads else None
    clock.stop("judging" if cell.model == "emoji-clip" else "reading")
    return {**record, "seconds": clock.seconds}


class _Clock:
    """Seconds by name, each from where the last one stopped."""

    def __init__(self) -> None:
        self.since, self.seconds = time.perf_counter(), {}

    def stop(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self.since = round(now - self.since, 1), now


def _silent(_: str) -> None:
    """Judging is one line of the command's output, not eight."""


def _trained(cell: Cell, record: dict[str, Any], clock: _Clock) -> vk.Embedder:
    """The cell's embedder; with the adapter off it must be what it was, bit for bit, and the record says whether."""
    lvlm = vk.load_lvlm(cell.model)
    baseline = vk.Embedder(lvlm)
    if cell.seed is None:
        return baseline
    probed = _test_pairs(PROBED)
    before = _probe(baseline, probed)
    lora = {"r": cell.lora_rank, "lora_alpha": cell.lora_rank} if cell.lora_rank else False  # scaled by 1 at any rank
    embedder = vk.attach(lvlm, cell.soft_prompt, lora, cell.temperature, seed=cell.seed, quiet=True)
    record["learning"] = embedder.trainable()
    record["history"] = _columns(vk.fit(embedder, _pairs(cell), settings(cell), progress=False))
    with embedder.base():
        after = _probe(embedder, probed)
    embeddings_equal = all(torch.equal(one, other) for one, other in zip(before[0], after[0], strict=True))
    record["adapter_off_equal"] = embeddings_equal and before[1] == after[1]
    clock.stop("training")
    return embedder


def settings(cell: Cell) -> vk.Settings:
    """How `fit` is to train the cell; large batches go through in parts of 64."""
    return vk.Settings(
        steps=cell.steps,
        batch_size=cell.batch_size,
        learning_rate=cell.learning_rate,
        warmup=_warmup(cell),
        next_token_weight=cell.next_token_weight,
        learn_temperature=cell.learn_temperature,
        seed=cell.seed,
        micro_batch_size=64 if cell.batch_size > 256 else None,
        **({"short_limit": LONG_LIMIT + 1} if cell.captions == "long" else {}),
    )


def _warmup(cell: Cell) -> int:
    return max(1, cell.steps // 10)


def _columns(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """A row a step to a list a figure, without the clock: the same seed gives the same."""
    return {key: [row[key] for row in history] for key in history[0] if key != "seconds"}


def _pairs(cell: Cell) -> list[vk.Pair]:
    """The training pairs as the cell wants them."""
    folder = vk.sample("emoji_pairs")
    pairs = list(_checked(folder, "train")[: cell.pairs])
    if cell.captions == "long":  # the counter-example: what belongs to the next-token loss goes to the contrastive one
        return [vk.Pair(pair.image, short=pair.long, where=pair.where) for pair in pairs]
    if cell.negatives:
        rng, scenes = random.Random(0), load_scenes(folder, "train", len(pairs))[1]
        swaps = [swapped_captions(pair.short, scene) for pair, scene in zip(pairs, scenes, strict=True)]
        return [
            replace(pair, negatives=(rng.choice(made),) if made else ())
            for pair, made in zip(pairs, swaps, strict=True)
        ]
    return pairs


def _test_pairs(n: int) -> list[vk.Pair]:
    return list(_checked(vk.sample("emoji_pairs"), "test")[:n])


@lru_cache(maxsize=4)
def _checked(folder: Path, split: str) -> tuple[vk.Pair, ...]:
    """A split's pairs: its pictures are decoded and checked once, not for every cell."""
    return tuple(load_pairs(folder, split))


def _probe(embedder: vk.Embedder, pairs: Sequence[vk.Pair]) -> tuple[list[torch.Tensor], list[str]]:
    """Embeddings of both towers and captions generated, for a comparison bit by bit."""
    images = [pair.load_image() for pair in pairs]
    vectors = [embedder.encode_image(images), embedder.encode_text([pair.short for pair in pairs])]
    return vectors, embedder.generate_batch(images, ["what is in the picture?"] * len(images), max_new_tokens=12)


def _measured(embedder: vk.Embedder, cell: Cell) -> dict[str, Any]:
    """Every benchmark in both styles; questions too, with the adapter on and, if the cell says so, off."""
    judged: dict[str, Any] = judge(embedder, talk=False, say=_silent)
    if cell.talks_about:
        judged |= _talk(embedder, cell.talks_about, "generation")
    if cell.adapter_off:
        with embedder.base():
            judged |= _talk(embedder, cell.talks_about, "generation, adapter off")
    return measures_of(judged)


def _talk(embedder: vk.Embedder, n: int, name: str) -> dict[str, GenerationResult]:
    folder, results = vk.sample("emoji_pairs"), {}
    for style, split in STYLES.items():
        pictures, scenes = load_scenes(folder, split, n)
        results[f"{name}/{style}"] = vk.evaluate_generation(embedder, pictures, scenes, long_captions=False)
    return results

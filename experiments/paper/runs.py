"""Train, evaluate and probe one model: a run, and the record that is stored for it."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

import vladva_kit as vk
from experiments.paper.measures import measures_of
from experiments.paper.plan import N_EQUALITY_IMAGES, Run
from experiments.paper.representations import probe_representations
from experiments.paper.swaps import swapped_captions
from experiments.world.samples import write_training_pairs, write_winoground
from experiments.world.twins import held_out
from vladva_kit.analysis import twin_loss, winoground_effects
from vladva_kit.cli.demo import evaluate_all
from vladva_kit.data.hard_batches import Mining
from vladva_kit.data.pairs import load_pairs
from vladva_kit.emoji_world.scenes import Scene
from vladva_kit.evaluation.clip_training import fit_clip
from vladva_kit.evaluation.generation import load_scenes
from vladva_kit.evaluation.validation import winoground_cosines
from vladva_kit.evaluation.winoground import load_winoground
from vladva_kit.training.batches import batch_sampler
from vladva_kit.training.progress import VALIDATION

HELD_OUT_CASES = {"object": 30, "color": 30, "size": 30, "relation": 30}
STYLES = {"seen": "test", "unseen style": "unseen_style"}  # style -> split of emoji_pairs
TWIN_STRIDE = 7  # every seventh Winoground case is evaluated during training
TWIN_LOSS = f"{VALIDATION}twin_loss"
LONG_LIMIT = 500  # tokens of the longest caption when the contrastive loss takes long captions
_evaluate = partial(evaluate_all, generation=False, log=lambda message: None)  # the study logs one line per run


def train_and_evaluate(run: Run, cache: Path | None = None) -> dict[str, Any]:
    """Train and evaluate one run; return its record for JSON: measures per case, training history, representations.

        train_and_evaluate(Run(seed=0, lora_rank=16, steps=100, batch_size=64, learning_rate=2e-3))["measures"]

    cache: a folder for what all runs share: frozen image features, mined neighbors and the base's likelihoods.
    """
    timer = _Timer()
    record: dict[str, Any] = {"config": asdict(run)}
    if run.model == "emoji-clip":
        clip = vk.ClipEmbedder(run.model)
        if run.seed is not None:
            pairs, settings = training_pairs(run, cache), training_settings(run, cache)
            sampler = batch_sampler(vk.Embedder(vk.load_lvlm()), pairs, settings)  # the LVLM's batches
            history = fit_clip(
                clip, pairs, run.steps, run.batch_size, run.learning_rate, settings.warmup, seed=run.seed,
                sampler=sampler, validate=twin_metrics, validate_every=settings.validate_every,
            )  # fmt: skip
            record |= _histories(history)
            timer.stop("training")
        record |= _measures(_evaluate(clip) | _generalization(clip, cache))
        timer.stop("evaluation")
    else:
        embedder = _trained_embedder(run, record, timer, cache)
        record |= _measures(_results(embedder, run) | _generalization(embedder, cache))
        timer.stop("evaluation")
        pairs = _test_pairs(run.n_probe_images)
        record["representations"] = probe_representations(embedder, pairs) if pairs else None
        timer.stop("probing")
    return {**record, "seconds": timer.seconds}


class _Timer:
    """Seconds per stage, each counted from the end of the previous stage."""

    def __init__(self) -> None:
        self.start, self.seconds = time.perf_counter(), {}

    def stop(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self.start = round(now - self.start, 1), now


def _trained_embedder(run: Run, record: dict[str, Any], timer: _Timer, cache: Path | None) -> vk.Embedder:
    """Return the run's embedder. Records whether the model with its adapter off still equals the base bit for bit."""
    lvlm = vk.load_lvlm(run.model)
    base = vk.Embedder(lvlm)
    if run.seed is None:
        return base
    pairs = _test_pairs(N_EQUALITY_IMAGES)
    before = _outputs(base, pairs)
    lora = {"r": run.lora_rank, "lora_alpha": run.lora_rank} if run.lora_rank else False  # scaling 1 at any rank
    embedder = vk.attach(lvlm, run.soft_prompt, lora, run.temperature, seed=run.seed, quiet=True)
    record["trainable"] = embedder.trainable()
    settings = training_settings(run, cache)
    record |= _histories(
        vk.fit(embedder, training_pairs(run, cache), settings, validation=twin_metrics, progress=False)
    )
    if run.lora_weight < 1:
        vk.interpolate(embedder, run.lora_weight)
    with embedder.base():
        after = _outputs(embedder, pairs)
    embeddings_equal = all(torch.equal(one, other) for one, other in zip(before[0], after[0], strict=True))
    record["adapter_off_equal"] = embeddings_equal and before[1] == after[1]
    timer.stop("training")
    return embedder


def training_settings(run: Run, cache: Path | None = None) -> vk.Settings:
    """Return the `fit` settings of a run. Batches above 256 use cached gradients in chunks of 64."""
    return vk.Settings(
        steps=run.steps,
        batch_size=run.batch_size,
        learning_rate=run.learning_rate,
        soft_prompt_learning_rate=run.soft_prompt_learning_rate or None,
        warmup=_warmup(run),
        validate_every=max(1, run.steps // 8),
        next_token_weight=run.next_token_weight,
        distill_weight=run.distill_weight,
        distill_cache=str(cache / "teacher") if cache else None,
        learn_temperature=run.learn_temperature,
        seed=run.seed,
        batches=dict(run.batches),
        mining=Mining(cache=str(cache / "neighbors") if cache else None),
        bf16=run.bf16 or None,
        cache_images=str(cache / "features") if cache else None,
        micro_batch_size=64 if run.batch_size > 256 else None,
        **(dict.fromkeys(("short_limit", "long_limit"), LONG_LIMIT + 1) if run.captions == "long" else {}),
    )


def _warmup(run: Run) -> int:
    return max(1, run.steps // 10)


def twin_metrics(model: Any) -> dict[str, float]:
    """Evaluate test twins during training: `twin_metrics(embedder)["twin_loss"]`, which starts near ln 2."""
    return {"twin_loss": float(twin_loss(winoground_cosines(model, *_twins(vk.sample("winoground_mini")))).mean())}


@lru_cache(maxsize=1)
def _twins(folder: Path) -> tuple[list[Any], list[str]]:
    """Load the images and captions of the evaluated twins, once for all validations."""
    cases = load_winoground(folder)[::TWIN_STRIDE]
    return [image for case in cases for image in case.images], [text for case in cases for text in case.captions]


def _histories(history: Sequence[Mapping[str, float]]) -> dict[str, dict[str, list[float]]]:
    """Return one list per metric of the steps, and of the validations; without the seconds, so equal seeds agree."""
    validated = [row for row in history if TWIN_LOSS in row]
    return {
        "history": _columns(history, [key for key in history[0] if not key.startswith(VALIDATION)]),
        "validation": _columns(validated, ["step", TWIN_LOSS]),
    }


def _columns(rows: Sequence[Mapping[str, float]], keys: Sequence[str]) -> dict[str, list[float]]:
    return {key: [row[key] for row in rows] for key in keys if key != "seconds"}


def training_pairs(run: Run, cache: Path | None = None) -> list[vk.Pair]:
    """Return the run's training pairs: its groups of twins and its captions, with hard negatives if it has them.

    Drawn scenes are kept in `cache`; a run with `n_scenes` raises ValueError without it.
    """
    if run.n_scenes:
        return list(_loaded(_drawn_scenes(run.n_scenes, cache), "train"))
    folder = vk.sample("emoji_pairs")
    rows = [json.loads(line) for line in (folder / "train" / "metadata.jsonl").read_text().splitlines()]
    groups = list(dict.fromkeys(row["group"] for row in rows if "group" in row))[: run.n_groups]
    swaps = {None, *run.swaps} if run.swaps else {None, *(row.get("swap") for row in rows)}
    pairs, scenes = [], []
    for pair, row in zip(_loaded(folder, "train"), rows, strict=True):
        if pair.group is None or (pair.group in groups and row["swap"] in swaps):
            pairs.append(pair)
            scenes.append(Scene.from_dict(row["scene"]))
    if run.captions == "long":  # the long caption moves from the next-token loss to the contrastive loss
        return [replace(pair, short=pair.long, long=None) for pair in pairs if pair.long]
    if run.hard_negatives:
        rng = random.Random(0)
        swapped = [swapped_captions(pair.short, scene) for pair, scene in zip(pairs, scenes, strict=True)]
        negatives = [(rng.choice(captions),) if captions else () for captions in swapped]
        return [replace(pair, negatives=captions) for pair, captions in zip(pairs, negatives, strict=True)]
    return _without_single_groups(pairs)


def _drawn_scenes(n: int, cache: Path | None) -> Path:
    """Draw random scenes once, without held-out combinations."""
    if cache is None:
        raise ValueError(f"n_scenes={n} needs a folder for the drawn scenes: pass cache")
    folder = cache / f"scenes-{n}"
    if not (folder / "train" / "metadata.jsonl").is_file():
        write_training_pairs(folder / "train", n, 0, seed=2)
    return folder


def _held_out_cases(cache: Path) -> Path:
    """Draw Winoground cases of combinations that no training image shows, once."""
    folder = cache / "held-out"
    if not (folder / "examples.jsonl").is_file():
        write_winoground(folder, random.Random("held out"), HELD_OUT_CASES, keep=held_out)
    return folder


def _without_single_groups(pairs: list[vk.Pair]) -> list[vk.Pair]:
    """Remove groups of which the choice of swaps left one pair only."""
    sizes = Counter(pair.group for pair in pairs)
    return [pair for pair in pairs if pair.group is None or sizes[pair.group] > 1]


def _test_pairs(n: int) -> list[vk.Pair]:
    return list(_loaded(vk.sample("emoji_pairs"), "test")[:n])


@lru_cache(maxsize=4)
def _loaded(folder: Path, split: str) -> tuple[vk.Pair, ...]:
    """Load a split once for all runs: loading decodes and validates every image."""
    return tuple(load_pairs(folder, split))


def _outputs(embedder: vk.Embedder, pairs: Sequence[vk.Pair]) -> tuple[list[torch.Tensor], list[str]]:
    """Return image and text embeddings and generated answers, to be compared bit by bit."""
    images = [pair.load_image() for pair in pairs]
    embeddings = [embedder.encode_image(images), embedder.encode_text([pair.short for pair in pairs])]
    return embeddings, embedder.generate_batch(images, ["what is in the picture?"] * len(images), max_new_tokens=12)


def _results(embedder: vk.Embedder, run: Run) -> dict[str, Any]:
    """Evaluate every benchmark in both styles; generation with the adapter on and, if the run says so, off."""
    results = _evaluate(embedder)
    if run.n_generation_images:
        results |= _generation(embedder, run.n_generation_images, "generation")
    if run.generate_adapter_off:
        with embedder.base():
            results |= _generation(embedder, run.n_generation_images, "generation_adapter_off")
    return results


def _measures(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's measures per case, and its Winoground effects by style."""
    effects = {
        style: winoground_effects([case.similarities for case in results[f"winoground/{style}"].cases]).means()
        for style in STYLES
    }
    return {"measures": measures_of(results), "effects": effects}


def _generalization(model: Any, cache: Path | None) -> dict[str, Any]:
    """Evaluate held-out combinations, and hard positives: captions that name the same things in the other order."""
    images = vk.sample("sugarcrepe_mini") / "images"
    results = {"hard positives/seen": vk.evaluate_sugarcrepe_pp(model, vk.sample("sugarcrepe_pp_mini"), images)}
    if cache is not None:
        results["winoground/held-out"] = vk.evaluate_winoground(model, _held_out_cases(cache))
    return results


def _generation(embedder: vk.Embedder, n: int, name: str) -> dict[str, Any]:
    results, folder = {}, vk.sample("emoji_pairs")
    for style, split in STYLES.items():
        images, scenes = load_scenes(folder, split, n)
        results[f"{name}/{style}"] = vk.evaluate_generation(embedder, images, scenes, long_captions=False)
    return results

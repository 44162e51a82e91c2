"""The demo: fine-tune emoji-llava and a CLIP on the same batches, compare both with their bases, and write a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import vladva_kit as vk
from vladva_kit import plots
from vladva_kit.cli.report import write_report
from vladva_kit.data.pairs import load_pairs
from vladva_kit.embedder.identity import describe
from vladva_kit.evaluation.clip_training import fit_clip
from vladva_kit.evaluation.generation import load_scenes
from vladva_kit.evaluation.overview import count_changes
from vladva_kit.evaluation.results import save_results
from vladva_kit.training.batches import batch_sampler

CLIP, CLIP_TUNED = "emoji-clip", "CLIP, same batches"
BASE, LIKELIHOOD, TUNED = "base", "base, likelihood", "fine-tuned"
N_MATRIX_PAIRS = 10  # pairs in the similarity matrices
N_GENERATION_IMAGES = 100  # images per style for questions and captions
LORA_WEIGHT = 0.6  # see vk.interpolate; short captions stay true more often than at 1 (docs/results.md)
CLIP_LEARNING_RATE = 5e-4  # the better of 1e-4 and 5e-4 on twins


def evaluate_all(
    model: Any, generation: bool, log: Callable[[str], None] = print, retrieval: bool = True
) -> dict[str, Any]:
    """Run the emoji world's benchmarks on one model, in the seen styles and in the unseen one.

        evaluate_all(ClipEmbedder("emoji-clip"), generation=False)["winoground/seen"].group.percent

    generation: also ask questions and generate captions. retrieval=False leaves out retrieval, whose pairs are too many
    to score by likelihood. The keys of the results are "benchmark/style".
    """
    pairs, winoground, sugarcrepe = (vk.sample(name) for name in ("emoji_pairs", "winoground_mini", "sugarcrepe_mini"))
    results: dict[str, Any] = {}
    for style, split, subfolder in (("seen", "test", ""), ("unseen style", "unseen_style", "unseen_style")):
        parts = [*["retrieval"] * retrieval, "Winoground", "SugarCrepe", *["questions"] * generation]
        log(f"  {style}: {', '.join(parts)}")
        if retrieval:
            results[f"retrieval/{style}"] = vk.evaluate_retrieval(model, pairs, split=split)
        results[f"winoground/{style}"] = vk.evaluate_winoground(model, winoground / subfolder)
        results[f"sugarcrepe/{style}"] = vk.evaluate_sugarcrepe(model, sugarcrepe / subfolder)
        if generation:
            scenes = load_scenes(pairs, split, N_GENERATION_IMAGES)
            results[f"generation/{style}"] = vk.evaluate_generation(model, *scenes)
    return results


def run_demo(
    folder: Path, settings: vk.Settings, command: str = "vladva demo", log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Fine-tune emoji-llava and emoji-clip on the same batches, evaluate both and their bases, and write a report.

    run_demo(Path("runs/demo"), Settings(steps=150))["models"]["fine-tuned"]["winoground/seen"]["group"]["percent"]

    Writes the adapter, the files of `save_results`, figures/ and report.html. Returns the content of results.json.
    """
    start, seconds = time.perf_counter(), dict[str, float]()

    def record_time(name: str) -> None:
        seconds[name] = round(time.perf_counter() - start - sum(seconds.values()), 1)

    log("emoji-llava, the base model with hand-written prompts")
    lvlm = vk.load_lvlm("emoji-llava")
    base = vk.Embedder(lvlm)
    results = {BASE: evaluate_all(base, generation=True, log=log)}
    log("emoji-llava, asked: the likelihood of a caption given the image")
    scorer = vk.LikelihoodScorer(lvlm)
    results[LIKELIHOOD] = evaluate_all(scorer, generation=False, log=log, retrieval=False)
    identity = {BASE: describe(base), LIKELIHOOD: describe(scorer)}
    test_pairs = load_pairs(vk.sample("emoji_pairs"), split="test")[:N_MATRIX_PAIRS]
    before = _similarity_matrix(base, test_pairs)
    record_time("evaluating the base model")
    # mined once, for both models
    settings = replace(settings, mining=replace(settings.mining, cache=str(folder / "neighbors")))
    log(f"fine-tuning: {settings.steps} steps of {settings.batch_size} pairs")
    embedder = vk.attach(lvlm, seed=settings.seed)
    pairs = load_pairs(vk.sample("emoji_pairs"))  # decoded and checked once, for both models
    history = vk.fit(embedder, pairs, settings)
    vk.interpolate(embedder, LORA_WEIGHT)
    record_time("fine-tuning")
    log("emoji-llava, fine-tuned")
    results[TUNED] = evaluate_all(embedder, generation=True, log=log)
    identity[TUNED] = describe(embedder)
    after = _similarity_matrix(embedder, test_pairs)
    record_time("evaluating the fine-tuned model")
    log("emoji-clip, as shipped and fine-tuned on the same batches")
    results |= _clip_results(embedder, pairs, settings, identity, log)
    record_time("fine-tuning and evaluating emoji-clip")
    embedder.save_pretrained(folder / "adapter")
    sentences = effect(results)
    metadata = {"command": command, "seed": settings.seed, "seconds": seconds, "effect": sentences, "history": history}
    saved = _write(folder, results, identity, metadata, _figures(history, test_pairs, before, after))
    for sentence in sentences:
        log(sentence)
    return saved


def _write(
    folder: Path,
    results: Mapping[str, Any],
    identity: dict[str, Any],
    metadata: dict[str, Any],
    figures: dict[str, Figure],
) -> dict[str, Any]:
    """Write results, figures and the report; return the content of results.json."""
    ordered = {name: results[name] for name in (CLIP, CLIP_TUNED, BASE, LIKELIHOOD, TUNED)}
    saved = save_results(folder, ordered, identity, metadata)
    for heading, figure in figures.items():
        plots.save(figure, folder / "figures" / heading.lower().replace(" ", "-"))
    winoground = {name: result["winoground/unseen style"] for name, result in ordered.items()}
    write_report(folder, saved, figures, winoground)
    return saved


def _clip_results(
    embedder: vk.Embedder,
    pairs: list[vk.Pair],
    settings: vk.Settings,
    identity: dict[str, Any],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Evaluate emoji-clip before and after training on the batches that the LVLM had."""
    clip = vk.ClipEmbedder("emoji-clip")
    results = {CLIP: evaluate_all(clip, generation=False, log=log)}
    identity[CLIP] = describe(clip)
    fit_clip(
        clip, pairs, settings.steps, settings.batch_size, CLIP_LEARNING_RATE, settings.warmup, seed=settings.seed,
        sampler=batch_sampler(embedder, pairs, settings),
    )  # fmt: skip
    results[CLIP_TUNED] = evaluate_all(clip, generation=False, log=log)
    identity[CLIP_TUNED] = describe(clip)
    return results


def effect(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """State the fine-tune's effect on composition, with the cases that it fixes and breaks, in both styles.

    effect(results)[0]
    # "Winoground group, seen: base 13.9 → fine-tuned 97.8 % (152 fixed, 1 broken; emoji-clip, same batches: 1.1 %)"
    """
    sentences = []
    for style in ("seen", "unseen style"):
        base, tuned, clip = (results[name][f"winoground/{style}"] for name in (BASE, TUNED, CLIP_TUNED))
        fixed, broken = count_changes(base, tuned, "group")
        sentences.append(
            f"Winoground group, {style}: base {base.group.percent:.1f} → fine-tuned {tuned.group.percent:.1f} % "
            f"({fixed} fixed, {broken} broken; {CLIP_TUNED}: {clip.group.percent:.1f} %)"
        )
    return sentences


def _figures(history: list[dict[str, float]], pairs: list[vk.Pair], before: Any, after: Any) -> dict[str, Figure]:
    images, captions = [pair.load_image() for pair in pairs], [pair.short or "" for pair in pairs]
    return {
        "Training": plots.training_curve(history),
        "Similarity before and after": plots.similarity_before_after(before, after, images, captions),
    }


def _similarity_matrix(embedder: vk.Embedder, pairs: list[vk.Pair]) -> Any:
    images = embedder.encode_image([pair.load_image() for pair in pairs])
    return embedder.similarity(images, embedder.encode_text([pair.short or "" for pair in pairs])).numpy()

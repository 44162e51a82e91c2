"""The demo: fine-tune emoji-llava, compare it with its base model and emoji-clip, and write a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import vladva_kit as vk
from vladva_kit import plots
from vladva_kit.cli.report import write_report
from vladva_kit.data.pairs import load_pairs
from vladva_kit.embedder.identity import describe
from vladva_kit.evaluation.generation import load_scenes
from vladva_kit.evaluation.results import save_results

N_MATRIX_PAIRS = 10  # pairs in the similarity matrices
N_GENERATION_IMAGES = 100  # images per style for questions and captions


def evaluate_all(model: Any, generation: bool, log: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the emoji world's benchmarks on one model, in the seen styles and in the unseen one.

        evaluate_all(ClipEmbedder("emoji-clip"), generation=False)["winoground/seen"].group.percent

    generation: also ask questions and generate captions. The keys of the results are "benchmark/style".
    """
    pairs, winoground, sugarcrepe = (vk.sample(name) for name in ("emoji_pairs", "winoground_mini", "sugarcrepe_mini"))
    results: dict[str, Any] = {}
    for style, split, subfolder in (("seen", "test", ""), ("unseen style", "unseen_style", "unseen_style")):
        log(f"  {style}: retrieval, Winoground, SugarCrepe" + (", questions" if generation else ""))
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
    """Fine-tune emoji-llava, evaluate it next to its base model and emoji-clip, and write everything to a folder.

    run_demo(Path("runs/demo"), Settings(steps=150))["models"]["fine-tuned"]["winoground/seen"]["group"]["percent"]

    Writes the adapter, the files of `save_results`, figures/ and report.html. Returns the content of results.json.
    """
    start, seconds = time.perf_counter(), {}

    def record_time(name: str) -> None:
        seconds[name] = round(time.perf_counter() - start - sum(seconds.values()), 1)

    log("emoji-clip, the baseline")
    clip = vk.ClipEmbedder("emoji-clip")
    results = {"emoji-clip": evaluate_all(clip, generation=False, log=log)}
    record_time("evaluating emoji-clip")
    log("emoji-llava, the base model with hand-written prompts")
    lvlm = vk.load_lvlm("emoji-llava")
    base = vk.Embedder(lvlm)
    results["base"] = evaluate_all(base, generation=True, log=log)
    pairs = load_pairs(vk.sample("emoji_pairs"), split="test")[:N_MATRIX_PAIRS]
    before = _similarity_matrix(base, pairs)
    record_time("evaluating the base model")
    log(f"fine-tuning: {settings.steps} steps of {settings.batch_size} pairs")
    embedder = vk.attach(lvlm, seed=settings.seed)
    history = vk.fit(embedder, vk.sample("emoji_pairs"), settings)
    record_time("fine-tuning")
    log("emoji-llava, fine-tuned")
    results["fine-tuned"] = evaluate_all(embedder, generation=True, log=log)
    record_time("evaluating the fine-tuned model")
    embedder.save_pretrained(folder / "adapter")
    identity = {name: describe(model) for name, model in zip(results, (clip, base, embedder), strict=True)}
    metadata = {"command": command, "seed": settings.seed, "seconds": seconds, "history": history}
    saved = save_results(folder, results, identity, metadata)
    figures = _figures(history, pairs, before, _similarity_matrix(embedder, pairs))
    for heading, figure in figures.items():
        plots.save(figure, folder / "figures" / heading.lower().replace(" ", "-"))
    winoground = {name: by_benchmark["winoground/unseen style"] for name, by_benchmark in results.items()}
    write_report(folder, saved, figures, winoground)
    return saved


def _figures(history: list[dict[str, float]], pairs: list[vk.Pair], before: Any, after: Any) -> dict[str, Figure]:
    images, captions = [pair.load_image() for pair in pairs], [pair.short for pair in pairs]
    return {
        "Training": plots.training_curve(history),
        "Similarity before and after": plots.similarity_before_after(before, after, images, captions),
    }


def _similarity_matrix(embedder: vk.Embedder, pairs: list[vk.Pair]) -> Any:
    images = embedder.encode_image([pair.load_image() for pair in pairs])
    return embedder.similarity(images, embedder.encode_text([pair.short for pair in pairs])).numpy()

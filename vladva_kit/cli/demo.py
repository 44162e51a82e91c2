"""The corridor in one run: emoji-clip, the LVLM as it is, and the LVLM fine-tuned, judged on the same cases."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import vladva_kit as vk
from vladva_kit import plots
from vladva_kit.cli.report import worst_failures, write_report
from vladva_kit.data.pairs import load_pairs
from vladva_kit.evaluation import WinogroundResult
from vladva_kit.evaluation.generation import load_scenes
from vladva_kit.evaluation.identity import describe
from vladva_kit.evaluation.results import save_all_results

SHOWN = 10  # pairs in the similarity matrices
TALKS_ABOUT = 100  # pictures that are asked about, before and after


def judge(model: Any, talk: bool, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Every benchmark of the emoji world on one model, in the seen styles and in the unseen one.

        judge(ClipEmbedder("emoji-clip"), talk=False)["winoground/seen"].group.percent

    talk: whether it is asked questions too. Results are the evaluations' own, by "benchmark/style".
    """
    pairs, winoground, sugarcrepe = (vk.sample(name) for name in ("emoji_pairs", "winoground_mini", "sugarcrepe_mini"))
    judged: dict[str, Any] = {}
    for style, split, within in (("seen", "test", ""), ("unseen style", "unseen_style", "unseen_style")):
        say(f"  {style}: retrieval, Winoground, SugarCrepe" + (", questions" if talk else ""))
        judged[f"retrieval/{style}"] = vk.evaluate_retrieval(model, pairs, split=split)
        judged[f"winoground/{style}"] = vk.evaluate_winoground(model, winoground / within)
        judged[f"sugarcrepe/{style}"] = vk.evaluate_sugarcrepe(model, sugarcrepe / within)
        if talk:
            judged[f"generation/{style}"] = vk.evaluate_generation(model, *load_scenes(pairs, split, TALKS_ABOUT))
    return judged


def run_demo(
    folder: Path, settings: vk.Settings, command: str = "vladva demo", say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Judges three models, fine-tunes one in between; writes adapter, results.json and all beside it, figures, page.

    results = run_demo(Path("runs/demo"), Settings(steps=150, batch_size=64))
    results["models"]["fine-tuned"]["winoground/seen"]["group"]["percent"]
    """
    begun, seconds = time.perf_counter(), {}

    def clock(name: str) -> None:
        seconds[name] = round(time.perf_counter() - begun - sum(seconds.values()), 1)

    say("emoji-clip, the peer")
    clip = vk.ClipEmbedder("emoji-clip")
    judged = {"emoji-clip": judge(clip, talk=False, say=say)}
    clock("judging emoji-clip")
    say("emoji-llava as it is, with hand-written prompts")
    lvlm = vk.load_lvlm("emoji-llava")
    baseline = vk.Embedder(lvlm)
    judged["base"] = judge(baseline, talk=True, say=say)
    shown = load_pairs(vk.sample("emoji_pairs"), split="test")[:SHOWN]
    before = _matrix(baseline, shown)
    clock("judging the base")
    say(f"fine-tuning: {settings.steps} steps of {settings.batch_size} pairs")
    embedder = vk.attach(lvlm, seed=settings.seed)
    history = vk.fit(embedder, vk.sample("emoji_pairs"), settings)
    clock("fine-tuning")
    say("emoji-llava, fine-tuned")
    judged["fine-tuned"] = judge(embedder, talk=True, say=say)
    clock("judging the fine-tuned")
    embedder.save_pretrained(folder / "adapter")
    identity = {"emoji-clip": describe(clip), "base": describe(baseline), "fine-tuned": describe(embedder)}
    told = {"command": command, "seed": settings.seed, "seconds": seconds, "history": history}
    results = save_all_results(folder, judged, identity, told)
    figures = {
        "Training": plots.training_curve(history),
        "Similarity before and after": plots.similarity_before_after(
            before, _matrix(embedder, shown), [pair.load_image() for pair in shown], [pair.short for pair in shown]
        ),
    }
    for heading, figure in figures.items():
        plots.save(figure, folder / "figures" / heading.lower().replace(" ", "-"))
    write_report(folder, results, figures, failures(judged))
    return results


def _matrix(embedder: vk.Embedder, pairs: list[vk.Pair]) -> Any:
    images = embedder.encode_image([pair.load_image() for pair in pairs])
    return embedder.similarity(images, embedder.encode_text([pair.short for pair in pairs])).numpy()


def failures(judged: Mapping[str, Mapping[str, Any]], of: str = "fine-tuned", k: int = 5) -> list:
    """The five worst compositional failures of a model in the unseen style, beside what the others make of them."""
    results: dict[str, WinogroundResult] = {name: parts["winoground/unseen style"] for name, parts in judged.items()}
    return worst_failures(results, of, k)

"""Encoding with int8 weights on a CPU: recall@1 and speed, against float32 in the same run.

Recall is that of emoji-llava with the shipped adapter on emoji_pairs. Speed is also measured on random weights in a
larger shape, since small matrices gain least. Needs torchao.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import vladva_kit as vk
from experiments.benchmarks import measure
from experiments.benchmarks.shapes import random_lvlm, sample_pairs
from vladva_kit.embedder.quantization import quantize_int8

NOT_INSTALLED = "torchao is not installed (pip install torchao), so nothing was measured."
STYLES = {"seen": "test", "unseen style": "unseen_style"}  # style -> split
LARGEST_LOSS = 0.3  # points of recall@1
PRECISIONS = ("float32", "int8")


def recall_table(n_queries: int | None = None) -> tuple[str, float]:
    """Return a table of recall@1 by style and precision, and the largest loss in points: `recall_table()`."""
    values: dict[str, list[float]] = {}
    for precision in PRECISIONS:
        embedder = vk.Embedder.from_pretrained("emoji-llava-vladva")
        if precision == "int8":
            quantize_int8(embedder)
        for style, split in STYLES.items():
            pairs = vk.load_pairs(vk.sample("emoji_pairs"), split)[:n_queries]
            result = vk.evaluate_retrieval(embedder, pairs)
            for way, scores in (("image → text", result.image_to_text), ("text → image", result.text_to_image)):
                values.setdefault(f"{way}, {style}", []).append(scores[1].percent)
    rows = [["recall@1 (%)", *PRECISIONS], *([name, *(f"{one:.1f}" for one in row)] for name, row in values.items())]
    return measure.table(rows), max(plain - quantized for plain, quantized in values.values())


def time_encoding(embedders: dict[str, vk.Embedder], n: int, batch: int, runs: int) -> dict[str, dict[str, list]]:
    """Time encoding of n images and of their captions by precision: `time_encoding(embedders, 64, 32, 5)["images"]`."""
    pairs = sample_pairs(n)
    images, captions = [pair.load_image() for pair in pairs], [pair.short for pair in pairs]
    tasks = {
        "images": {name: lambda one=one: one.encode_image(images, batch) for name, one in embedders.items()},
        "captions": {name: lambda one=one: one.encode_text(captions, batch) for name, one in embedders.items()},
    }
    return {task: measure.time_interleaved(methods, runs) for task, methods in tasks.items()}


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(
        __doc__, shape="smolvlm-2-layers", pairs=64, batch=32, queries=500, device="cpu", dtype="float32"
    )
    if importlib.util.find_spec("torchao") is None:
        measure.write_page(args.out, "int8", __doc__, [NOT_INSTALLED], {})
        return
    recall, loss = recall_table(args.queries)
    targets = [measure.target("largest loss of recall@1 (points)", loss, at_most=LARGEST_LOSS)]
    rows, ratios, seconds = [["model", "", *PRECISIONS, "float32 / int8"]], {}, {}
    for name in ("emoji-llava", args.shape):
        embedders: dict[str, Any] = {
            precision: vk.Embedder(vk.load_lvlm(name) if name == "emoji-llava" else random_lvlm(name))
            for precision in PRECISIONS
        }
        quantize_int8(embedders["int8"])
        seconds[name] = time_encoding(embedders, args.pairs, args.batch, args.runs)
        for task, times in seconds[name].items():
            ratio = ratios[f"{name}, {task}"] = measure.median_ratio(times, *PRECISIONS)
            rows.append([name, task, *(measure.median_and_range(times[one]) for one in PRECISIONS), f"{ratio:.2f}"])
    text = f"Seconds for {args.pairs} images or captions, batches of {args.batch}:\n\n{measure.table(rows)}"
    values = {"loss": loss, "ratios": ratios, "seconds": seconds}
    measure.write_page(args.out, "int8", __doc__, [recall, *targets, text], values)


if __name__ == "__main__":
    main()

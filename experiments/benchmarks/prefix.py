"""Captions after a system prompt: the kit runs the tokens before all captions once, sentence-transformers in each row.

The template has as many tokens around a caption as Qwen2-VL's: 14 before it, with the system prompt, and 14 after it.
Both libraries run the same weights. "Mixed" is each image with its short and its long caption; images share no prefix.
The last table is the forward pass alone, by length of the prefix: where sharing starts to pay off.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import vladva_kit as vk
from experiments.benchmarks import baselines, measure
from experiments.benchmarks.shapes import random_lvlm, sample_pairs
from vladva_kit.embedder import prefix
from vladva_kit.embedder.prompts import ModelInputs, text_inputs
from vladva_kit.models.load import LVLM

BEFORE, AFTER = 14, 14  # tokens of Qwen2-VL's template around a caption, with the kit's prompt
TARGETS = {"captions": 1.3, "mixed": 1.1}


def with_system_prompt(lvlm: LVLM) -> vk.Embedder:
    """Let the chat template write as many tokens around a caption as Qwen2-VL's: `with_system_prompt(lvlm)`."""
    plain, tokenizer, original = vk.Embedder(lvlm), lvlm.processor.tokenizer, lvlm.processor.chat_template
    before = text_inputs(tokenizer, ["a"], plain.text_prompt).prefix_length
    system, end = "dog " * (BEFORE - before), " dog" * (AFTER - len(plain.text_prompt.ids))
    lvlm.processor.chat_template = f"{system}{original}{end}"
    return vk.Embedder(lvlm)


def forward_pass(embedder: vk.Embedder, length: int, rows: int, rest: int, shared: bool) -> Callable[[], Any]:
    """Return a function that runs random texts of `rest` tokens after a prefix of this length."""
    generator = torch.Generator().manual_seed(0)
    highest = embedder.lvlm.model.get_input_embeddings().num_embeddings
    ids = torch.randint(highest, (rows, length + rest), generator=generator)
    ids[:, :length] = ids[:1, :length]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch = ModelInputs(inputs, torch.full((rows,), length + rest - 1), prefix_length=length).to(embedder.device)
    start = {"input_ids": batch.inputs["input_ids"][:1, :length]}

    @torch.inference_mode()
    def run() -> Any:
        if not shared:
            return embedder.hidden_states(replace(batch, prefix_length=0))
        return prefix.states_with_prefix(embedder.lvlm, batch, prefix.run_prefix(embedder.lvlm, start))

    return run


def by_length(embedder: vk.Embedder, args: Namespace) -> tuple[str, dict[str, float]]:
    """Return a table of the time of plain / shared forward passes by length of the prefix, and the ratios."""
    rows, ratios = [["tokens of the prefix", "plain / shared", "tokens run, plain / shared"]], {}
    for length in args.prefixes:
        methods = {
            name: forward_pass(embedder, length, args.batch, args.rest, name == "shared")
            for name in ("plain", "shared")
        }
        ratio = measure.median_ratio(measure.time_interleaved(methods, args.runs), "plain", "shared")
        tokens = args.batch * (length + args.rest) / (length + args.batch * args.rest)
        rows.append([str(length), f"{ratio:.2f}", f"{tokens:.2f}"])
        ratios[str(length)] = ratio
    return measure.table(rows), ratios


def compare(embedder: vk.Embedder, items: list[list], size: int, model: Any, runs: int) -> dict[str, Any]:
    """Time both libraries on lists of images or captions; also the largest difference of their embeddings."""

    def kit() -> list[torch.Tensor]:
        encode = (embedder.encode_text if isinstance(one[0], str) else embedder.encode_image for one in items)
        return [function(one, batch_size=size) for function, one in zip(encode, items, strict=True)]

    def other() -> list[torch.Tensor]:
        return [model.encode(one, batch_size=size, convert_to_tensor=True).cpu() for one in items]

    difference = max(float((a - b).abs().max()) for a, b in zip(kit(), other(), strict=True))
    seconds = measure.time_interleaved({"kit": kit, "sentence-transformers": other}, runs, warmed_up=True)
    ratio = measure.median_ratio(seconds, "sentence-transformers", "kit")
    return {"seconds": seconds, "ratio": ratio, "difference": difference, "kit": kit}


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(
        __doc__, shape="smolvlm-2-layers", pairs=256, batch=64, rest=28, prefixes=[1, 2, 4, 6, 8, 14, 32],
        device="cpu", dtype="float32",
    )  # fmt: skip
    embedder = with_system_prompt(random_lvlm(args.shape, args.device, args.dtype))
    pairs = sample_pairs(args.pairs)
    short, long = [pair.short for pair in pairs], [pair.long for pair in pairs]
    parts, results = [f"{args.pairs} pairs, {args.shape}, {args.dtype}, batches of {args.batch}."], {}
    if baselines.installed():
        with tempfile.TemporaryDirectory() as folder:
            model = baselines.sentence_transformer(embedder, Path(folder) / "exported")
        cases = {"captions": [short], "mixed": [[pair.load_image() for pair in pairs], short, long]}
        rows = [["", "library", measure.SECONDS, "largest difference"]]
        targets = []
        for name, items in cases.items():
            result = compare(embedder, items, args.batch, model, args.runs)
            for library, times in result["seconds"].items():
                rows.append([name, library, measure.median_and_range(times), f"{result['difference']:.1e}"])
            ratio = f"{name.capitalize()}, sentence-transformers / kit"
            reached = [measure.target(ratio, result["ratio"], at_least=TARGETS[name])]
            targets += measure.with_profile(reached, f"the kit's encoding, {name}", result.pop("kit"))
            results[name] = result
        parts += [measure.table(rows), *targets]
    else:
        parts.append(baselines.NOT_INSTALLED)
    crossover, ratios = by_length(embedder, args)
    parts.append(f"Forward pass of {args.batch} texts of {args.rest} tokens after the prefix:\n\n{crossover}")
    parts.append(f"The kit shares a prefix of at least {prefix.MIN_SHARED_PREFIX} tokens.")
    measure.write_page(args.out, "prefix", __doc__, parts, {"results": results, "by_length": ratios})


if __name__ == "__main__":
    main()

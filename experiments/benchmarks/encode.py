"""Encoding: the kit, sentence-transformers, the plain recipe, and the bare inner forward on ideal batches (the floor).

The plain recipe is what a first attempt does: a full forward with logits and all hidden states, batches as they come.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import vladva_kit as vk
from experiments.benchmarks import baselines
from experiments.benchmarks.measure import arguments, explained, goal, page, ratio, spread, table, turns
from experiments.benchmarks.shapes import scenes, shaped
from vladva_kit.embedder.embedder import summary_embeddings
from vladva_kit.embedder.prompts import ModelInputs, image_inputs, text_inputs

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def batches(embedder: vk.Embedder, pairs: list[vk.Pair], size: int, ordered: bool) -> list[ModelInputs]:
    """Pictures' and captions' sequences, `size` at a time; the captions by length if `ordered`."""
    processor = embedder.lvlm.processor
    texts = [pair.short for pair in pairs] + [pair.long for pair in pairs]
    if ordered:
        texts = sorted(texts, key=lambda text: len(processor.tokenizer(text).input_ids))
    images = [pair.load_image() for pair in pairs]
    parts = [images[at : at + size] for at in range(0, len(images), size)]
    worded = [texts[at : at + size] for at in range(0, len(texts), size)]
    pictured = [image_inputs(processor, part, embedder.image_prompt) for part in parts]
    return pictured + [text_inputs(processor.tokenizer, part, embedder.text_prompt) for part in worded]


@torch.inference_mode()
def plain(embedder: vk.Embedder, pairs: list[vk.Pair], size: int) -> list[torch.Tensor]:
    """Logits for every token and the states of every layer, for one state a row."""
    found = []
    for sequences in batches(embedder, pairs, size, ordered=False):
        moved = sequences.to(embedder.device)
        states = embedder.lvlm.model(**moved.inputs, output_hidden_states=True).hidden_states[-1]
        found.append(summary_embeddings(states, moved))
    return found


@torch.inference_mode()
def floor(embedder: vk.Embedder, ready: list[ModelInputs]) -> list[torch.Tensor]:
    """Nothing but the inner model on batches that are ready."""
    return [summary_embeddings(embedder.hidden_states(sequences), sequences) for sequences in ready]


def kit(embedder: vk.Embedder, pairs: list[vk.Pair], size: int) -> list[torch.Tensor]:
    """encode_image and encode_text."""
    texts = [pair.short for pair in pairs] + [pair.long for pair in pairs]
    images = [pair.image for pair in pairs]
    return [embedder.encode_image(images, batch_size=size), embedder.encode_text(texts, batch_size=size)]


def sentence(model: SentenceTransformer, pairs: list[vk.Pair], size: int) -> list[torch.Tensor]:
    """sentence-transformers' own encode on the exported model."""
    texts = [pair.short for pair in pairs] + [pair.long for pair in pairs]
    images = [pair.load_image() for pair in pairs]
    return [model.encode(things, batch_size=size, convert_to_tensor=True).cpu() for things in (images, texts)]


def main() -> None:
    """Runs and writes the page."""
    chosen = arguments(__doc__, shape="smolvlm-2-layers", pairs=256, batch=64, device="cpu", dtype="float32")
    embedder = vk.Embedder(shaped(chosen.shape, chosen.device, getattr(torch, chosen.dtype)))
    pairs = scenes(chosen.pairs)
    ready = [sequences.to(embedder.device) for sequences in batches(embedder, pairs, chosen.batch, ordered=True)]
    ways = {
        "kit": lambda: kit(embedder, pairs, chosen.batch),
        "plain recipe": lambda: plain(embedder, pairs, chosen.batch),
        "floor": lambda: floor(embedder, ready),
    }
    told = [baselines.MISSING]
    if baselines.there():
        with tempfile.TemporaryDirectory() as folder:
            model = baselines.sentence_model(embedder, Path(folder) / "exported")
        ways["sentence-transformers"] = lambda: sentence(model, pairs, chosen.batch)
        off = max(
            float((one - other).abs().max())
            for one, other in zip(ways["sentence-transformers"](), ways["kit"](), strict=True)
        )
        told = [f"The exported model's embeddings are the kit's within {off:.1e}."]
    seconds = turns(ways, chosen.runs)
    rows = [["way", "seconds: median (least–largest)", "times the kit's: median over the turns"]]
    rows += [[name, spread(own), f"{ratio(seconds, name, 'kit'):.2f}"] for name, own in seconds.items()]
    ratios = {f"{name} / kit": ratio(seconds, name, "kit") for name in seconds if name != "floor"}
    ratios["kit / floor"] = ratio(seconds, "kit", "floor")
    goals = {"plain recipe / kit": (2.0, True), "sentence-transformers / kit": (1.1, True), "kit / floor": (1.1, False)}
    met = [goal(name.capitalize(), ratios[name], *wanted) for name, wanted in goals.items() if name in ratios]
    page(chosen.out, "encode", __doc__, [
        f"{chosen.pairs} pictures and {2 * chosen.pairs} captions, {chosen.shape}, batches of {chosen.batch}.",
        table(rows),
        *explained(met, "the kit's way", ways["kit"]),
        "The kit's time holds preprocessing and tokenizing, the floor's does not.",
        *told,
    ], {"seconds": seconds, "ratios": ratios})  # fmt: skip


if __name__ == "__main__":
    main()

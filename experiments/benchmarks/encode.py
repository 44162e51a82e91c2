"""Encoding: the kit, sentence-transformers, a plain recipe, and the inner forward pass on prepared batches (the floor).

The plain recipe is a common first implementation: a full forward pass with logits and all hidden states, on unsorted
batches.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import vladva_kit as vk
from experiments.benchmarks import baselines, measure
from experiments.benchmarks.shapes import random_lvlm, sample_pairs
from vladva_kit.embedder.embedder import summary_embeddings
from vladva_kit.embedder.prompts import ModelInputs, image_inputs, text_inputs

TARGETS = {
    "plain recipe / kit": {"at_least": 2.0},
    "sentence-transformers / kit": {"at_least": 1.1},
    "kit / floor": {"at_most": 1.1},
}


def prepare_batches(
    embedder: vk.Embedder, images: list, texts: list[str], size: int, by_length: bool
) -> list[ModelInputs]:
    """Prepare batches of images and of captions, the captions sorted by length on request."""
    processor = embedder.lvlm.processor
    if by_length:
        texts = sorted(texts, key=lambda text: len(processor.tokenizer(text).input_ids))
    image_parts, text_parts = (
        [items[start : start + size] for start in range(0, len(items), size)] for items in (images, texts)
    )
    return [
        *(image_inputs(processor, part, embedder.image_prompt) for part in image_parts),
        *(text_inputs(processor.tokenizer, part, embedder.text_prompt) for part in text_parts),
    ]


@torch.inference_mode()
def encode_plain(embedder: vk.Embedder, images: list, texts: list[str], size: int) -> list[torch.Tensor]:
    """Compute logits for all tokens and the states of all layers, and use one state per row."""
    embeddings = []
    for inputs in prepare_batches(embedder, images, texts, size, by_length=False):
        moved = inputs.to(embedder.device)
        states = embedder.lvlm.model(**moved.inputs, output_hidden_states=True).hidden_states[-1]
        embeddings.append(summary_embeddings(states, moved))
    return embeddings


@torch.inference_mode()
def encode_floor(embedder: vk.Embedder, prepared: list[ModelInputs]) -> list[torch.Tensor]:
    """Run only the inner model, on prepared batches."""
    return [summary_embeddings(embedder.hidden_states(inputs), inputs) for inputs in prepared]


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(
        __doc__, shape="smolvlm-2-layers", pairs=256, batch=64, device="cpu", dtype="float32"
    )
    embedder = vk.Embedder(random_lvlm(args.shape, args.device, args.dtype))
    pairs = sample_pairs(args.pairs)
    images, size = [pair.load_image() for pair in pairs], args.batch
    texts = [pair.short for pair in pairs] + [pair.long for pair in pairs]
    batches = prepare_batches(embedder, images, texts, size, by_length=True)
    prepared = [inputs.to(embedder.device) for inputs in batches]
    methods = {
        "kit": lambda: [embedder.encode_image(images, batch_size=size), embedder.encode_text(texts, batch_size=size)],
        "plain recipe": lambda: encode_plain(embedder, images, texts, size),
        "floor": lambda: encode_floor(embedder, prepared),
    }
    note = baselines.NOT_INSTALLED
    if baselines.installed():
        with tempfile.TemporaryDirectory() as folder:
            model = baselines.sentence_transformer(embedder, Path(folder) / "exported")
        methods["sentence-transformers"] = lambda: [
            model.encode(items, batch_size=size, convert_to_tensor=True).cpu() for items in (images, texts)
        ]
        both = zip(methods["sentence-transformers"](), methods["kit"](), strict=True)
        difference = max(float((one - other).abs().max()) for one, other in both)
        note = f"The exported model's embeddings differ from the kit's by at most {difference:.1e}."
    seconds = measure.time_interleaved(methods, args.runs)
    ratios = {f"{name} / kit": measure.median_ratio(seconds, name, "kit") for name in seconds}
    ratios["kit / floor"] = measure.median_ratio(seconds, "kit", "floor")
    rows = [[name, measure.median_and_range(t), f"{ratios[f'{name} / kit']:.2f}"] for name, t in seconds.items()]
    targets = [
        measure.target(name.capitalize(), ratios[name], **bound) for name, bound in TARGETS.items() if name in ratios
    ]
    parts = [
        f"{args.pairs} images and {2 * args.pairs} captions, {args.shape}, batches of {size}.",
        measure.table([["method", measure.SECONDS, "relative to the kit"], *rows]),
        *measure.with_profile(targets, "the kit's encoding", methods["kit"]),
        "The kit's time includes preprocessing and tokenization; the floor's does not.",
        note,
    ]
    measure.write_page(args.out, "encode", __doc__, parts, {"seconds": seconds, "ratios": ratios})


if __name__ == "__main__":
    main()

"""Compare vLLM's vectors with those of the same exported folder in sentence-transformers.

    vladva export ADAPTER --out exported
    python docs/compare_with_vllm.py exported my_pairs

Not run with vLLM by the kit's authors: only the prompts and the report are tested. Needs a GPU and `pip install vllm`.
Exits with status 1 if a cosine is below LEAST_COSINE or if an image has another nearest caption.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoProcessor

import vladva_kit as vk
from vladva_kit.embedder.prompts import begins_with_bos

LEAST_COSINE = 0.999  # bfloat16 on both sides leaves about 0.9995
PAIRS = 64


def prompts(folder: str, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[list[dict[str, Any]], bool]:
    """Return vLLM's prompts of images and texts, rendered by the folder's template, and whether bos is to be added."""
    processor = AutoProcessor.from_pretrained(folder)

    def render(part: dict[str, str]) -> str:
        return processor.apply_chat_template([{"role": "user", "content": [part]}])

    shown = [{"prompt": render({"type": "image"}), "multi_modal_data": {"image": image}} for image in images]
    written = [{"prompt": render({"type": "text", "text": text})} for text in texts]
    return [*shown, *written], not begins_with_bos(processor.tokenizer, written[0]["prompt"])


def vllm_vectors(folder: str, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
    """Embed images, then texts, with vLLM: (n_images + n_texts, dim), unit length."""
    from vllm import LLM

    requests, add_bos = prompts(folder, images, texts)
    llm = LLM(model=folder, runner="pooling", convert="embed", limit_mm_per_prompt={"image": 1})
    outputs = llm.embed(requests, tokenization_kwargs={"add_special_tokens": add_bos})
    return normalize(torch.tensor([output.outputs.embedding for output in outputs]), dim=-1)


def report(ours: Tensor, theirs: Tensor, n_images: int) -> tuple[list[str], bool]:
    """Return lines that compare the vectors (n_images + n_texts, dim), and whether they agree."""
    cosines = (ours * theirs).sum(-1)
    nearest = [(rows[:n_images] @ rows[n_images:].T).argmax(1) for rows in (ours, theirs)]
    changed = int((nearest[0] != nearest[1]).sum())
    lines = [
        f"images: least cosine {cosines[:n_images].min():.5f}",
        f"texts: least cosine {cosines[n_images:].min():.5f}",
        f"nearest caption of an image: {changed} of {n_images} differ",
    ]
    return lines, bool(cosines.min() >= LEAST_COSINE) and not changed


def main(folder: str, data: str) -> int:
    """Compare both on a folder of pairs, print the report, and return the exit status."""
    pairs = [pair for pair in vk.load_pairs(data) if pair.short][:PAIRS]
    images, texts = [pair.load_image() for pair in pairs], [pair.short for pair in pairs]
    reference = vk.load_baseline(f"sentence_transformers:{folder}")
    ours = torch.cat([reference.encode_image(images), reference.encode_text(texts)])
    lines, equal = report(ours, vllm_vectors(folder, images, texts), len(images))
    print("\n".join([*lines, "equal" if equal else "different: do not mix vectors of both in one index"]))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

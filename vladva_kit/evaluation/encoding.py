"""Images and captions of a benchmark to similarities: each encoded once, each pair scored in float32."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vladva_kit.inputs import open_image


class EncodesPairs(Protocol):
    """What can be evaluated: unit-length embeddings (n, dim) of images and of texts, as tensors or arrays."""

    def encode_image(self, images: Sequence[Image.Image], /) -> Any: ...

    def encode_text(self, texts: list[str], /) -> Any: ...


def image_key(image: Image.Image | Path | bytes) -> Hashable:
    """The same key for the same image: a path as the file it leads to, anything else by its content."""
    if isinstance(image, Path):
        return str(image.resolve())
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    return image.mode, image.size, hashlib.sha256(image.tobytes()).digest()


def number_unique(keys: Sequence[Hashable]) -> tuple[list[int], np.ndarray]:
    """First place of each different key, and each key's number: `["a", "b", "a"]` -> `[0, 1], array([0, 1, 0])`."""
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    first = np.unique(index, return_index=True)[1].tolist()
    return first, index


def embed_images(embedder: EncodesPairs, images: Sequence[Image.Image | Path | bytes], batch_size: int) -> np.ndarray:
    """Embeddings (n, dim) float32 of images that are opened `batch_size` at a time, so that few are in memory."""
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return _joined(
        [embedder.encode_image([open_image(image, alpha="drop") for image in batch]) for batch in batches],
        "encode_image",
    )


def embed_texts(embedder: EncodesPairs, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """Embeddings (n, dim) float32 of texts, encoded `batch_size` at a time."""
    batches = [list(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
    return _joined([embedder.encode_text(batch) for batch in batches], "encode_text")


def dots(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row-by-row dot products (n,) float32 of two (n, dim) arrays.

    Summed in float64 and rounded to float32, so that equal embeddings have equal scores, whatever order a BLAS adds
    in, and a tie stays a tie.
    """
    return np.einsum("nd,nd->n", left, right, dtype=np.float64).astype(np.float32)


def all_dots(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Dot products (n, m) float32 of every row with every row, rounded as in `dots`."""
    return (left.astype(np.float64) @ right.astype(np.float64).T).astype(np.float32)


def _joined(batches: list[Any], method: str) -> np.ndarray:
    arrays = []
    for batch in batches:
        if hasattr(batch, "detach"):  # a torch tensor, maybe on a device, maybe bfloat16
            batch = batch.detach().float().cpu().numpy()
        arrays.append(np.asarray(batch, dtype=np.float32))
    joined = np.concatenate(arrays)
    length = np.linalg.norm(joined, axis=-1)
    bad = np.flatnonzero(~(np.abs(length - 1) < 0.01))  # NaN is bad too
    if bad.size:
        raise ValueError(
            f"{method} gave an embedding of length {length[bad[0]]:.4g} (item {bad[0]}, and {bad.size - 1} others); "
            "cosine needs unit length: divide each by its norm, and look for NaN"
        )
    return joined

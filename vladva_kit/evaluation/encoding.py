"""Images and captions of a benchmark to similarities: each encoded once, each pair scored in float32."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vladva_kit.evaluation.cache import EmbeddingCache
from vladva_kit.evaluation.identity import fingerprint
from vladva_kit.models.images import Crop, open_image

COLUMNS = 4096
ImageRecord = Image.Image | Path | bytes | Crop


class ImageTextEncoder(Protocol):
    """What can be evaluated: unit-length embeddings (n, dim) of images and of texts, as tensors or arrays."""

    def encode_image(self, images: Sequence[Image.Image], /) -> Any: ...

    def encode_text(self, texts: list[str], /) -> Any: ...


@dataclass(frozen=True)
class Encoded:
    """Embeddings of what was asked, in its order; each different image and text was encoded once."""

    images: np.ndarray  # (images, dim) float32
    texts: np.ndarray  # (texts, dim) float32
    image_numbers: np.ndarray  # (images,) which of the different images it is
    data: str  # fingerprint of the contents of all images and texts, in order


def encode_once(
    embedder: ImageTextEncoder,
    images: Sequence[ImageRecord],
    texts: Sequence[str],
    batch_size: int,
    cache: str | Path | None = None,
) -> Encoded:
    """Embeddings of images and texts, repeats encoded once: `encode_once(embedder, images, captions, 64).images`.

    With `cache`, a folder, embeddings are kept there by content and by the embedder's fingerprint; what it holds
    already is not encoded again, so an interrupted run goes on where it stood.
    """
    store = EmbeddingCache(cache, fingerprint(embedder)) if cache is not None else None
    first_image, image_index = number_unique([image_key(image) for image in images])
    first_text, text_index = number_unique(texts)
    different = [images[place] for place in first_image]
    digests = [content_digest(image) for image in different]
    vectors = embed_images(embedder, different, batch_size, store, digests)
    captions = embed_texts(embedder, [texts[place] for place in first_text], batch_size, store)
    return Encoded(
        images=vectors[image_index],
        texts=captions[text_index],
        image_numbers=image_index,
        data=data_fingerprint([*(digests[number] for number in image_index), *texts]),
    )


def image_key(image: ImageRecord) -> Hashable:
    """The same key for the same image: a path as the file it leads to, anything else by its content."""
    if isinstance(image, Crop):
        return image_key(image.image), image.box
    if isinstance(image, Path):
        return str(image.resolve())
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    return image.mode, image.size, hashlib.sha256(image.tobytes()).digest()


def content_digest(image: ImageRecord) -> str:
    """A SHA-256 of an image's content: of the file's bytes, or of the pixels of a PIL image; a crop's with its box."""
    if isinstance(image, Crop):
        return _sha256(f"{content_digest(image.image)} {image.box}".encode())
    if isinstance(image, Path):
        return _sha256(image.read_bytes())
    if isinstance(image, bytes):
        return _sha256(image)
    return _sha256(f"{image.mode} {image.size} ".encode() + image.tobytes())


def data_fingerprint(parts: Iterable[str]) -> str:
    """A SHA-256 of a benchmark's contents, in order: two runs can be compared where it is the same."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)  # with its length, so that no two lists read the same
    return digest.hexdigest()


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def number_unique(keys: Sequence[Hashable]) -> tuple[list[int], np.ndarray]:
    """First place of each different key, and each key's number: `["a", "b", "a"]` -> `[0, 1], array([0, 1, 0])`."""
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    first = np.unique(index, return_index=True)[1].tolist()
    return first, index


def embed_images(
    embedder: ImageTextEncoder,
    images: Sequence[ImageRecord],
    batch_size: int,
    store: EmbeddingCache | None = None,
    digests: Sequence[str] = (),
) -> np.ndarray:
    """Embeddings (n, dim) float32 of images that are opened `batch_size` at a time, so that few are in memory."""

    def encode(batch: list[ImageRecord]) -> np.ndarray:
        return _unit_rows(
            embedder.encode_image([open_image(image, alpha="drop") for image in batch]), "encode_image", len(batch)
        )

    return _embed("image", images, digests, encode, batch_size, store)


def embed_texts(
    embedder: ImageTextEncoder, texts: Sequence[str], batch_size: int, store: EmbeddingCache | None = None
) -> np.ndarray:
    """Embeddings (n, dim) float32 of texts, encoded `batch_size` at a time."""

    def encode(batch: list[str]) -> np.ndarray:
        return _unit_rows(embedder.encode_text(batch), "encode_text", len(batch))

    digests = [_sha256(text.encode()) for text in texts] if store is not None else ()
    return _embed("text", texts, digests, encode, batch_size, store)


def _embed(
    kind: str,
    items: Sequence[Any],
    digests: Sequence[str],
    encode: Callable[[list[Any]], np.ndarray],
    batch_size: int,
    store: EmbeddingCache | None,
) -> np.ndarray:
    from tqdm.auto import tqdm

    rows = store.load(kind) if store is not None else {}
    missing = [place for place in range(len(items)) if store is None or digests[place] not in rows]
    fresh: dict[int, np.ndarray] = {}
    shown = tqdm(total=len(items), initial=len(items) - len(missing), desc=f"{kind}s", delay=10, leave=False)
    with shown as bar:
        for start in range(0, len(missing), batch_size):
            places = missing[start : start + batch_size]
            vectors = encode([items[place] for place in places])
            fresh.update(zip(places, vectors, strict=True))
            if store is not None:
                store.add(kind, [digests[place] for place in places], vectors)
            bar.update(len(places))
    if store is not None:
        store.flush(kind)
    return np.stack([fresh[place] if place in fresh else rows[digests[place]] for place in range(len(items))])


def dots(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row-by-row dot products (n,) float32 of two (n, dim) arrays.

    Summed in float64 and rounded to float32, so that equal embeddings have equal scores, whatever order a BLAS adds
    in, and a tie stays a tie.
    """
    return np.einsum("nd,nd->n", left, right, dtype=np.float64).astype(np.float32)


def all_dots(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Dot products (n, m) float32 of every row with every row, rounded as in `dots`."""
    exact = left.astype(np.float64)
    scores = np.empty((len(left), len(right)), dtype=np.float32)
    for start in range(0, len(right), COLUMNS):  # few rows of `right` are in float64 at a time
        scores[:, start : start + COLUMNS] = exact @ right[start : start + COLUMNS].astype(np.float64).T
    return scores


def _unit_rows(batch: Any, method: str, n: int) -> np.ndarray:
    if hasattr(batch, "detach"):  # a torch tensor, maybe on a device, maybe bfloat16
        batch = batch.detach().float().cpu().numpy()
    rows = np.asarray(batch, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != n:
        raise ValueError(f"{method} gave an array of shape {rows.shape} for {n} items; needed is one row an item")
    length = np.linalg.norm(rows, axis=-1)
    bad = np.flatnonzero(~(np.abs(length - 1) < 0.01))  # NaN is bad too
    if bad.size:
        raise ValueError(
            f"{method} gave an embedding of length {length[bad[0]]:.4g} (item {bad[0]}, and {bad.size - 1} others); "
            "cosine needs unit length: divide each by its norm, and look for NaN"
        )
    return rows

"""Encode the images and captions of a benchmark, each once, and score pairs with float32 precision.

With a cache folder, embeddings are stored by content and by the model's fingerprint, so that a killed run resumes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from vladva_kit.data.store import Store
from vladva_kit.embedder.identity import model_fingerprint
from vladva_kit.evaluation.bootstrap import number_unique
from vladva_kit.models.images import Crop, open_image

COLUMNS = 4096  # columns that all_dots converts to float64 at a time
SHARD = 512  # embeddings per cache file, and the most that a killed run loses
ImageSource = Image.Image | Path | bytes | Crop


class ImageTextEncoder(Protocol):
    """A model that can be evaluated: it returns unit-length embeddings (n, dim) of images and of texts."""

    def encode_image(self, images: Sequence[Image.Image], /) -> Any: ...

    def encode_text(self, texts: list[str], /) -> Any: ...


@dataclass(frozen=True)
class Encoded:
    """Embeddings of images and texts in the order they were given; each different one was encoded once."""

    images: np.ndarray  # (images, dim) float32
    texts: np.ndarray  # (texts, dim) float32
    image_index: np.ndarray  # (images,) number of the different image
    data: str  # fingerprint of the contents of all images and texts, in order


def encode_once(
    embedder: ImageTextEncoder,
    images: Sequence[ImageSource],
    texts: Sequence[str],
    batch_size: int,
    cache: str | Path | None = None,
) -> Encoded:
    """Encode images and texts, repeats only once: `encode_once(embedder, images, captions, 64).images`.

    `cache` is a folder. Embeddings are stored there under the model's fingerprint and the SHA-256 of their content;
    what it already holds is not encoded again, so an interrupted run resumes.
    Raises TypeError if a cache is asked for and the embedder has no fingerprint, see `identity.describe`.
    """
    stores: dict[str, Store] = {}
    if cache is not None:
        model = model_fingerprint(embedder)
        for kind in ("image", "text"):
            stores[kind] = Store.open(Path(cache) / model[:32] / kind, {"model": model, "embeddings of": kind})
    image_index, text_index = number_unique([image_key(image) for image in images]), number_unique(texts)
    unique_images = [images[index] for index in np.unique(image_index, return_index=True)[1]]
    unique_texts = list(dict.fromkeys(texts))
    digests = [content_digest(image) for image in unique_images]
    return Encoded(
        images=embed_images(embedder, unique_images, batch_size, stores.get("image"), digests)[image_index],
        texts=embed_texts(embedder, unique_texts, batch_size, stores.get("text"))[text_index],
        image_index=image_index,
        data=data_fingerprint([*(digests[index] for index in image_index), *texts]),
    )


def image_key(image: ImageSource) -> Hashable:
    """Return the same key for the same image: a path's resolved file, or the content of anything else."""
    if isinstance(image, Crop):
        return image_key(image.image), image.box
    if isinstance(image, Path):
        return str(image.resolve())
    return content_digest(image)


def content_digest(image: ImageSource) -> str:
    """Compute the SHA-256 of an image's content: the file's bytes, a PIL image's pixels, or a crop's image and box."""
    if isinstance(image, Crop):
        raw = f"{content_digest(image.image)} {image.box}".encode()
    elif isinstance(image, Image.Image):
        raw = f"{image.mode} {image.size} ".encode() + image.tobytes()
    else:
        raw = image.read_bytes() if isinstance(image, Path) else image
    return hashlib.sha256(raw).hexdigest()


def data_fingerprint(parts: Iterable[str]) -> str:
    """Compute a SHA-256 of a benchmark's contents, in order: two runs are comparable if theirs are equal."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)  # with lengths, so that different lists never collide
    return digest.hexdigest()


def embed_images(
    embedder: ImageTextEncoder,
    images: Sequence[ImageSource],
    batch_size: int,
    store: Store | None = None,
    digests: Sequence[str] = (),
) -> np.ndarray:
    """Encode images to (n, dim) float32; `batch_size` of them are decoded at a time, to limit memory."""

    def encode(batch: list[ImageSource]) -> Any:
        return embedder.encode_image([open_image(image) for image in batch])

    return _encode("image", images, encode, batch_size, store, digests)


def embed_texts(
    embedder: ImageTextEncoder, texts: Sequence[str], batch_size: int, store: Store | None = None
) -> np.ndarray:
    """Encode texts to (n, dim) float32, `batch_size` at a time."""
    digests = [content_digest(text.encode()) for text in texts] if store is not None else ()
    return _encode("text", texts, embedder.encode_text, batch_size, store, digests)


def _encode(
    kind: str, items: Sequence[Any], encode: Callable, batch_size: int, store: Store | None, digests: Sequence[str]
) -> np.ndarray:
    """Encode the items that the store lacks, and store them every `SHARD` embeddings."""
    rows: dict[Hashable, np.ndarray] = {}  # by the SHA-256 of their content, or by index without a store
    for name in store.names() if store is not None else ():
        rows.update(zip(store.read_json(name, "digests"), store.read(name)["embeddings"].numpy(), strict=True))
    keys = digests if store is not None else range(len(items))
    missing = [index for index, key in enumerate(keys) if key not in rows]
    unsaved: list[str] = []
    progress = tqdm(total=len(items), initial=len(items) - len(missing), desc=f"{kind}s", delay=10, leave=False)
    with progress as bar:
        for start in range(0, len(missing), batch_size):
            indices = missing[start : start + batch_size]
            embeddings = encode([items[index] for index in indices])
            batch = [keys[index] for index in indices]
            rows.update(zip(batch, _unit_rows(embeddings, f"encode_{kind}", len(indices)), strict=True))
            unsaved += batch
            if store is not None and (len(unsaved) >= SHARD or start + batch_size >= len(missing)):
                name = hashlib.sha256("".join(unsaved).encode()).hexdigest()[:16]  # concurrent runs never conflict
                vectors = np.stack([rows[key] for key in unsaved])
                store.write(name, {"embeddings": torch.from_numpy(vectors)}, {"digests": unsaved})
                unsaved = []
            bar.update(len(indices))
    return np.stack([rows[key] for key in keys])


def dots(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute row-by-row dot products (n,) of two (n, dim) arrays, as float64 rounded to float32 precision.

    Sums are exact before rounding, so equal embeddings have equal scores in any summation order, and ties stay ties.
    """
    return np.einsum("nd,nd->n", left, right, dtype=np.float64).astype(np.float32).astype(np.float64)


def all_dots(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the dot products (n, m) float32 of every row with every row, rounded as in `dots`."""
    exact = left.astype(np.float64)
    scores = np.empty((len(left), len(right)), dtype=np.float32)
    for start in range(0, len(right), COLUMNS):  # few rows of `right` are in float64 at a time
        scores[:, start : start + COLUMNS] = exact @ right[start : start + COLUMNS].astype(np.float64).T
    return scores


def _unit_rows(batch: Any, method: str, n: int) -> np.ndarray:
    if hasattr(batch, "detach"):  # a torch tensor, possibly on a device, possibly bfloat16
        batch = batch.detach().float().cpu().numpy()
    rows = np.asarray(batch, dtype=np.float32)
    if rows.ndim != 2 or len(rows) != n:
        raise ValueError(f"{method} returned shape {rows.shape} for {n} items; it must return one row per item")
    length = np.linalg.norm(rows, axis=-1)
    bad = np.flatnonzero(~(np.abs(length - 1) < 0.01))  # NaN is bad too
    if bad.size:
        which = f"length {length[bad[0]]:.4g} (item {bad[0]}, and {bad.size - 1} others)"
        fix = "cosine similarity needs unit length: divide each by its norm, and check for NaN"
        raise ValueError(f"{method} returned an embedding of {which}; {fix}")
    return rows

"""Encode the images and captions of a benchmark, each once, and score pairs with float32 precision.

A scorer, which has no embeddings, scores only the pairs that the benchmark compares.
With a cache folder, embeddings are stored by content and by the model's fingerprint, so that a killed run resumes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from vladva_kit.data.store import Store
from vladva_kit.embedder.identity import content_key, image_key, model_fingerprint
from vladva_kit.evaluation.bootstrap import number_unique
from vladva_kit.evaluation.metrics import check_scores
from vladva_kit.models.images import Crop, ImageLike, image_batches, open_image

if TYPE_CHECKING:
    from typing_extensions import TypeIs

COLUMNS = 4096  # columns that all_dots converts to float64 at a time
SHARD = 512  # embeddings per cache file, and the most that a killed run loses
OPENED = 64  # decoded images that a scorer gets at a time
ImageSource: TypeAlias = "ImageLike | Crop"
Indices: TypeAlias = Sequence[int] | np.ndarray


class ImageTextEncoder(Protocol):
    """A model that can be evaluated: it returns unit-length embeddings (n, dim) of images and of texts."""

    def encode_image(self, images: Sequence[Image.Image], /) -> Any: ...

    def encode_text(self, texts: list[str], /) -> Any: ...


class PairScorer(Protocol):
    """A model that scores an image with a caption, without embeddings of either, such as a `LikelihoodScorer`."""

    def score_pairs(self, images: Sequence[Image.Image], captions: list[str], /) -> Any: ...  # (n,)

    def similarity(self, images: Sequence[Image.Image], captions: list[str], /) -> Any: ...  # (n_images, n_captions)

    def check_size(self, images: Sequence[Image.Image], captions: list[str], /) -> None: ...  # raises ValueError


EncoderOrScorer = ImageTextEncoder | PairScorer


@dataclass(frozen=True)
class Encoded:
    """Embeddings of images and texts in the order they were given; each different one was encoded once."""

    images: np.ndarray  # (images, dim) float32
    texts: np.ndarray  # (texts, dim) float32
    image_index: np.ndarray  # (images,) number of the different image
    data: str  # fingerprint of the contents of all images and texts, in order

    def pair_scores(self, images: Indices, texts: Indices) -> np.ndarray:
        """Score the image and the text at each position of two lists of indices: (n,) float64."""
        return dots(self.images[images], self.texts[texts])


@dataclass(frozen=True)
class Scored:
    """The images and texts of a benchmark for a scorer, which scores pairs when they are asked for."""

    scorer: PairScorer
    images: list[ImageSource]  # each different one once
    texts: list[str]
    image_index: np.ndarray  # (images,) number of the different image
    text_index: np.ndarray
    data: str

    @classmethod
    def of(cls, scorer: PairScorer, images: Sequence[ImageSource], texts: Sequence[str], data: str = "") -> Scored:
        """Collect the different images and texts: `Scored.of(scorer, images, captions).all_scores()`."""
        image_index, text_index = number_unique([image_key(image) for image in images]), number_unique(texts)
        unique = [images[index] for index in np.unique(image_index, return_index=True)[1]]
        return cls(scorer, unique, list(dict.fromkeys(texts)), image_index, text_index, data)

    def pair_scores(self, images: Indices, texts: Indices, allow_nan: bool = False) -> np.ndarray:
        """Score as `Encoded.pair_scores` does; each different pair is scored once, so equal pairs tie.

        Raises ValueError for NaN, unless it is allowed.
        """
        asked = np.stack([self.image_index[images], self.text_index[texts]], axis=1)
        pairs, inverse = np.unique(asked, axis=0, return_inverse=True)  # sorted by image
        scores: list[float] = []
        for first, opened in self._opened():
            chosen = pairs[(pairs[:, 0] >= first) & (pairs[:, 0] < first + len(opened))]
            if len(chosen):
                rows = [opened[image - first] for image in chosen[:, 0]], [self.texts[text] for text in chosen[:, 1]]
                found = np.asarray(self.scorer.score_pairs(*rows), dtype=np.float64)
                scores += (found if allow_nan else check_scores(found, ndim=1)).tolist()
        return np.array(scores)[inverse.reshape(-1)]

    def all_scores(self) -> np.ndarray:
        """Score each image with each text: (images, texts) float64. Raises ValueError if the scorer refuses so many."""
        self.scorer.check_size([open_image(self.images[0])] * len(self.images), self.texts)
        rows = [check_scores(self.scorer.similarity(opened, self.texts), ndim=2) for _, opened in self._opened()]
        return np.concatenate(rows)[self.image_index][:, self.text_index]

    def _opened(self) -> Iterator[tuple[int, list[Image.Image]]]:
        """Yield the number of the first image and `OPENED` decoded images, to limit memory."""
        for first in tqdm(range(0, len(self.images), OPENED), desc="scores", delay=10, leave=False):
            yield first, [open_image(image) for image in self.images[first : first + OPENED]]


def encode_once(
    embedder: EncoderOrScorer,
    images: Sequence[ImageSource],
    texts: Sequence[str],
    batch_size: int,
    cache: str | Path | None = None,
) -> Encoded | Scored:
    """Encode images and texts, repeats only once: `encode_once(embedder, images, captions, 64).images`.

    A scorer encodes nothing here; its `pair_scores` are computed when they are asked for.
    `cache` is a folder. Embeddings are stored there under the model's fingerprint and the key of their content, see
    `embedder/identity.py`; what it already holds is not encoded again, so an interrupted run resumes.
    Raises TypeError for a model that does not encode, or if a cache is asked for and it has no fingerprint, see
    `identity.describe`, and ValueError for a cache with a scorer.
    """
    if not is_scorer(embedder) and not hasattr(embedder, "encode_image"):
        raise TypeError(f"a {type(embedder).__name__} has no encode_image: pass an Embedder, as vk.Embedder(lvlm)")
    if is_scorer(embedder) and cache is not None:
        raise ValueError(f"cache holds embeddings, and a {type(embedder).__name__} has none: leave cache out")
    stores: dict[str, Store] = {}
    if cache is not None:
        model = model_fingerprint(embedder)
        for kind in ("image", "text"):
            stores[kind] = Store.open(Path(cache) / model[:32] / kind, {"model": model, "embeddings of": kind})
    keys = [image_key(image) for image in images]
    unique_images, unique_texts = dict(zip(keys, images, strict=True)), list(dict.fromkeys(texts))
    image_index, text_index = number_unique(keys), number_unique(texts)
    stored = stores.get("image"), list(unique_images)
    data = data_fingerprint([*keys, *texts])
    if is_scorer(embedder):
        return Scored(embedder, list(unique_images.values()), unique_texts, image_index, text_index, data)
    return Encoded(
        images=embed_images(embedder, list(unique_images.values()), batch_size, *stored)[image_index],
        texts=embed_texts(embedder, unique_texts, batch_size, stores.get("text"))[text_index],
        image_index=image_index,
        data=data,
    )


def is_scorer(embedder: EncoderOrScorer) -> TypeIs[PairScorer]:
    """Return whether a model scores pairs instead of encoding: `is_scorer(LikelihoodScorer(lvlm))`."""
    return hasattr(embedder, "score_pairs")


def data_fingerprint(parts: Iterable[str]) -> str:
    """Compute a SHA-256 of a benchmark's contents, in order: two runs are comparable if theirs are equal."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")  # file names need not be UTF-8
        digest.update(len(raw).to_bytes(8, "big") + raw)  # with lengths, so that different lists never collide
    return digest.hexdigest()


def embed_images(
    embedder: ImageTextEncoder,
    images: Sequence[ImageSource],
    batch_size: int,
    store: Store | None = None,
    keys: Sequence[str] = (),
) -> np.ndarray:
    """Encode images to (n, dim) float32; `batch_size` of them are decoded at a time, to limit memory."""

    def encode(batch: list[ImageSource]) -> Any:
        encoded = [embedder.encode_image(opened) for opened in image_batches(batch, len(batch))]
        return encoded[0] if len(encoded) == 1 else np.concatenate([np.asarray(one) for one in encoded])

    return _encode("image", images, encode, batch_size, store, keys)


def embed_texts(
    embedder: ImageTextEncoder, texts: Sequence[str], batch_size: int, store: Store | None = None
) -> np.ndarray:
    """Encode texts to (n, dim) float32, `batch_size` at a time."""
    keys = [content_key(text) for text in texts] if store is not None else ()
    return _encode("text", texts, embedder.encode_text, batch_size, store, keys)


def _encode(
    kind: str, items: Sequence[Any], encode: Callable, batch_size: int, store: Store | None, keys: Sequence[Hashable]
) -> np.ndarray:
    """Encode the items that the store lacks, and store them every `SHARD` embeddings."""
    rows: dict[Hashable, np.ndarray] = {}  # by key, or by index without a store
    if store is None:
        keys = range(len(items))
    else:
        rows.update(_stored_rows(store, frozenset(keys)))
    missing = [index for index, key in enumerate(keys) if key not in rows]
    unsaved: list[Any] = []
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


def _stored_rows(store: Store, keys: frozenset[Hashable]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (key, embedding) of those keys that the store holds; other embeddings are not read."""
    for name in store.names():
        in_shard = {key: row for row, key in enumerate(store.read_json(name, "digests")) if key in keys}
        if in_shard:
            embeddings = store.read(name)["embeddings"].numpy()
            yield from ((key, embeddings[row]) for key, row in in_shard.items())


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

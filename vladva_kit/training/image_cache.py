"""Keep image features for a whole run: the frozen vision encoder sees each image once, however many epochs there are.

Decoding and preprocessing are skipped too: an image's token ids are kept next to its features.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vladva_kit.data.pairs import Pair
from vladva_kit.data.store import MANIFEST, Store, row_ranges
from vladva_kit.embedder.embedder import Embedder, summary_embeddings
from vladva_kit.embedder.identity import content_key, identity_of
from vladva_kit.embedder.prompts import ModelInputs, append_text_to_images, padding_id, process_images
from vladva_kit.models.device import rank
from vladva_kit.training.features import (
    FeatureLayout,
    ImageFeatures,
    encode_image_features,
    vision_encoder_is_frozen,
    with_features,
)

SHARD_SIZE = 256  # images per file
NOTABLE_BYTES = 10**9  # a larger cache is announced
CachedImage = tuple[dict[str, Tensor], tuple[Tensor, ...]]  # token ids and masks without padding, and feature layers
logger = logging.getLogger(__name__)


@dataclass
class CachedImageFeatures:
    """Features and token ids by image. `batch(pairs)` returns what the processor and the vision encoder would."""

    indices: dict[str, int]  # by image key
    layout: FeatureLayout
    pad_id: int
    images: list[CachedImage] = field(default_factory=list, repr=False)  # in memory ...
    store: Store | None = None  # ... or in shards of SHARD_SIZE images

    def batch(self, pairs: Sequence[Pair]) -> tuple[dict[str, Tensor], ImageFeatures]:
        """Return token ids and masks (batch, length), and the features, of the pairs' images.

        Raises KeyError for an image that was not cached.
        """
        images = [self._image(self.indices[pair.image_key]) for pair in pairs]
        padded = {
            name: pad_sequence([inputs[name] for inputs, _ in images], True, self.pad_id if name == "input_ids" else 0)
            for name in images[0][0]
        }
        return padded, ImageFeatures([layers for _, layers in images], self.layout)

    def _image(self, index: int) -> CachedImage:
        if self.store is None:
            return self.images[index]
        with self.store.opened(index // SHARD_SIZE) as shard:
            names = sorted(name for name in shard.keys() if name.startswith(f"{index}."))  # noqa: SIM118  not a dict
            tensors = {name.partition(".")[2]: shard.get_tensor(name) for name in names}
        layers = [name for name in tensors if name.startswith("layer.")]
        return {k: v for k, v in tensors.items() if k not in layers}, tuple(tensors[name] for name in layers)


def cache_image_features(
    embedder: Embedder, pairs: Sequence[Pair], where: str, batch_size: int = 32
) -> CachedImageFeatures:
    """Run the frozen vision encoder over all images and keep the features; their size is logged first.

        cache_image_features(embedder, pairs, "memory")
        cache_image_features(embedder, pairs, "runs/features")     # a folder, reused by later runs

    Raises ValueError if the vision encoder is trainable, if the family cannot take features back, if the disk has too
    little space, or if the folder holds the features of other weights, another resolution or other images.
    """
    if not vision_encoder_is_frozen(embedder.lvlm.model):
        raise ValueError("the vision encoder or projector is trainable, so its features change: leave cache_images out")
    images = {pair.image_key: pair for pair in pairs}
    pad_id = padding_id(embedder.lvlm.processor.tokenizer)
    _, first = _encode(embedder, list(images.values())[:1])
    size = first.nbytes() * len(images)
    target = "in memory" if where == "memory" else f"in {where}"
    level = logging.WARNING if size > NOTABLE_BYTES else logging.INFO
    logger.log(level, "image features of %d images: about %.2f GB %s", len(images), size / 1e9, target)
    cached = CachedImageFeatures({key: index for index, key in enumerate(images)}, first.layout, pad_id)
    if where != "memory":
        cached.store = _open_store(embedder, Path(where), images, first.layout, size)
    _fill(cached, embedder, list(images.values()), batch_size)
    return cached


def encode_cached_images(
    embedder: Embedder, cached: CachedImageFeatures, pairs: Sequence[Pair], batch_size: int = 64
) -> Tensor:
    """Embed the pairs' images from their features, as `encode_image` does from pixels: (n, dim) float32, unit length.

    encode_cached_images(embedder, cache_image_features(embedder, pairs, "memory"), pairs)
    """
    tokenizer, embeddings = embedder.lvlm.processor.tokenizer, []
    with embedder.inference():
        for start in range(0, len(pairs), batch_size):
            inputs, features = cached.batch(pairs[start : start + batch_size])
            batch = append_text_to_images(tokenizer, inputs, embedder.image_prompt)
            batch = with_features(embedder, batch, features, range(len(features.rows)))
            embeddings.append(summary_embeddings(embedder.hidden_states(batch), batch).cpu())
    return torch.cat(embeddings)


def _open_store(embedder: Embedder, folder: Path, images: dict[str, Pair], layout: FeatureLayout, size: int) -> Store:
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if not (folder / MANIFEST).exists() and size > free * 0.9:
        raise ValueError(
            f"image features need about {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB left: "
            "use another folder, or leave cache_images out"
        )
    with embedder.base():  # the adapter and the words of the prompts come after the vision encoder
        identity = identity_of(embedder)
    of_encoder = {key: value for key, value in identity.items() if key not in ("prompts", "prompt_tokens")}
    manifest = {
        "encoder": {**of_encoder, "prefix": embedder.image_prompt.prefix},
        "layout": asdict(layout),
        "images": content_key("\n".join(images)),
    }
    return Store.open(folder, manifest, "features")


def _fill(cached: CachedImageFeatures, embedder: Embedder, pairs: list[Pair], batch_size: int) -> None:
    for shard, rows in enumerate(row_ranges(len(pairs), SHARD_SIZE)):
        if cached.store is not None and (shard in cached.store or rank() != 0):
            continue
        images: list[CachedImage] = []
        for start in range(rows.start, rows.stop, batch_size):
            inputs, features = _encode(embedder, pairs[start : min(start + batch_size, rows.stop)])
            images += zip(inputs, features.rows, strict=True)
        if cached.store is None:
            cached.images += images
        else:
            tensors = dict[str, Tensor]()
            for index, (entries, layers) in zip(rows, images, strict=True):
                tensors |= {f"{index}.{name}": value for name, value in entries.items()}
                tensors |= {f"{index}.layer.{depth:02}": layer for depth, layer in enumerate(layers)}
            cached.store.write(shard, tensors)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # rank 0 wrote the shards


def _encode(embedder: Embedder, pairs: Sequence[Pair]) -> tuple[list[dict[str, Tensor]], ImageFeatures]:
    """Encode images; return each one's token ids and masks, without padding, and the features."""
    batch = process_images(embedder.lvlm.processor, [pair.load_image() for pair in pairs], embedder.image_prompt)
    lengths = batch["attention_mask"].sum(1)
    features = encode_image_features(embedder, ModelInputs(dict(batch), lengths - 1))
    if features is None:
        raise ValueError(f"{embedder.lvlm.name}: this family cannot take image features back; leave cache_images out")
    shape, without_pixels = batch["input_ids"].shape, {k: v for k, v in batch.items() if not k.startswith("pixel_")}
    inputs = [
        {k: (v[row, : lengths[row]] if v.shape[:2] == shape else v[row]).clone() for k, v in without_pixels.items()}
        for row in range(len(pairs))
    ]
    rows = [tuple(layer.clone() for layer in row) for row in features.rows]  # views would keep the batch in memory
    return inputs, ImageFeatures(rows, features.layout)

"""Keep image features for a whole run: the frozen vision encoder sees each image once, however many epochs there are.

Decoding and preprocessing are skipped too: an image's token ids are kept next to its features.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vladva_kit.data.pairs import Pair
from vladva_kit.data.store import Store
from vladva_kit.embedder.prompts import ModelInputs, process_images
from vladva_kit.models.device import rank
from vladva_kit.training.features import (
    FeatureLayout,
    ImageFeatures,
    encode_image_features,
    vision_encoder_is_frozen,
)

if TYPE_CHECKING:
    from vladva_kit.embedder.embedder import Embedder

SHARD_SIZE = 256  # images per file
logger = logging.getLogger(__name__)


@dataclass
class CachedImageFeatures:
    """Features and token ids by image. `batch(pairs)` returns what the processor and the vision encoder would."""

    indices: dict[Hashable, int]  # image key -> number
    layout: FeatureLayout
    pad_id: int
    rows: list[tuple[Tensor, ...]] = field(default_factory=list, repr=False)  # in memory ...
    inputs: list[dict[str, Tensor]] = field(default_factory=list, repr=False)
    store: Store | None = None  # ... or in shards of SHARD_SIZE images

    def batch(self, pairs: Sequence[Pair]) -> tuple[dict[str, Tensor], ImageFeatures]:
        """Return token ids and masks (batch, length), and the features, of the pairs' images.

        Raises KeyError for an image that was not cached.
        """
        found = [self._image(self.indices[image_key_of(pair)]) for pair in pairs]
        joined = {}
        for name in found[0][0]:
            values = [inputs[name] for inputs, _ in found]
            fill = self.pad_id if name == "input_ids" else 0
            along_sequence = values[0].dim() == 1 and any(len(value) != len(values[0]) for value in values)
            joined[name] = pad_sequence(values, True, fill) if along_sequence else torch.stack(values)
        return joined, ImageFeatures([row for _, row in found], self.layout)

    def _image(self, number: int) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        if self.store is None:
            return self.inputs[number], self.rows[number]
        with self.store.opened(number // SHARD_SIZE) as shard:
            names = sorted(name for name in shard.keys() if name.startswith(f"{number}."))  # noqa: SIM118  not a dict
            tensors = {name.partition(".")[2]: shard.get_tensor(name) for name in names}
        layers = sorted(name for name in tensors if name.startswith("layer."))
        return {k: v for k, v in tensors.items() if k not in layers}, tuple(tensors[name] for name in layers)


def image_key_of(pair: Pair) -> Hashable:
    """Return the same key for the same image: its path, or a hash of its content."""
    if isinstance(pair.image, Path):
        return str(pair.image.resolve())
    content = pair.image if isinstance(pair.image, bytes) else pair.image.tobytes() + repr(pair.image.size).encode()
    return hashlib.sha256(content).hexdigest()


def cache_image_features(
    embedder: Embedder, pairs: Sequence[Pair], where: str, batch_size: int = 32
) -> CachedImageFeatures:
    """Run the frozen vision encoder over all images and keep the features; their size is logged first.

        cache_image_features(embedder, pairs, "memory")
        cache_image_features(embedder, pairs, "runs/features")     # a folder, reused by later runs

    Raises ValueError if the vision encoder is trainable, if the family cannot take features back, if the disk has too
    little space, or if the folder holds the features of another LVLM or of other images.
    """
    if not vision_encoder_is_frozen(embedder.lvlm.model):
        raise ValueError("the vision encoder or projector is trainable, so its features change: leave cache_images out")
    images = {image_key_of(pair): pair for pair in pairs}
    tokenizer = embedder.lvlm.processor.tokenizer
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    _, first = _encode(embedder, list(images.values())[:1])
    size = first.nbytes() * len(images)
    target = "in memory" if where == "memory" else f"in {where}"
    logger.warning("image features of %d images: about %.2f GB %s", len(images), size / 1e9, target)
    cached = CachedImageFeatures({key: number for number, key in enumerate(images)}, first.layout, pad_id)
    if where != "memory":
        cached.store = _open_store(embedder, Path(where), images, first.layout, size)
    _fill(cached, embedder, list(images.values()), batch_size)
    return cached


def _open_store(
    embedder: Embedder, folder: Path, images: dict[Hashable, Pair], layout: FeatureLayout, size: int
) -> Store:
    existing = folder if folder.exists() else folder.parent if folder.parent.exists() else Path.cwd()
    free = shutil.disk_usage(existing).free
    if not (folder / "manifest.json").exists() and size > free * 0.9:
        raise ValueError(
            f"image features need about {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB left: "
            "use another folder, or leave cache_images out"
        )
    lvlm = embedder.lvlm
    manifest = {
        "lvlm": lvlm.name,
        "dtype": str(lvlm.model.dtype),
        "max_pixels": lvlm.family.max_pixels,
        "layout": layout.to_json(),
        "images": hashlib.sha256("\n".join(map(str, images)).encode()).hexdigest(),
    }
    return Store.open(folder, manifest, "features")


def _fill(cached: CachedImageFeatures, embedder: Embedder, images: list[Pair], batch_size: int) -> None:
    for start in range(0, len(images), SHARD_SIZE):
        if cached.store is not None and (start // SHARD_SIZE in cached.store or rank() != 0):
            continue
        shard: dict[str, Tensor] = {}
        for first in range(start, min(start + SHARD_SIZE, len(images)), batch_size):
            inputs, features = _encode(embedder, images[first : min(first + batch_size, start + SHARD_SIZE)])
            if cached.store is None:
                cached.inputs += inputs
                cached.rows += [tuple(layer.clone() for layer in row) for row in features.rows]
                continue
            for number, (image_inputs, row) in enumerate(zip(inputs, features.rows, strict=True), start=first):
                layers = {f"layer.{depth:02}": layer for depth, layer in enumerate(row)}
                shard |= {f"{number}.{name}": value for name, value in {**image_inputs, **layers}.items()}
        if cached.store is not None:
            cached.store.write(start // SHARD_SIZE, shard)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # rank 0 wrote the shards


def _encode(embedder: Embedder, pairs: Sequence[Pair]) -> tuple[list[dict[str, Tensor]], ImageFeatures]:
    batch = process_images(embedder.lvlm.processor, [pair.load_image() for pair in pairs], embedder.image_prompt)
    lengths = batch["attention_mask"].sum(1)
    features = encode_image_features(embedder, ModelInputs(dict(batch), lengths - 1))
    if features is None:
        raise ValueError(f"{embedder.lvlm.name}: this family cannot take image features back; leave cache_images out")
    shape, kept = batch["input_ids"].shape, {k: v for k, v in batch.items() if not k.startswith("pixel_")}
    inputs = [
        {k: (v[row, : lengths[row]] if v.shape[:2] == shape else v[row]).clone() for k, v in kept.items()}
        for row in range(len(pairs))
    ]
    return inputs, features

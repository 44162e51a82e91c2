"""Image features kept for a whole run: the frozen vision tower sees each picture once, whatever the number of epochs.

In memory, or as safetensors shards in a folder, which a later run on the same LVLM and pictures opens again. Decoding
and preprocessing fall away too: beside its features a picture's token ids are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vladva_kit.data.pairs import Pair
from vladva_kit.embedder.prompts import ModelInputs, begins_with_bos
from vladva_kit.models.device import rank
from vladva_kit.models.files import atomic_write, write_json
from vladva_kit.training.features import ImageFeatures, encode_image_features, vision_encoder_is_frozen

if TYPE_CHECKING:
    from vladva_kit.embedder.embedder import Embedder

MANIFEST = "features.json"
logger = logging.getLogger(__name__)


@dataclass
class CachedImageFeatures:
    """Pictures' features and token ids, by picture. `batch(pairs)` gives what a processor and the tower would."""

    places: dict[Hashable, int]  # a picture's key to its number
    form: str
    pad_id: int
    rows: list[tuple[Tensor, ...]] = field(default_factory=list, repr=False)  # in memory …
    inputs: list[dict[str, Tensor]] = field(default_factory=list, repr=False)
    folder: Path | None = None  # … or in shards of `shard` pictures
    shard: int = 1

    def batch(self, pairs: Sequence[Pair]) -> tuple[dict[str, Tensor], ImageFeatures]:
        """Token ids and masks (batch, length), and the features, of the pairs' pictures.

        Raises KeyError for a picture that was not among those cached.
        """
        found = [self._picture(self.places[image_key_of(pair)]) for pair in pairs]
        joined = {}
        for name in found[0][0]:
            values = [inputs[name] for inputs, _ in found]
            fill = self.pad_id if name == "input_ids" else 0
            along = values[0].dim() == 1 and any(len(value) != len(values[0]) for value in values)
            joined[name] = pad_sequence(values, True, fill) if along else torch.stack(values)
        return joined, ImageFeatures([row for _, row in found], self.form)

    def _picture(self, number: int) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        if self.folder is None:
            return self.inputs[number], self.rows[number]
        with safe_open(_shard(self.folder, number // self.shard), framework="pt") as file:
            own = sorted(name for name in file.keys() if name.startswith(f"{number}."))  # noqa: SIM118
            tensors = {name.partition(".")[2]: file.get_tensor(name) for name in own}
        layers = sorted(name for name in tensors if name.startswith("layer."))
        return {k: v for k, v in tensors.items() if k not in layers}, tuple(tensors[name] for name in layers)


def image_key_of(pair: Pair) -> Hashable:
    """The same key for the same picture: its path, or its content."""
    if isinstance(pair.image, Path):
        return str(pair.image.resolve())
    content = pair.image if isinstance(pair.image, bytes) else pair.image.tobytes() + repr(pair.image.size).encode()
    return hashlib.sha256(content).hexdigest()


def cache_image_features(
    embedder: Embedder, pairs: Sequence[Pair], where: str, batch_size: int = 32
) -> CachedImageFeatures:
    """Runs the frozen tower over all pictures and keeps the features; their size is said before the work begins.

        cache_image_features(embedder, pairs, "memory")
        cache_image_features(embedder, pairs, "runs/features")     # a folder, taken up again by a later run

    Raises ValueError where the tower learns, where the family has no way to take features back, where the disk has
    too little room, or where the folder holds the features of another LVLM or of other pictures.
    """
    if not vision_encoder_is_frozen(embedder.lvlm.model):
        raise ValueError("the vision tower or projector learns: its features change, they cannot be cached")
    pictures = {image_key_of(pair): pair for pair in pairs}
    processor = embedder.lvlm.processor
    pad = processor.tokenizer.pad_token_id
    pad = pad if pad is not None else processor.tokenizer.eos_token_id
    places = {key: number for number, key in enumerate(pictures)}
    first_inputs, first = _encoded(embedder, list(pictures.values())[:1])
    size = first.nbytes() * len(pictures)
    folder = None if where == "memory" else Path(where)
    logger.warning(
        "image features of %d pictures: about %.2f GB %s",
        len(pictures), size / 1e9, "in memory" if folder is None else f"in {folder}",
    )  # fmt: skip
    cached = CachedImageFeatures(places, first.form, pad, folder=folder, shard=256)
    if folder is not None:
        manifest = {"lvlm": embedder.lvlm.name, "dtype": str(embedder.lvlm.model.dtype), "form": first.form,
                    "pictures": hashlib.sha256("\n".join(map(str, pictures)).encode()).hexdigest()}  # fmt: skip
        _open_folder(folder, manifest, size)
    _fill(cached, embedder, list(pictures.values()), batch_size)
    return cached


def _fill(cached: CachedImageFeatures, embedder: Embedder, pictures: list[Pair], batch_size: int) -> None:
    for start in range(0, len(pictures), cached.shard):
        if cached.folder is not None and (_shard(cached.folder, start // cached.shard).exists() or rank() != 0):
            continue
        tensors: dict[str, Tensor] = {}
        for at in range(start, min(start + cached.shard, len(pictures)), batch_size):
            inputs, features = _encoded(embedder, pictures[at : min(at + batch_size, start + cached.shard)])
            if cached.folder is None:
                cached.inputs += inputs
                cached.rows += [tuple(layer.clone() for layer in row) for row in features.rows]
                continue
            for number, (own, row) in enumerate(zip(inputs, features.rows, strict=True), start=at):
                layers = {f"layer.{depth:02}": layer for depth, layer in enumerate(row)}
                tensors |= {f"{number}.{name}": value.contiguous() for name, value in {**own, **layers}.items()}
        if cached.folder is not None:
            atomic_write({_shard(cached.folder, start // cached.shard): save(tensors)})
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # the first rank wrote the shards


def _encoded(embedder: Embedder, pairs: Sequence[Pair]) -> tuple[list[dict[str, Tensor]], ImageFeatures]:
    processor, prompt = embedder.lvlm.processor, embedder.image_prompt
    batch: dict[str, Any] = processor(
        images=[[pair.load_image()] for pair in pairs],
        text=[prompt.before] * len(pairs),
        return_tensors="pt",
        padding=True,
        padding_side="right",
        add_special_tokens=not begins_with_bos(processor.tokenizer, prompt.before),
    )
    lengths = batch["attention_mask"].sum(1)
    features = encode_image_features(embedder, ModelInputs(dict(batch), lengths - 1))
    if features is None:
        raise ValueError(f"{embedder.lvlm.name}: this family's features cannot be handed back; leave cache_images out")
    shape, kept = batch["input_ids"].shape, {k: v for k, v in batch.items() if not k.startswith("pixel_")}
    inputs = [
        {k: (v[row, : lengths[row]] if v.shape[:2] == shape else v[row]).clone() for k, v in kept.items()}
        for row in range(len(pairs))
    ]
    return inputs, features


def _shard(folder: Path, number: int) -> Path:
    return folder / f"features-{number:06}.safetensors"


def _open_folder(folder: Path, manifest: dict[str, Any], size: int) -> None:
    """Makes the folder, or takes it up again where it holds the features of the same pictures."""
    path = folder / MANIFEST
    if path.exists():
        held = json.loads(path.read_text())
        wrong = sorted(name for name in manifest if held.get(name) != manifest[name])
        if wrong:
            raise ValueError(
                f"{folder} holds other image features ({', '.join(wrong)} differ): name another folder or remove it"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free * 0.9:
        raise ValueError(
            f"image features need about {size / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB left: "
            "name another folder, or leave cache_images out"
        )
    if rank() == 0:
        write_json(path, manifest)

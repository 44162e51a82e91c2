"""Write missing captions with an LVLM, as the paper did with BLIP-2 (short) and ShareGPT-4V (long).

The result is an imagefolder for `load_pairs`. Its metadata.jsonl marks generated captions with
"synthetic": ["short"], "captioned_by": "emoji-llava". Captions that break the 30-token rule are dropped and counted.
Captions are stored in shards of a fixed range of images, so an interrupted run resumes at the next missing shard.
"""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from vladva_kit.data.images import ImageRecord, check_unchanged, content_values, source_fingerprint
from vladva_kit.data.pairs import named_captions
from vladva_kit.data.store import Store, read_manifest, row_ranges, shard_ranges
from vladva_kit.data.validation import decode_image, path_inside
from vladva_kit.embedder.identity import identity_of
from vladva_kit.embedder.prompts import SHORT_REQUEST, encode_caption
from vladva_kit.emoji_world.scenes import WORDS, Scene
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.models.files import atomic_write, json_line
from vladva_kit.models.images import open_image

if TYPE_CHECKING:
    from PIL import Image

    from vladva_kit.embedder.embedder import Embedder

LONG_REQUEST = "describe the picture in detail:"
CAPTIONS = ".captions"  # the folder of shards in the imagefolder
KINDS = ("short", "long")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionRequests:
    """The prompts for short and long captions, and their lengths in tokens by the paper's rule (section 3.2)."""

    short: str = SHORT_REQUEST
    long: str = LONG_REQUEST
    short_limit: int = 30  # a short caption has fewer tokens
    long_limit: int = 500  # a long caption has between short_limit and this many tokens


@dataclass(frozen=True)
class CaptionReport:
    """How many captions were written and rejected, and how many of the `checked` short ones are `true` of their scene.

    Only captions of images with a known scene are checked.
    """

    images: int
    written: dict[str, int]
    rejected: dict[str, int]
    checked: int
    true: int

    def lines(self) -> list[str]:
        """Describe the report in sentences."""
        lines = [f"{self.images} images"]
        for kind in KINDS:
            lines.append(f"{kind}: {self.written[kind]} written, {self.rejected[kind]} rejected by the 30-token rule")
        if self.checked:
            lines.append(f"short captions that are true of their scene: {self.true} of {self.checked}")
        return lines


def caption_images(
    embedder: Embedder,
    images: Sequence[ImageRecord],
    out: str | Path,
    requests: CaptionRequests = CaptionRequests(),  # noqa: B008  frozen
    *,
    batch_size: int = 32,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[int], Any] = lambda rows: None,
) -> None:
    """Generate the captions that images lack and store them in `out`, `batch_size` images per shard.

        caption_images(embedder, list_images("photos"), "runs/captioned")
        report = write_imagefolder(list_images("photos"), "runs/captioned", "emoji-llava")

    Rank r captions every `ranks`-th shard; existing shards are skipped. `progress` gets the size of each shard.
    Raises ValueError, before anything is written, if `out` holds captions of other images, by another model or adapter,
    or with other requests; BadInput for an image that cannot be read.
    """
    manifest = {
        "source": source_fingerprint(images), "model": embedder.lvlm.name, "rows": len(images),
        "shard_size": batch_size, "requests": asdict(requests), "identity": identity_of(embedder),
    }  # fmt: skip
    out = Path(out)
    if out.is_dir() and any(path.name != CAPTIONS for path in out.iterdir()) and not (out / CAPTIONS).is_dir():
        raise ValueError(f"{out} is not empty and holds no captions to resume from: use another folder")
    store = Store.open(out / CAPTIONS, manifest)
    own_ranges = list(enumerate(row_ranges(len(images), batch_size)))[rank::ranks]
    for shard, rows in own_ranges:  # before anything is written
        if shard in store:
            check_unchanged(store, shard, (images[row] for row in rows))
    for shard, rows in own_ranges:
        if shard not in store:
            batch = [images[row] for row in rows]
            content = content_values(batch)
            store.write(shard, {}, {"results": _captions(embedder, batch, requests), **content})
        progress(len(rows))


def _captions(embedder: Embedder, batch: list[ImageRecord], requests: CaptionRequests) -> list[dict[str, Any]]:
    """Generate for each image the captions that it lacks: {"captions": {kind: text}, "rejected": [kind]}."""
    results: list[dict[str, Any]] = [{"captions": {}, "rejected": []} for _ in batch]
    tokenizer = embedder.lvlm.processor.tokenizer
    for kind, prompt, shortest, longest in (
        ("short", requests.short, 1, requests.short_limit - 1),
        ("long", requests.long, requests.short_limit, requests.long_limit),
    ):
        lacking = [index for index, image in enumerate(batch) if not _has_caption(named_captions(image.metadata), kind)]
        images = [decode_image(batch[index].image, batch[index].name) for index in lacking]
        limit = getattr(requests, f"{kind}_limit") + 2  # enough tokens to tell that a caption is too long
        texts = embedder.generate_batch(images, [prompt] * len(images), None, limit)
        for index, text in zip(lacking, texts, strict=True):
            if shortest <= len(encode_caption(tokenizer, text)) <= longest:
                results[index]["captions"][kind] = text
            else:
                results[index]["rejected"].append(kind)
    return results


def _has_caption(metadata: dict[str, Any], kind: str) -> bool:
    return bool(metadata.get(kind)) or (kind == "short" and bool(metadata.get("captions")))


def write_imagefolder(images: Sequence[ImageRecord], out: str | Path, model: str) -> CaptionReport:
    """Write the imagefolder once all ranks are done: images linked or copied, then metadata.jsonl.

    Raises ValueError if some images have no captions yet; running the captioning again resumes it.
    """
    out = Path(out)
    results, lines, is_true_of_scene, left_out = _read_results(out), [], [], set()
    for image, result in zip(images, results, strict=True):
        captions, metadata = result["captions"], named_captions(image.metadata)
        if "short" in captions and (scene := _known_scene(metadata.get("scene"))):
            is_true_of_scene.append(is_true(captions["short"], scene))
        columns = _json_columns(metadata)
        left_out |= {
            name for name, value in metadata.items() if name not in columns and isinstance(value, bytes | list)
        }
        metadata = columns | captions | {"file_name": _place_image(image, out)}
        if captions:
            metadata |= {"synthetic": sorted(captions), "captioned_by": model}
        if any(_has_caption(metadata, kind) for kind in KINDS):
            lines.append(json_line(metadata))
    if left_out:
        logger.warning("columns that JSON cannot hold are left out: %s", ", ".join(sorted(map(str, left_out))))
    atomic_write({out / "metadata.jsonl": "".join(lines).encode()})
    written, rejected = (
        {kind: sum(kind in result[key] for result in results) for kind in KINDS} for key in ("captions", "rejected")
    )
    return CaptionReport(len(images), written, rejected, len(is_true_of_scene), sum(is_true_of_scene))


def _known_scene(value: Any) -> Scene | None:
    """Return the scene of a rendered image; None for a column `scene` of other data, such as "kitchen"."""
    if not isinstance(value, dict) or "things" not in value:
        return None
    try:
        scene = Scene.from_dict(value)
        return scene if {thing.noun for thing in scene.things} <= set(WORDS) else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _json_columns(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a record that JSON can hold.

    Dates become texts and arrays lists. Missing values (None, NaN) and columns of bytes or images are left out.
    """
    columns = {}
    for name, value in record.items():
        try:
            value = _json_value(value)
        except TypeError:
            continue
        if value is not None:
            columns[str(name)] = value
    return columns


def _json_value(value: Any) -> Any:
    """Convert to JSON values. Raises TypeError for what JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, timedelta | Decimal | UUID):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch
        return _json_value(value.tolist())
    raise TypeError(f"{type(value).__name__} is no JSON type")


def _read_results(out: Path) -> list[dict[str, Any]]:
    manifest, store = read_manifest(out / CAPTIONS), Store(out / CAPTIONS)
    ranges = shard_ranges(out / CAPTIONS, manifest)
    missing = sum(len(ranges[shard]) for shard in store.missing(len(ranges)))
    if missing:
        raise ValueError(
            f"{missing} of {manifest['rows']} images in {out} are not captioned yet: run the same command again"
        )
    store.clear_leftovers()
    return [result for shard in range(len(ranges)) for result in store.read_json(shard, "results")]


def _place_image(image: ImageRecord, out: Path) -> str:
    """Link or copy an image into the folder unless it is there already; return its name in the folder."""
    content = image.image
    name = image.name if isinstance(content, Path) or Path(image.name).suffix else f"{image.name}.png"
    target = path_inside(out, name, "the source")
    if target.exists():
        return name
    if isinstance(content, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(content.resolve(), target)
            return name
        except OSError:  # another disk, or a file system without links
            content = content.read_bytes()
    elif not isinstance(content, bytes):
        buffer, opened = io.BytesIO(), open_image(cast("Image.Image", content))
        opened.save(buffer, "PNG")  # PNG has neither EXIF rotation nor modes such as CMYK and LAB
        content = buffer.getvalue()
    atomic_write({target: content})
    return name

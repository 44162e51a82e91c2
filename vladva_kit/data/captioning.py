"""Missing captions, written by an LVLM: as the paper did with BLIP-2 for short and ShareGPT-4V for long ones.

The result is an imagefolder that `load_pairs` reads. What was written by a model is marked so in metadata.jsonl:
"synthetic": ["short"], "captioned_by": "emoji-llava". Each caption is held to the 30-token rule, and one that breaks it
is left out and counted. Work goes into a log line by line, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vladva_kit.data.images import ImageRecord, fingerprint
from vladva_kit.embedder.prompts import encode_caption
from vladva_kit.models.files import atomic_write
from vladva_kit.models.images import BadInput, open_image

if TYPE_CHECKING:
    from vladva_kit.embedder.embedder import Embedder

SHORT_REQUEST = "provide a short caption:"
LONG_REQUEST = "describe the picture in detail:"


@dataclass(frozen=True)
class Requests:
    """What is asked for, and the lengths in tokens that the paper's rule allows (section 3.2)."""

    short: str = SHORT_REQUEST
    long: str = LONG_REQUEST
    short_limit: int = 30  # a short caption has fewer tokens
    long_limit: int = 500  # a long one has from short_limit to this many


@dataclass(frozen=True)
class CaptionReport:
    """What was written. `true` of `judged` short captions hold in their scene, where scenes are known."""

    pairs: int
    written: dict[str, int]
    broke_the_rule: dict[str, int]
    judged: int
    true: int

    def lines(self) -> list[str]:
        """The report in words."""
        said = [
            f"{kind}: {self.written[kind]} written, {self.broke_the_rule[kind]} left out by the 30-token rule"
            for kind in ("short", "long")
        ]
        if self.judged:
            said.append(f"short captions that are true of their scene: {self.true} of {self.judged}")
        return [f"{self.pairs} pictures", *said]


def caption_images(
    embedder: Embedder,
    pictures: Sequence[ImageRecord],
    out: str | Path,
    requests: Requests = Requests(),  # noqa: B008  frozen
    *,
    batch_size: int = 32,
    rank: int = 0,
    ranks: int = 1,
    progress: Callable[[int], Any] = lambda rows: None,
) -> None:
    """Writes the captions that pictures lack into a log in `out`; a picture that is in a log is not asked about again.

        caption_images(embedder, list_images("photos"), "runs/captioned")
        report = finish(list_images("photos"), "runs/captioned", "emoji-llava")

    Over several ranks each takes every ranks-th picture into a log of its own.
    Raises ValueError where `out` holds the captions of other pictures; BadInput for a picture that cannot be read.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _same_source(out, fingerprint(pictures), embedder.lvlm.name)
    done = set(_read_logs(out))
    todo = [row for row in range(rank, len(pictures), ranks) if row not in done]
    with (out / f".captions-{rank}.jsonl").open("a", encoding="utf-8") as log:
        for start in range(0, len(todo), batch_size):
            rows = todo[start : start + batch_size]
            batch = [pictures[row] for row in rows]
            for row, made in zip(rows, _captions(embedder, batch, requests), strict=True):
                log.write(json.dumps({"row": row, **made}, ensure_ascii=False) + "\n")
            log.flush()
            os.fsync(log.fileno())
            progress(len(rows))


def _captions(embedder: Embedder, batch: list[ImageRecord], requests: Requests) -> list[dict[str, Any]]:
    """For each picture the captions it lacked, and which kinds broke the rule."""
    made: list[dict[str, Any]] = [{"captions": {}, "broke": []} for _ in batch]
    tokenizer = embedder.lvlm.processor.tokenizer
    for kind, request, limit in (
        ("short", requests.short, requests.short_limit + 2),
        ("long", requests.long, requests.long_limit + 2),
    ):
        lacking = [at for at, picture in enumerate(batch) if not _has(picture.record, kind)]
        images = [_opened(batch[at]) for at in lacking]
        texts = embedder.generate_batch(images, [request] * len(images), None, limit)
        for at, text in zip(lacking, texts, strict=True):
            length = len(encode_caption(tokenizer, text))
            if kind == "short":
                keeps = 0 < length < requests.short_limit
            else:
                keeps = requests.short_limit <= length <= requests.long_limit
            if keeps:
                made[at]["captions"][kind] = text
            else:
                made[at]["broke"].append(kind)
    return made


def _has(record: dict[str, Any], kind: str) -> bool:
    return bool(record.get(kind)) or (kind == "short" and bool(record.get("captions")))


def _opened(picture: ImageRecord) -> Any:
    try:
        return open_image(picture.image)
    except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
        raise BadInput(f"{picture.name} cannot be read ({error}); replace the file or remove it") from error


def _same_source(out: Path, source: str, model: str) -> None:
    path = out / ".source.json"
    if path.exists():
        held = json.loads(path.read_text())
        if held != {"source": source, "model": model}:
            raise ValueError(f"{out} holds captions of other pictures, or by {held['model']}: name another folder")
        return
    if any(out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no captions to go on from: name another folder")
    atomic_write({path: json.dumps({"source": source, "model": model}).encode()})


def _read_logs(out: Path) -> dict[int, dict[str, Any]]:
    """Every picture's captions by its row. A last line that a kill cut off is taken away, for its picture to be asked
    about again."""
    found: dict[int, dict[str, Any]] = {}
    for log in sorted(out.glob(".captions-*.jsonl")):
        content = log.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(log, len(whole))
        for line in whole.splitlines():
            made = json.loads(line)
            found[made.pop("row")] = made
    return found


def finish(pictures: Sequence[ImageRecord], out: str | Path, model: str) -> CaptionReport:
    """The imagefolder, when all ranks are done: pictures linked or copied beside metadata.jsonl, written last.

    Raises ValueError where pictures are still without captions: the same command goes on.
    """
    out = Path(out)
    made = _read_logs(out)
    missing = len(pictures) - len(made)
    if missing:
        raise ValueError(f"{missing} of {len(pictures)} pictures in {out} are not captioned yet: run the command again")
    written, broke, judged, true = {"short": 0, "long": 0}, {"short": 0, "long": 0}, 0, 0
    lines = []
    for row, picture in enumerate(pictures):
        new = made[row]["captions"]
        for kind in ("short", "long"):
            written[kind] += kind in new
            broke[kind] += kind in made[row]["broke"]
        if "short" in new and picture.record.get("scene"):
            judged, true = judged + 1, true + _holds(new["short"], picture.record["scene"])
        record = {k: v for k, v in picture.record.items() if v is not None} | new
        record["file_name"] = _placed(picture, out)
        if new:
            record |= {"synthetic": sorted(new), "captioned_by": model}
        if _has(record, "short") or _has(record, "long"):
            lines.append(json.dumps(record, ensure_ascii=False))
    atomic_write({out / "metadata.jsonl": ("\n".join(lines) + "\n").encode()})
    return CaptionReport(len(pictures), written, broke, judged, true)


def _holds(caption: str, scene: dict[str, Any]) -> bool:
    from vladva_kit.emoji_world.scenes import Scene
    from vladva_kit.emoji_world.truth import is_true

    return is_true(caption, Scene.from_dict(scene))


def _placed(picture: ImageRecord, out: Path) -> str:
    """Puts a picture into the folder, once; returns its name there."""
    if isinstance(picture.image, Path):
        target = out / picture.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(picture.image.resolve(), target)
            except OSError:  # another disk, or one without links
                atomic_write({target: picture.image.read_bytes()})
        return picture.name
    name = picture.name if Path(picture.name).suffix else f"{picture.name}.png"
    if not (out / name).exists():
        content = picture.image
        if not isinstance(content, bytes):
            held = io.BytesIO()
            content.save(held, "PNG")
            content = held.getvalue()
        atomic_write({out / name: content})
    return name

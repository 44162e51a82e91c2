"""Load image-caption pairs, check them, and sort captions into short and long by the paper's 30-token rule."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from PIL import Image

from vladva_kit.data.hub import is_on_hub
from vladva_kit.data.sources import (
    CAPTION_KEYS,
    USUAL_KEYS,
    Columns,
    Rows,
    as_image,
    read_rows,
    renamed,
    row_record,
    usual_image_key,
)
from vladva_kit.data.validation import (
    check_image,
    clean_caption,
    collect_errors,
    error_list,
    metadata_file,
    parse_json_line,
    path_inside,
    read_metadata,
)
from vladva_kit.embedder.identity import image_key
from vladva_kit.models.images import IMAGE_SUFFIXES, BadInput, WrongType, is_array, open_image

DECODED = "_decoded"  # in a pair's __dict__, which `dataclasses.replace` does not copy: what load_pairs decoded
TABLE_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet", ".tsv")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """An image and its captions: `Pair(Path("dog.png"), short="a dog", long="A brown dog lies on a red mat …")`.

    `image` is a PIL image, a path, or the bytes of an image file (as in parquet datasets); an array or tensor becomes a
    PIL image. Decode it with `load_image()`. `captions` holds all short captions, `short` first; `where` is the file
    and line of the pair.
    """

    image: Image.Image | Path | bytes = field(repr=False)
    short: str | None = None
    long: str | None = None
    negatives: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    group: str | None = None  # pairs of one group are hard negatives of one another and share a batch
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("captions", "negatives"):
            if isinstance(getattr(self, name), str):
                raise WrongType(f"{name} is the text {getattr(self, name)!r}; give a list of captions")
        if isinstance(self.image, str):
            object.__setattr__(self, "image", Path(self.image))
        elif is_array(self.image):
            object.__setattr__(self, "image", open_image(self.image))
        object.__setattr__(self, "negatives", tuple(self.negatives))
        short = self.short if self.short is not None else next(iter(self.captions), None)
        object.__setattr__(self, "short", short)
        # dict.fromkeys removes duplicates and preserves the order
        captions = () if short is None else tuple(dict.fromkeys((short, *self.captions)))
        object.__setattr__(self, "captions", captions)

    @cached_property
    def image_key(self) -> str:
        """The key of the image's content, computed once: `pair.image_key == identity.image_key(pair.image)`."""
        return image_key(self.image)

    def load_image(self) -> Image.Image:
        """Decode the image, upright and in RGB. Raises what `open_image` raises."""
        return open_image(self.image)


def load_pairs(
    source: Any,
    split: str = "train",
    on_error: str = "raise",
    skipped: list[str] | None = None,
    *,
    image: str | None = None,
    short: str | None = None,
    long: str | None = None,
    captions: str | None = None,
    negatives: str | None = None,
    group: str | None = None,
) -> list[Pair]:
    """Load and check pairs: `load_pairs("data_samples/emoji_pairs", split="test")` -> a list of Pair.

        load_pairs([("dog.jpg", "a dog"), ("cat.jpg", "a cat", "A gray cat sleeps on a red sofa …")])
        load_pairs(pandas.read_csv("photos.csv"), image="jpg", short="text")

    `source` is one of
    - an imagefolder: `<source>/<split>/metadata.jsonl`, or `<source>/metadata.jsonl` if the source has no split
      folders; each line is `{"file_name": "0001.png", "short": "…", "long": "…"}`, where one of the two captions may
      be missing or null; `"captions": […]` gives more short captions, of which training takes one at random in each
      epoch, `"negatives": […]` hard negatives, and `"group"` a name shared by pairs that are hard negatives of one
      another; a metadata.csv with these columns is read too;
    - a hub id, a `datasets.Dataset` (or the `split` of a DatasetDict) or a pandas DataFrame with the columns image and
      short or long;
    - a list, a generator or a torch Dataset of Pairs, of dicts with these keys, or of tuples (image, short) or
      (image, short, long). An image is a path, bytes, a PIL image, an array or a tensor; all are kept in memory.

    image, short, long, captions, negatives, group: the source's names of these columns. Without short, long and
    captions, the column `text` or `caption` is read; without image, one named as images are, such as `jpg`; a note says
    so.
    Every image is decoded once, so no image fails later during training; pairs keep the path, not the pixels. A pair
    that comes from `load_pairs` is decoded again only if its file has changed since.
    Raises BadInput at the first bad entry, naming file and line; `on_error="skip"` lists bad entries in one warning
    instead, appends them to the list `skipped` if given, and returns the rest. Raises BadInput if no pair is valid.
    """
    named = {"image": image, "short": short, "long": long, "captions": captions, "negatives": negatives, "group": group}
    columns = {role: column for role, column in named.items() if column is not None}
    errors, noted = error_list(on_error), set[str]()
    entries: Iterable[tuple[str, Any]]
    if isinstance(source, str | Path) and not is_on_hub(source):
        folder = split_folder(Path(source), split)
        name, entries = f"{source} ({split})", read_metadata(cast(Path, metadata_file(folder)))
        parse = partial(_parse_line, folder=folder, decoded=set(), columns=columns)
    else:
        rows = read_rows(source, split, columns)
        name, entries = rows.name, ((f"{rows.unit} {index}", row) for index, row in enumerate(rows.items))
        parse = partial(_parse_row, rows=rows, columns=columns)
    pairs = []
    for where, entry in entries:
        with collect_errors(errors):
            pairs.append(parse(entry, where, noted=noted))
    return _valid(pairs, errors, name, skipped)


def check_lengths(
    pairs: list[Pair],
    count_tokens: Callable[[str], int],
    short_limit: int = 30,
    long_limit: int = 500,
    on_error: str = "raise",
) -> list[Pair]:
    """Classify captions as short or long: `check_lengths(pairs, count_tokens=lambda text: len(text.split()))`.

    A short caption has fewer than `short_limit` tokens and is used in the contrastive loss; a long one has at most
    `long_limit` and is used in the next-token loss (paper, section on training data). If a pair has only one of the
    two and its length fits the other kind, it becomes the other kind. Any other caption over its limit raises BadInput
    naming file, line, tokens, limit and fix; with `on_error="skip"` the pair is skipped and listed in a warning.
    """
    errors, checked = error_list(on_error), []
    for index, pair in enumerate(pairs):
        with collect_errors(errors):
            where = pair.where or f"pair {index}"
            checked.append(_apply_length_rule(pair, where, count_tokens, short_limit, long_limit))
    return _valid(checked, errors, "the pairs")


def _valid(pairs: list[Pair], errors: list[str] | None, name: str, skipped: list[str] | None = None) -> list[Pair]:
    """Return the valid pairs; warn about the errors, or raise if there is no valid pair."""
    errors = errors or []
    listing = "".join(f"\n  {line}" for line in errors)
    if not pairs:
        raise BadInput(f"{name}: no valid pair{listing or '; it is empty'}")
    if skipped is not None:
        skipped += errors
    if errors:
        warnings.warn(f"{name}: skipped {len(errors)} of {len(pairs) + len(errors)}:{listing}", stacklevel=3)
    return pairs


def split_folder(source: Path, split: str) -> Path:
    """Return the folder with the split's metadata.jsonl or metadata.csv: `source/split`, or `source` without splits.

    Raises BadInput if there is none.
    """
    if source.suffix.lower() in IMAGE_SUFFIXES and not source.is_dir():
        raise BadInput(f"{source} is a single image, without a caption; give it as load_pairs([(path, 'a dog')])")
    if source.suffix in TABLE_SUFFIXES and source.is_file():
        raise BadInput(f"{source} is a table, not a folder; give pandas.read_csv(…) of it, or the folder of its images")
    if not source.is_dir():
        fix = "unpack it" if source.is_file() else "give an imagefolder, or vk.sample('emoji_pairs')"
        raise BadInput(f"{source} is not a folder; {fix}")
    folder = source / split
    if metadata_file(folder):
        return folder
    splits = sorted(path.name for path in source.iterdir() if path.is_dir() and metadata_file(path))
    if splits:
        raise BadInput(f"{source} has no split {split!r}; it has {', '.join(splits)}")
    if folder.is_dir() or not metadata_file(source):
        searched = folder if folder.is_dir() else source
        others = sorted(path.name for path in searched.iterdir() if path.suffix in TABLE_SUFFIXES)
        found = f" (it holds {', '.join(others[:5])})" if others else ""
        raise BadInput(
            f'{searched} has no metadata.jsonl{found}; each line of it is {{"file_name": "…", "short": "…"}}'
        )
    return source


def _parse_line(raw: bytes, where: str, folder: Path, decoded: set[Path], columns: Columns, noted: set[str]) -> Pair:
    record = parse_json_line(raw, where)
    key: str | None = columns.get("image", "file_name")
    if key not in record:
        key = None if "image" in columns else _usual_image_key(record, where, noted)
    if key is None:
        listed = ", ".join(record) or "none"
        raise BadInput(
            f"{where}: no {columns.get('image', 'file_name')!r} (keys: {listed}); each line must name its image"
        )
    path = path_inside(folder, record[key], where, key)
    pair = parse_pair(path, renamed(record, columns), where, noted)
    if path not in decoded:  # several lines may name one image
        check_image(path, where)
        decoded.add(path)
    vars(pair)[DECODED] = _version(path)
    return pair


def _parse_row(row: Any, where: str, rows: Rows, columns: Columns, noted: set[str]) -> Pair:
    if isinstance(row, Pair):
        where, image, record = row.where or where.replace("item", "pair"), row.image, vars(row)
    else:
        record = row_record(row, where, columns)
        key = columns.get("image") or _usual_image_key(record, where, noted)
        if key is None or record.get(key) is None:
            raise BadInput(f"{where}: no image (keys: {', '.join(map(str, record)) or 'none'}); each pair needs one")
        rows.check_image(record[key], where)
        image, record = as_image(record[key], where), renamed(record, columns)
    pair = parse_pair(image, record, where, noted)
    version = _version(pair.image)
    if version is None or record.get(DECODED) != version:
        check_image(pair.image, where)
    vars(pair)[DECODED] = version
    return pair


def _usual_image_key(record: Mapping[str, Any], where: str, noted: set[str]) -> str | None:
    """Return the key of a record's image; another one than the kit's own is logged once."""
    key = usual_image_key(record)
    if key is not None and key not in ("image", *noted):
        logger.warning("%s: images are read from %r", where, key)
        noted.add(key)
    return key


def _version(image: Any) -> tuple[Any, ...] | None:
    """Identify the file, by name, date and size, or the bytes that were decoded; None for what may change unnoticed."""
    if isinstance(image, bytes):
        return (id(image),)
    if not isinstance(image, Path) or not image.is_file():
        return None
    status = image.stat()
    return str(image), status.st_mtime_ns, status.st_size, status.st_ino


def named_captions(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with its usual caption key renamed: `named_captions({"text": "a dog"}) == {"short": "a dog"}`.

    A list of captions becomes "captions". The record is returned as it is if it has one of the kit's own keys.
    """
    key = _usual_key(record)
    name = "captions" if key is not None and isinstance(record[key], list | tuple) else "short"
    return {name if other == key else other: value for other, value in record.items()}


def _usual_key(record: Mapping[str, Any]) -> str | None:
    if {*CAPTION_KEYS} & record.keys():
        return None
    return next((key for key in USUAL_KEYS if record.get(key) is not None), None)


def parse_pair(image: Any, record: dict[str, Any], where: str, noted: set[str] | None = None) -> Pair:
    """Build a Pair from a record's captions, stripped. Raises BadInput, naming `where`, for an invalid caption.

    A usual key in place of the kit's own is logged once, and remembered in `noted`.
    """
    key = _usual_key(record)
    if key is not None and noted is not None and key not in noted:
        logger.warning("%s: captions are read from %r, since there is neither 'short' nor 'long'", where, key)
        noted.add(key)
    record = named_captions(record)
    given = [key for key in ("short", "long") if record.get(key) is not None]
    single: dict[str, Any] = {key: clean_caption(record[key], key, where) for key in given}
    lists = dict[str, Any]()
    for key in ("captions", "negatives"):
        texts = record.get(key) or ()
        if not isinstance(texts, list | tuple):
            raise BadInput(f"{where}: {key!r} is {texts!r}; it must be a list of captions")
        lists[key] = tuple(clean_caption(text, key, where) for text in texts)
    if not single and not lists["captions"]:
        found = ", ".join(key for key in record if key not in ("image", "where")) or "none"
        raise BadInput(
            f"{where}: neither a 'short' nor a 'long' caption (keys: {found}); give at least one, or name its column, "
            "as in load_pairs(source, short='title')"
        )
    group = record.get("group")
    if isinstance(group, float) and group.is_integer():  # how pandas reads a column with missing numbers
        group = int(group)
    if group is not None and not isinstance(group, str | int):
        raise BadInput(f"{where}: 'group' is {group!r}; it must be a text or a number that the pairs of a group share")
    return Pair(image, **single, **lists, group=None if group is None else str(group), where=where)


def sample_caption(pair: Pair, seed: str) -> Pair:
    """Return the pair with one of its short captions sampled as `short`: `sample_caption(pair, "0 1 17").short`.

    The seed alone decides, so that a resumed run repeats it. A pair with at most one short caption is unchanged.
    """
    if len(pair.captions) < 2:
        return pair
    sampled = replace(pair, short=random.Random(seed).choice(pair.captions))
    if not isinstance(pair.image, Path):  # a file's key is cached anyway
        vars(sampled)["image_key"] = pair.image_key
    return sampled


def _apply_length_rule(
    pair: Pair, where: str, count_tokens: Callable[[str], int], short_limit: int, long_limit: int
) -> Pair:
    for key in ("short", "long"):
        if getattr(pair, key) is not None:
            clean_caption(getattr(pair, key), key, where)
    too_long = [text for text in pair.captions if count_tokens(text) >= short_limit]
    if len(too_long) == 1 and pair.long is None:
        rest = tuple(text for text in pair.captions if text != too_long[0])
        pair, too_long = replace(pair, short=None, captions=rest, long=too_long[0]), []
    elif pair.short is None and pair.long is not None and count_tokens(pair.long) < short_limit:
        pair = replace(pair, short=pair.long, long=None)
    too_long += [text for text in pair.negatives if count_tokens(text) >= short_limit]
    if too_long:
        raise BadInput(
            f"{where}: a short caption has {count_tokens(too_long[0])} tokens, the limit is fewer than {short_limit}: "
            f"{too_long[0][:60]!r}; shorten it, or give it as 'long'"
        )
    if pair.long is not None and count_tokens(pair.long) > long_limit:
        raise BadInput(
            f"{where}: a long caption has {count_tokens(pair.long)} tokens, the limit is {long_limit}: "
            f"{pair.long[:60]!r}; shorten it"
        )
    return pair

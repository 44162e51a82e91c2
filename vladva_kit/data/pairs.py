"""Pairs of a picture and its captions: read, checked, and sorted into short and long by the paper's 30-token rule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from vladva_kit.data.validation import (
    check_image,
    clean_caption,
    json_line,
    numbered_lines,
    path_inside,
    pick_split,
    rows_undecoded,
)
from vladva_kit.models.images import BadInput, open_image

if TYPE_CHECKING:
    import datasets

OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Pair:
    """A picture and its captions: `Pair(Path("dog.png"), short="a dog", long="A brown dog lies on a red mat …")`.

    `image` is a PIL image, a path, or the bytes of an image file (as parquet datasets hold them); read it with
    `load_image()`. `captions` holds every short wording, `short` first; `where` says where the pair came from.
    """

    image: Image.Image | Path | bytes = field(repr=False)
    short: str | None = None
    long: str | None = None
    negatives: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.image, str):
            object.__setattr__(self, "image", Path(self.image))
        object.__setattr__(self, "negatives", tuple(self.negatives))
        short = self.short if self.short is not None else next(iter(self.captions), None)
        object.__setattr__(self, "short", short)
        # dict.fromkeys keeps the order and drops repeats
        wordings = () if short is None else tuple(dict.fromkeys((short, *self.captions)))
        object.__setattr__(self, "captions", wordings)

    def load_image(self) -> Image.Image:
        """The picture, decoded anew, upright and in RGB; raises what `open_image` raises."""
        return open_image(self.image)


def load_pairs(
    source: str | Path | datasets.Dataset | list[Pair],
    split: str = "train",
    on_error: OnError = "raise",
    skipped: list[str] | None = None,
) -> list[Pair]:
    """Read and check pairs: `load_pairs("data_samples/emoji_pairs", split="test")` -> a list of Pair.

    `source` is one of
    - an imagefolder: `<source>/<split>/metadata.jsonl`, or `<source>/metadata.jsonl` where no folder of the source is
      a split; each line is `{"file_name": "0001.png", "short": "…", "long": "…"}`, of which one caption may be
      missing or null; `"captions": […]` gives more short wordings, `"negatives": […]` hard negatives;
    - a `datasets.Dataset` (or a DatasetDict, of which `split` is taken) with the columns image and short or long;
    - a list of Pair.

    Every image is decoded once here, so that none fails in the middle of a training; pairs keep the path, not pixels.
    Raises BadInput at the first bad entry, naming file and line; with `on_error="skip"` the bad ones are listed in one
    warning at the end, and added to the list `skipped` if there is one; the rest is returned. Raises BadInput in any
    case if nothing can be used.
    """
    if isinstance(source, str | Path):
        return _collect(_from_folder(Path(source), split), on_error, f"{source} ({split})", skipped)
    if isinstance(source, list | tuple):
        return _collect(_from_list(source), on_error, "the list of pairs", skipped)
    return _collect(_from_dataset(pick_split(source, split)), on_error, "the dataset", skipped)


def check_lengths(
    pairs: list[Pair],
    count_tokens: Callable[[str], int],
    short_limit: int = 30,
    long_limit: int = 500,
    on_error: OnError = "raise",
) -> list[Pair]:
    """Sort captions by length: `check_lengths(pairs, lambda text: len(tokenizer(text).input_ids))` -> a list of Pair.

    A short caption has fewer than `short_limit` tokens and feeds the contrastive loss, a long one has up to
    `long_limit` and feeds the next-token loss (paper, section on training data). A "short" that is long, in a pair
    without a long one, becomes the long one, and the other way round. Anything else over its limit raises BadInput
    naming file, line, tokens, limit and way out, or is left out and listed with `on_error="skip"`.
    """
    within = partial(_sorted_by_length, count_tokens=count_tokens, short_limit=short_limit, long_limit=long_limit)
    builders = [partial(within, pair, pair.where or f"pair {index}") for index, pair in enumerate(pairs)]
    return _collect(builders, on_error, "the pairs")


def _from_folder(source: Path, split: str) -> Iterator[Callable[[], Pair]]:
    folder = source / split
    if not source.is_dir():
        raise BadInput(f"{source} is no folder; give an imagefolder, or vk.sample('emoji_pairs')")
    if not (folder / "metadata.jsonl").is_file():
        splits = sorted(path.parent.name for path in source.glob("*/metadata.jsonl"))
        if splits:
            raise BadInput(f"{source} has no split {split!r}; it has {', '.join(splits)}")
        if folder.is_dir() or not (source / "metadata.jsonl").is_file():
            looked = folder if folder.is_dir() else source
            raise BadInput(f'{looked} holds no metadata.jsonl; each line of it is {{"file_name": "…", "short": "…"}}')
        folder = source
    decoded: set[Path] = set()  # several lines may name one image; it is decoded once
    for where, raw in numbered_lines(folder / "metadata.jsonl"):
        yield partial(_from_line, folder, raw, where, decoded)


def _from_line(folder: Path, raw: bytes, where: str, decoded: set[Path]) -> Pair:
    record = json_line(raw, where)
    if "file_name" not in record:
        raise BadInput(f"{where}: no 'file_name' (keys: {', '.join(record) or 'none'}); each line must name its image")
    path = path_inside(folder, record["file_name"], where)
    pair = pair_of(path, record, where)
    if path not in decoded:
        check_image(path, where)
        decoded.add(path)
    return pair


def _from_dataset(dataset: datasets.Dataset) -> Iterator[Callable[[], Pair]]:
    columns = dataset.column_names
    if "image" not in columns or not {"short", "long", "captions"} & set(columns):
        raise BadInput(
            f"the dataset has the columns {', '.join(columns)}; needed are image and short or long: "
            "rename them with dataset.rename_columns({'caption': 'short'})"
        )
    for index, row in enumerate(rows_undecoded(dataset, ["image"])):
        yield partial(_checked, row["image"], row, f"dataset row {index}")


def _from_list(pairs: list[Pair]) -> Iterator[Callable[[], Pair]]:
    for index, pair in enumerate(pairs):
        if not isinstance(pair, Pair):
            raise BadInput(f"item {index} of the list is of type {type(pair).__name__}; all must be Pair")
        texts = {"short": pair.short, "long": pair.long, "captions": pair.captions, "negatives": pair.negatives}
        yield partial(_checked, pair.image, texts, pair.where or f"pair {index}")


def _checked(image: Any, record: dict[str, Any], where: str) -> Pair:
    pair = pair_of(image, record, where)
    check_image(pair.image, where)
    return pair


def pair_of(image: Any, record: dict[str, Any], where: str) -> Pair:
    """A Pair of a record's captions, cleaned. Raises BadInput, naming `where`, for captions that cannot be used."""
    one = {key: clean_caption(record[key], key, where) for key in ("short", "long") if record.get(key) is not None}
    many = {}
    for key in ("captions", "negatives"):
        texts = record.get(key) or ()
        if not isinstance(texts, list | tuple):
            raise BadInput(f"{where}: {key!r} is {texts!r}; it must be a list of captions")
        many[key] = tuple(clean_caption(text, key, where) for text in texts)
    if not one and not many["captions"]:
        raise BadInput(f"{where}: neither a 'short' nor a 'long' caption; give at least one")
    return Pair(image, **one, **many, where=where)


def _sorted_by_length(
    pair: Pair, where: str, count_tokens: Callable[[str], int], short_limit: int, long_limit: int
) -> Pair:
    for key in ("short", "long"):
        if getattr(pair, key) is not None:
            clean_caption(getattr(pair, key), key, where)
    over = [text for text in pair.captions if count_tokens(text) >= short_limit]
    if len(over) == 1 and pair.long is None:
        rest = tuple(text for text in pair.captions if text != over[0])
        pair, over = replace(pair, short=None, captions=rest, long=over[0]), []
    elif pair.short is None and pair.long is not None and count_tokens(pair.long) < short_limit:
        pair = replace(pair, short=pair.long, long=None)
    over += [text for text in pair.negatives if count_tokens(text) >= short_limit]
    if over:
        raise BadInput(
            f"{where}: a short caption of {count_tokens(over[0])} tokens, the limit is fewer than {short_limit}: "
            f"{over[0][:60]!r}; shorten it, or give it as 'long'"
        )
    if pair.long is not None and count_tokens(pair.long) > long_limit:
        raise BadInput(
            f"{where}: a long caption of {count_tokens(pair.long)} tokens, the limit is {long_limit}: "
            f"{pair.long[:60]!r}; shorten it"
        )
    return pair


def _collect(
    builders: Iterable[Callable[[], Pair]], on_error: str, what: str, skipped: list[str] | None = None
) -> list[Pair]:
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
    good, bad = [], []
    for build in builders:
        try:
            good.append(build())
        except BadInput as error:
            if on_error == "raise":
                raise
            bad.append(str(error))
    listing = "".join(f"\n  {line}" for line in bad)
    if not good:
        raise BadInput(f"{what}: no pair can be used{listing or '; it is empty'}")
    if skipped is not None:
        skipped += bad
    if bad:
        warnings.warn(f"{what}: {len(bad)} of {len(good) + len(bad)} left out:{listing}", stacklevel=3)
    return good

"""Stream pairs that do not fit in memory from tar or parquet shards, shuffled in windows and resumable.

`datasets` reads the shards and keeps the read position. This module gives each rank and each worker its own part,
shuffles one window of pairs at a time, batches captions of similar length together, and decodes images in the workers.
Each batch carries the state after it, so a resumed run continues with the very next pair.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from vladva_kit.data.images import image_columns, load_shards
from vladva_kit.data.pairs import Pair, parse_pair, sample_caption
from vladva_kit.data.tars import sample_record
from vladva_kit.data.validation import decode_image, hub_folders, undecoded_image, without_decoding
from vladva_kit.models.device import rank_from_env
from vladva_kit.models.files import write_json
from vladva_kit.models.hub import is_hub_id
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

MAX_BROKEN = 100  # batches in a row of which no image can be read


@dataclass
class PairStream(IterableDataset):
    """An endless stream of batches of pairs; `stream_pairs` makes one.

    It yields {"batch": collate(pairs), "stream_state": str}, where the string is JSON of [worker, state after the
    batch]. To resume, set `stream_state` to the last state of each worker and `batches_done` to the number of batches.
    """

    rows: datasets.IterableDataset
    batch_size: int = 64  # pairs per rank
    window: int = 2048  # undecoded pairs in memory per worker, rounded down to complete batches
    seed: int = 0
    group_by_length: bool = True
    on_error: str = "raise"
    workers: int = 0
    check: Callable[[Pair], Pair] = lambda pair: pair
    collate: Callable[[Sequence[Pair]], Any] = list
    stream_state: dict[int, str] = field(default_factory=dict)  # by worker
    batches_done: int = 0
    noted: set[str] = field(default_factory=set)  # keys that were reported once
    roots: Sequence[Path] | None = None  # where images may be that a row names by path; None: anywhere

    def loader(self, decoders: int = 0) -> DataLoader:
        """Return a loader of batches, decoded and collated in `workers` processes (0: in this process).

        decoders: without workers, the number of processes that only decode and collate: this one reads, so the batches
        are the same for any number.
        """
        more: dict[str, Any] = {"prefetch_factor": 2, "persistent_workers": True} if self.workers or decoders else {}
        if self.workers or not decoders:
            return DataLoader(self, batch_size=None, num_workers=self.workers, **more)
        finish = _Finish(self.on_error, self.collate)
        return _Loader(finish, batch_size=None, sampler=_Undecoded(self), num_workers=decoders, **more)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return _readable(map(_Finish(self.on_error, self.collate).__getitem__, self.undecoded()))

    def undecoded(self) -> Iterator[tuple[list[Pair], str]]:
        """Yield each batch with its images undecoded, and the state after it."""
        info = get_worker_info()
        process, workers = (info.id, info.num_workers) if info else (0, 1)
        worker = (process + self.batches_done) % workers  # DataLoader starts with process 0: it does the next batch
        resumed = json.loads(self.stream_state[worker]) if worker in self.stream_state else {}
        epoch, window = resumed.get("epoch", 0), resumed.get("window", 0)
        used, rows_state = resumed.get("given", 0), resumed.get("state")  # used: batches of this window
        window_size = max(1, self.window // self.batch_size) * self.batch_size  # no window drops a remainder
        while True:
            rows = self._worker_rows(epoch, worker, workers)
            if rows_state is not None:
                rows.load_state_dict(rows_state)
            pairs, is_empty = self._pairs(rows, epoch), rows_state is None
            is_broken = is_empty  # whether the epoch gave no batch
            while in_window := list(islice(pairs, window_size)):
                is_empty = False
                for index, batch in enumerate(self._batches(in_window, epoch, window)):
                    if index >= used:
                        is_broken, state = False, {"epoch": epoch, "window": window, "given": index + 1}
                        yield batch, json.dumps([worker, {**state, "state": rows_state}])
                rows_state, window, used = rows.state_dict(), window + 1, 0
            if is_empty:
                raise BadInput(f"worker {worker} of {workers}: its part of the stream is empty; use fewer workers")
            if is_broken:
                raise BadInput(
                    f"worker {worker} of {workers}: its part of the stream gives no batch of {self.batch_size} pairs: "
                    "use fewer workers or smaller batches"
                )
            epoch, window, used, rows_state = epoch + 1, 0, 0, None

    def _worker_rows(self, epoch: int, worker: int, workers: int) -> datasets.IterableDataset:
        from datasets.distributed import split_dataset_by_node

        rank, ranks = rank_from_env()
        part = split_dataset_by_node(self.rows, rank * workers + worker, ranks * workers)
        part.set_epoch(self.seed * 1_000_003 + epoch + 1)  # shuffles the files; epoch 0 would leave them in order
        return part

    def _pairs(self, rows: datasets.IterableDataset, epoch: int) -> Iterator[Pair]:
        # `iter(1)`: plain iteration would split the rows among the workers a second time
        for index, batch in enumerate(rows.iter(1)):
            row = {name: values[0] for name, values in batch.items()}
            with _skip_errors(self.on_error):
                where = f"epoch {epoch}, sample {row.get('__key__', index)}"
                yield self.check(parse_row(row, where, self.noted, self.roots))

    def _batches(self, pairs: list[Pair], epoch: int, window: int) -> list[list[Pair]]:
        """Split a window into shuffled batches of captions of similar length; an incomplete batch is dropped."""
        rng = random.Random(f"{self.seed} {epoch} {window}")
        rng.shuffle(pairs)
        pairs = [sample_caption(pair, f"{self.seed} {epoch} {window} {row}") for row, pair in enumerate(pairs)]
        if self.group_by_length:
            pairs.sort(key=lambda pair: len(pair.long or ""))
        size = self.batch_size
        if any(pair.group is not None for pair in pairs):
            batches = _grouped_batches(pairs, size)
        else:
            batches = [pairs[start : start + size] for start in range(0, len(pairs) - size + 1, size)]
        rng.shuffle(batches)
        return batches


@dataclass
class _Finish(Dataset):
    """Decode and collate; in a loader, a worker's part of the work, with an undecoded batch in place of an index."""

    on_error: str
    collate: Callable[[Sequence[Pair]], Any]

    def __getitem__(self, undecoded: tuple[list[Pair], str]) -> dict[str, Any]:
        decoded = []
        for pair in undecoded[0]:
            with _skip_errors(self.on_error):
                decoded.append(replace(pair, image=decode_image(pair.image, f"{pair.where}: the image")))
        return {"batch": self.collate(decoded) if decoded else None, "stream_state": undecoded[1]}


class _Loader(DataLoader):
    """A loader that leaves out batches of which no image can be read."""

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # DataLoader names its own iterator
        return _readable(super().__iter__())


def _readable(batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Leave out batches without images: the state of the next one is after them."""
    broken = 0
    for batch in batches:
        broken = broken + 1 if batch["batch"] is None else 0
        if batch["batch"] is not None:
            yield batch
        elif broken == MAX_BROKEN:
            raise BadInput(
                f"{broken} batches in a row have no image that can be read: correct the images of the stream"
            )


@dataclass
class _Undecoded(Sampler):
    """The undecoded batches of a stream, as what a loader samples."""

    stream: PairStream

    def __iter__(self) -> Iterator[tuple[list[Pair], str]]:
        return self.stream.undecoded()


@contextmanager
def _skip_errors(on_error: str) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        if on_error == "raise":
            raise
        warnings.warn(f"skipped: {error}", stacklevel=3)


def _grouped_batches(pairs: Sequence[Pair], size: int) -> list[list[Pair]]:
    """Split pairs into batches so that no group straddles two of them; an incomplete batch is dropped.

    Raises BadInput for a group larger than a batch.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.group is not None:
            groups.setdefault(pair.group, []).append(pair)
    batches: list[list[Pair]] = []
    for name, group in groups.items():
        if len(group) > size:
            raise BadInput(
                f"{group[0].where}: group {name!r} has {len(group)} pairs in one window and a batch holds {size}: "
                "use larger batches or smaller groups"
            )
        batch = next((batch for batch in batches if len(batch) + len(group) <= size), None)
        if batch is None:
            batches.append(batch := [])
        batch += group
    singles = [pair for pair in pairs if pair.group is None]
    for batch in batches:
        batch += singles[: (taken := size - len(batch))]
        singles = singles[taken:]
    batches += [singles[start : start + size] for start in range(0, len(singles), size)]
    return [batch for batch in batches if len(batch) == size]


def stream_pairs(
    source: str | Path | datasets.IterableDataset,
    *,
    split: str = "train",
    window: int = 2048,
    workers: int = 0,
    seed: int = 0,
    group_by_length: bool = True,
    on_error: str = "raise",
) -> PairStream:
    """Make a stream to train on: `fit(embedder, stream_pairs("folder/of/tars", workers=4), settings)`.

    source: a folder of webdataset tar files (0001.jpg with 0001.json {"short": …, "long": …}, or with 0001.txt) or of
    parquet files; a hub id; or a streamed datasets.Dataset. The order of the files changes every epoch.
    window: the number of undecoded pairs that are in memory and shuffled together. workers: processes that each read
    and decode a part of the files, so that their number changes the batches; with `Settings(workers=…)` instead, one
    process reads for all that decode, and it does not. With at least ranks × workers files, each file is read by one
    process only. At the end of an epoch an incomplete batch is dropped.
    Raises BadInput for a folder with neither tar nor parquet files.
    """
    import datasets

    roots: tuple[Path, ...] | None = None
    rows = source
    if isinstance(source, str | Path):
        rows, roots = load_shards(Path(source), split), (Path(source),)
    if rows is None:
        if Path(source).exists() or not is_hub_id(str(source)):
            raise BadInput(f"{source} holds no tar or parquet files, and is not a hub id")
        rows, roots = datasets.load_dataset(str(source), split=split, streaming=True), hub_folders()
    options: dict[str, Any] = {"group_by_length": group_by_length, "on_error": on_error, "workers": workers}
    return PairStream(without_decoding(rows), window=window, seed=seed, roots=roots, **options)


def parse_row(
    row: dict[str, Any], where: str, noted: set[str] | None = None, roots: Sequence[Path] | None = None
) -> Pair:
    """Build a Pair from a streamed row, its image undecoded. Raises BadInput if it has no image or no caption."""
    columns = [name for name in image_columns(row) if row[name] is not None]
    if not columns:
        raise BadInput(f"{where}: no image; columns are {', '.join(row)}, and one must be image, jpg, png or webp")
    return parse_pair(undecoded_image(row[columns[0]], roots), sample_record(row, where), where, noted)


def save_stream_state(folder: Path, stream_state: dict[int, str], batches_done: int) -> None:
    """Save this rank's stream state in a checkpoint folder."""
    # the keys are those of existing checkpoints
    write_json(_state_file(folder), {"begun": batches_done, "places": stream_state})


def load_stream_state(folder: Path) -> tuple[dict[int, str], int]:
    """Load this rank's stream state and its number of finished batches. Raises ValueError if there is none."""
    path = _state_file(folder)
    if not path.is_file():
        raise ValueError(f"{path} is missing: the checkpoint is not from a streamed run on this many ranks")
    saved = json.loads(path.read_text())
    return {int(worker): state for worker, state in saved["places"].items()}, saved["begun"]


def _state_file(folder: Path) -> Path:
    return folder / f"stream-{rank_from_env()[0]}.json"

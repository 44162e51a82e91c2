"""Stream pairs that do not fit in memory from tar or parquet shards, shuffled in windows and resumable.

`datasets` reads the shards and keeps the read position. This module gives each rank and each worker its own part,
shuffles one window of pairs at a time, batches captions of similar length together, and decodes images in the workers.
Each batch carries the state after it, so a resumed run continues with the very next pair.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

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

    def loader(self) -> DataLoader:
        """Return a loader of batches, decoded and collated in `workers` processes (0: in this process)."""
        more = {"prefetch_factor": 2, "persistent_workers": True} if self.workers else {}
        return DataLoader(self, batch_size=None, num_workers=self.workers, **more)

    def __iter__(self) -> Iterator[dict[str, Any]]:
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
                    # a batch of broken images only is left out: the next one's state is after it
                    if index >= used and (decoded := self._decode(batch)):
                        is_broken, state = False, {"epoch": epoch, "window": window, "given": index + 1}
                        state = json.dumps([worker, {**state, "state": rows_state}])
                        yield {"batch": self.collate(decoded), "stream_state": state}
                rows_state, window, used = rows.state_dict(), window + 1, 0
            if is_empty:
                raise BadInput(f"worker {worker} of {workers}: its part of the stream is empty; use fewer workers")
            if is_broken:
                raise BadInput(
                    f"worker {worker} of {workers}: its part of the stream gives no batch of {self.batch_size} pairs "
                    "with an image that can be read: use fewer workers or smaller batches, or correct the images"
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
            with self._skip_errors():
                where = f"epoch {epoch}, sample {row.get('__key__', index)}"
                yield self.check(parse_row(row, where, self.noted, self.roots))

    @contextmanager
    def _skip_errors(self) -> Iterator[None]:
        try:
            yield
        except BadInput as error:
            if self.on_error == "raise":
                raise
            warnings.warn(f"skipped: {error}", stacklevel=3)

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

    def _decode(self, pairs: list[Pair]) -> list[Pair]:
        decoded = []
        for pair in pairs:
            with self._skip_errors():
                decoded.append(replace(pair, image=decode_image(pair.image, f"{pair.where}: the image")))
        return decoded


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
    window: the number of undecoded pairs that are in memory and shuffled together. With at least ranks × workers
    files, each file is read by one process only. At the end of an epoch an incomplete batch is dropped.
    Raises BadInput for a folder with neither tar nor parquet files.
    """
    import datasets

    rows, roots = source, None
    if isinstance(source, str | Path):
        rows, roots = load_shards(Path(source), split), (Path(source),)
    if rows is None:
        if Path(source).exists() or not is_hub_id(str(source)):
            raise BadInput(f"{source} holds no tar or parquet files, and is not a hub id")
        rows, roots = datasets.load_dataset(str(source), split=split, streaming=True), hub_folders()
    options = {"seed": seed, "group_by_length": group_by_length, "on_error": on_error, "workers": workers}
    return PairStream(without_decoding(rows), window=window, roots=roots, **options)


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

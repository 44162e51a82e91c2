"""Pairs that do not fit in memory: tar or parquet shards and streamed datasets, read in order and shuffled in windows.

Reading, and the place in the shards, are `datasets`' own. Around them: each rank and each worker has its own part; a
window of pairs is shuffled at a time, never an epoch; rows of like length come together; pictures are decoded in
workers. Each batch carries the place behind it, so that a run goes on at the very next pair.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from vladva_kit.data.pairs import Pair, pair_of
from vladva_kit.data.validation import stored_image
from vladva_kit.models.device import launched
from vladva_kit.models.images import BadInput, open_image

if TYPE_CHECKING:
    import datasets

Check = Callable[[Pair], Pair]


@dataclass
class PairStream(IterableDataset):
    """An endless stream of batches of pairs; see `stream_pairs`.

    What comes out is {"batch": collate(pairs), "place": str}; `places` holds, by worker, the places to go on from.
    """

    rows: datasets.IterableDataset
    batch_size: int = 64  # pairs of one rank
    window: int = 2048  # pairs in memory a worker, undecoded; as many of them as fill whole batches
    seed: int = 0
    group_by_length: bool = True
    on_error: str = "raise"
    workers: int = 0
    check: Check = lambda pair: pair
    collate: Callable[[Sequence[Pair]], Any] = list
    places: dict[int, str] = field(default_factory=dict)
    begun: int = 0  # batches that were used before

    def loader(self) -> StreamLoader:
        """Batches, decoded and collated in `workers` processes (0: in this one)."""
        more = {"prefetch_factor": 2, "persistent_workers": True} if self.workers else {}
        return StreamLoader(self, batch_size=None, num_workers=self.workers, collate_fn=_as_it_is, **more)

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if worker < self.begun % workers:  # it is another worker's turn: DataLoader always begins with the first
            yield None
        place = json.loads(self.places[worker]) if worker in self.places else {}
        epoch, number = place.get("epoch", 0), place.get("window", 0)
        given, state = place.get("given", 0), place.get("state")
        while True:
            rows = self._part(epoch, worker, workers)
            if state is not None:
                rows.load_state_dict(state)
            found, any_pair = self._pairs(rows, epoch), False
            whole = max(1, self.window // self.batch_size) * self.batch_size  # else each window would lose a rest
            while pairs := list(islice(found, whole)):
                any_pair = True
                for at, batch in enumerate(self._batches(pairs, epoch, number)):
                    if at >= given:
                        here = {"epoch": epoch, "window": number, "given": at + 1, "state": state}
                        yield {"batch": self.collate(self._opened(batch)), "place": json.dumps([worker, here])}
                state, number, given = rows.state_dict(), number + 1, 0
            if not any_pair and state is None:
                raise BadInput(f"worker {worker} of {workers}: its part of the stream is empty; take fewer workers")
            epoch, number, given, state = epoch + 1, 0, 0, None

    def _part(self, epoch: int, worker: int, workers: int) -> datasets.IterableDataset:
        from datasets.distributed import split_dataset_by_node

        rank, ranks = launched()
        part = split_dataset_by_node(self.rows, rank * workers + worker, ranks * workers)
        part.set_epoch(self.seed * 1_000_003 + epoch + 1)  # another order of the files; at 0 there would be none
        return part

    def _pairs(self, rows: datasets.IterableDataset, epoch: int) -> Iterator[Pair]:
        for at, one in enumerate(rows.iter(1)):  # `iter`, since plain iteration parts the rows between workers again
            row = {name: values[0] for name, values in one.items()}
            try:
                yield self.check(pair_of_row(row, f"epoch {epoch}, sample {row.get('__key__', at)}"))
            except BadInput as error:
                if self.on_error == "raise":
                    raise
                warnings.warn(f"left out: {error}", stacklevel=2)

    def _batches(self, pairs: list[Pair], epoch: int, window: int) -> list[list[Pair]]:
        """A window's batches, whole ones only: shuffled, those of like length together, the batches shuffled again."""
        rng = random.Random(f"{self.seed} {epoch} {window}")
        rng.shuffle(pairs)
        if self.group_by_length:
            pairs.sort(key=lambda pair: len(pair.long or ""))
        size = self.batch_size
        batches = [pairs[at : at + size] for at in range(0, len(pairs) - size + 1, size)]
        rng.shuffle(batches)
        return batches

    def _opened(self, pairs: list[Pair]) -> list[Pair]:
        opened = []
        for pair in pairs:
            try:
                opened.append(replace(pair, image=open_image(pair.image)))
            except Exception as error:  # PIL's decoders raise nearly every kind of exception on damaged files
                if self.on_error == "raise":
                    raise BadInput(f"{pair.where}: the image cannot be read ({error})") from error
                warnings.warn(f"left out: {pair.where}: the image cannot be read ({error})", stacklevel=2)
        return opened


class StreamLoader(DataLoader):
    """DataLoader, less the blanks with which a resumed stream's workers find their turn."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (item for item in super().__iter__() if item is not None)


def _as_it_is(item: Any) -> Any:
    return item


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
    """A stream to train on: `fit(embedder, stream_pairs("folder/of/tars", workers=4), settings)`.

    source: a folder of webdataset tar files (0001.jpg with 0001.json {"short": …, "long": …}, or with 0001.txt) or of
    parquet files; a hub id; or a streamed datasets.Dataset. The files' order is another one each epoch.
    window: how many pairs, undecoded, are in memory at a time and are shuffled together. With at least
    ranks × workers files each is read by one process only. At an epoch's end a rest that fills no batch is left out.
    Raises BadInput for a folder that holds neither.
    """
    keywords = {"window": window, "workers": workers, "seed": seed, "group_by_length": group_by_length,
                "on_error": on_error}  # fmt: skip
    return PairStream(_undecoded(_opened(source, split)), **keywords)


def _opened(source: str | Path | datasets.IterableDataset, split: str) -> datasets.IterableDataset:
    import datasets

    if not isinstance(source, str | Path):
        return source
    folder = Path(source)
    for ending, kind in ((".tar", "webdataset"), (".parquet", "parquet")):
        files = sorted(str(path) for path in folder.glob(f"*{ending}"))
        if files:
            return datasets.load_dataset(kind, data_files=files, split="train", streaming=True)
    if folder.exists() or str(source).count("/") != 1:
        raise BadInput(f"{source} holds no tar and no parquet files, and is no hub id")
    return datasets.load_dataset(str(source), split=split, streaming=True)


def _undecoded(rows: datasets.IterableDataset) -> datasets.IterableDataset:
    import datasets

    for name, kind in (rows.features or {}).items():
        if isinstance(kind, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


def pair_of_row(row: dict[str, Any], where: str) -> Pair:
    """A streamed row as a Pair, its picture undecoded. Raises BadInput where it lacks a picture or both captions."""
    images = [name for name in ("image", "jpg", "jpeg", "png", "webp") if row.get(name) is not None]
    if not images:
        raise BadInput(f"{where}: no picture; columns are {', '.join(row)}, and one must be image, jpg, png or webp")
    record = {**row, **(row.get("json") or {})}
    if row.get("txt") and not record.get("short"):
        record["short"] = row["txt"]
    return pair_of(stored_image(row[images[0]]), record, where)


def save_stream_state(folder: Path, places: dict[int, str], begun: int) -> None:
    """Keeps a rank's places beside a checkpoint."""
    from vladva_kit.models.files import write_json

    write_json(folder / f"stream-{launched()[0]}.json", {"begun": begun, "places": places})


def load_stream_state(folder: Path) -> tuple[dict[int, str], int]:
    """A rank's places and the number of batches used before. Raises ValueError where the checkpoint has none."""
    path = folder / f"stream-{launched()[0]}.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: the checkpoint is not of a streamed run on this many ranks")
    held = json.loads(path.read_text())
    return {int(worker): place for worker, place in held["places"].items()}, held["begun"]

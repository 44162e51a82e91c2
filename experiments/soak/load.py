"""Embed many images and captions of which one in a hundred is broken, and watch the memory."""

from __future__ import annotations

import io
import json
import random
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

import vladva_kit as vk
from experiments.benchmarks.shapes import random_lvlm
from vladva_kit.data.images import list_images
from vladva_kit.data.store import Store
from vladva_kit.models.images import BadInput
from vladva_kit.search.shards import embed_images_to_shards

SHARD, BROKEN_EVERY, FORMATS = 500, 100, ("PNG", "JPEG", "WEBP", "GIF", "BMP")
WARM_UP, FLAT = 0.2, 1.05  # the share of the run before memory is compared; the largest growth afterwards
BROKEN_TEXTS = ("", "   ", "half \ud800", "x" * 200_000)


def embed_many(folder: Path, items: int, seconds: float, seed: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Embed `items` images and captions, or as many as the time allows; return counts and memory.

    embed_many(Path("scratch"), items=100_000, seconds=1000, seed=0, log=print)["reported"]
    """
    warnings.simplefilter("ignore")  # each skipped image is one; they are counted in the shards
    begin, embedder, rng = time.perf_counter(), vk.Embedder(random_lvlm("tiny")), random.Random(seed)
    source, memory, done = folder / "images", [], {"images": 0, "skipped": 0, "texts": 0, "refused": 0}
    broken = {"images": 0, "texts": 0}
    for part, first in enumerate(range(0, items, 10 * SHARD)):
        if part and time.perf_counter() - begin > seconds:
            break
        n = min(10 * SHARD, items - first)
        broken["images"] += _write_images(source / f"{part}", n, rng)
        images, out = list_images(source / f"{part}"), folder / f"{part}"
        embed_images_to_shards(images, embedder.encode_image, out, model="tiny", shard_size=SHARD, batch_size=50,
                               on_error="skip", progress=lambda _: memory.append(_resident()))  # fmt: skip
        store = Store(out)
        for name in store.names():
            done["images"] += len(store.read_json(int(name), "names"))
            done["skipped"] += len(store.read_json(int(name), "skipped"))
        for texts, n_broken in _texts(n, rng):
            broken["texts"] += n_broken
            done["texts"], done["refused"] = _encode(embedder, texts, done["texts"], done["refused"])
        memory.append(_resident())
        log(f"{done['images'] + done['skipped']}/{items} images, {memory[-1] / 1e6:.0f} MB")
    total = done["images"] + done["skipped"]
    steady = memory[int(WARM_UP * len(memory)) :]
    failed = [] if (done["skipped"], done["refused"]) == (broken["images"], broken["texts"]) else ["not all reported"]
    failed += [] if total == done["texts"] + done["refused"] else [f"{total} images, {done['texts']} texts"]
    growth = max(steady) / steady[0]
    failed += [f"memory grew by {growth - 1:.1%}"] if growth > FLAT and len(steady) >= 10 else []
    memories = {"after warm-up": steady[0], "highest": max(steady), "growth": growth}
    return {"asked": items, "items": total, "broken": broken, "reported": done, "memory": memories, "failed": failed}


def _write_images(folder: Path, n: int, rng: random.Random) -> int:
    """Write n images of mixed formats and sizes with their metadata.jsonl; return how many are broken."""
    folder.mkdir(parents=True)
    lines, broken = [], 0
    for number in range(n):
        format, size = rng.choice(FORMATS), (rng.randint(8, 96), rng.randint(8, 96))
        buffer = io.BytesIO()
        Image.new("RGB", size, tuple(rng.randbytes(3))).save(buffer, format)
        content, name = buffer.getvalue(), f"{number}.{format.lower()}"
        if number % BROKEN_EVERY == 7:
            broken, content = broken + 1, rng.choice((b"", b"not an image", content[:20]))
        (folder / name).write_bytes(content)
        lines.append(json.dumps({"file_name": name}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return broken


def _texts(n: int, rng: random.Random) -> Iterator[tuple[list[str], int]]:
    """Yield captions in lists of BROKEN_EVERY, each with one broken caption, and their number."""
    for start in range(0, n, BROKEN_EVERY):
        texts = [f"a {rng.choice(('red', 'blue'))} dog {'on a car ' * rng.randint(0, 6)}" for _ in range(BROKEN_EVERY)]
        texts = texts[: n - start]
        texts[rng.randrange(len(texts))] = rng.choice(BROKEN_TEXTS)
        yield texts, 1


def _encode(embedder: vk.Embedder, texts: list[str], encoded: int, refused: int) -> tuple[int, int]:
    """Encode captions, leaving out each that is refused by number; return the new counts."""
    while texts:
        try:
            return encoded + len(embedder.encode_text(texts)), refused
        except BadInput as error:
            number = int(str(error).split()[1])  # "caption 7 is empty"
            texts, refused = texts[:number] + texts[number + 1 :], refused + 1
    return encoded, refused


def _resident() -> int:
    return psutil.Process().memory_info().rss

"""Feed hostile images, texts, metadata, adapters and manifests: each is used correctly or refused in one sentence."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

import vladva_kit as vk
from experiments.benchmarks.shapes import random_lvlm
from vladva_kit.data.images import list_images
from vladva_kit.data.store import Store
from vladva_kit.data.validation import decode_image
from vladva_kit.embedder.adapter import detach_adapter
from vladva_kit.models.files import printable
from vladva_kit.models.load import LVLM
from vladva_kit.search.shards import search

LIMIT = 20  # seconds for one input; a longer one is called hung
ROUND = 50  # inputs of one kind before the next
REFUSALS = (ValueError, FileNotFoundError)  # BadInput, BadAdapter, UnknownModel and WrongType are ValueErrors


@dataclass
class Count:
    """What happened to the inputs of one kind."""

    tried: int = 0
    used: int = 0
    refused: int = 0
    slowest: float = 0.0  # seconds
    failed: list[str] = field(default_factory=list)


class _Hung(BaseException):
    pass


def fuzz_inputs(
    folder: Path, inputs: int, seconds: float, first_seed: int, log: Callable[[str], None]
) -> dict[str, Any]:
    """Try inputs of all kinds in turn until there were `inputs` or the time is over; return the counts.

    fuzz_inputs(Path("scratch"), inputs=10_000, seconds=600, first_seed=0, log=print)["kinds"]["images"]["refused"]
    """
    folder.mkdir(parents=True)
    end, kinds = time.perf_counter() + seconds, _kinds(folder)
    counts = {name: Count() for name in kinds}
    rounds = 0
    while time.perf_counter() < end and sum(count.tried for count in counts.values()) < inputs:
        for name, (strategy, use) in kinds.items():
            left = inputs - sum(count.tried for count in counts.values())
            if left > 0:
                examples = min(ROUND, -(-inputs // len(kinds)), left)
                _try(counts[name], strategy, use, examples, 1000 * first_seed + rounds, end)
        rounds += 1
        if rounds % 10 == 1:
            log(f"{sum(count.tried for count in counts.values())}/{inputs} inputs")
    return {"kinds": {name: asdict(count) for name, count in counts.items()}, "asked": inputs}


def _try(
    count: Count, strategy: st.SearchStrategy, use: Callable[[Any], None], n: int, number: int, end: float
) -> None:
    """Use n examples of a strategy; count what is used and refused, and keep each failure with its input."""

    @seed(number)
    @settings(
        max_examples=n, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
    )
    @given(strategy)
    def run(value: Any) -> None:
        if time.perf_counter() > end:
            return
        count.tried += 1
        start = time.perf_counter()
        if (failure := _outcome(use, value, count)) is not None and len(count.failed) < 20:
            count.failed.append(f"{failure}: {printable(repr(value))[:300]}")
        count.slowest = max(count.slowest, round(time.perf_counter() - start, 2))

    run()


def _outcome(use: Callable[[Any], None], value: Any, count: Count) -> str | None:
    """Return how an input failed, None if it was used or refused in one sentence."""

    def hung(*_: object) -> None:
        raise _Hung

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(LIMIT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(value)
        count.used += 1
    except REFUSALS as error:
        count.refused += 1
        text = str(error)
        if isinstance(error, UnicodeError | json.JSONDecodeError) or not text or printable(text) != text:
            return f"{type(error).__name__} is not a sentence: {printable(text)[:200]}"
    except _Hung:
        return f"hung for {LIMIT} s"
    except Exception as error:
        return f"{type(error).__name__}: {printable(str(error))[:200]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None


def _kinds(folder: Path) -> dict[str, tuple[st.SearchStrategy, Callable[[Any], None]]]:
    """Return for each kind the strategy that makes inputs, and the function that uses one and checks the result."""
    lvlm = random_lvlm("tiny")
    embedder, adapter = vk.Embedder(lvlm), _saved_adapter(folder / "adapter")
    return {
        "images": (st.one_of(damaged(_image_files()), st.binary(max_size=200)), _use_image),
        "texts": (_texts(), partial(_use_texts, embedder)),
        "metadata": (_metadata(), partial(_use_metadata, folder / "metadata")),
        "adapters": (_adapter_changes(), partial(_use_adapter, lvlm, adapter, folder / "changed")),
        "manifests": (_manifests(), partial(_use_manifest, folder / "shards")),
    }


@st.composite
def damaged(draw: st.DrawFn, contents: st.SearchStrategy[bytes]) -> bytes:
    """Draw bytes that are cut off, changed in a few places, or whole: `damaged(st.just(png))`."""
    content = bytearray(draw(contents))
    places = st.integers(0, max(0, len(content) - 1))
    for place, value in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
        if content:
            content[place] = value
    return bytes(content[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])


@st.composite
def _image_files(draw: st.DrawFn) -> bytes:
    format, mode = draw(st.sampled_from([("PNG", "RGB"), ("PNG", "I;16"), ("PNG", "P"), ("PNG", "LA"), ("JPEG", "RGB"),
                                         ("JPEG", "CMYK"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "F"), ("TIFF", "RGB"),
                                         ("WEBP", "RGBA"), ("PPM", "RGB")]))  # fmt: skip
    buffer = io.BytesIO()
    Image.new(mode, (draw(st.integers(1, 40)), draw(st.integers(1, 40)))).save(buffer, format)
    return buffer.getvalue()


def _use_image(content: bytes) -> None:
    image = decode_image(content, "the image", verify=True)
    if image.mode != "RGB" or not 0 < image.width * image.height <= 2**27:
        raise AssertionError(f"an image of mode {image.mode} and size {image.size}")


def _texts() -> st.SearchStrategy[Any]:
    special = st.sampled_from(
        ["<image>", "<eos>", "<pad>", "\x1b[31m", "\ud800", "\u202e", "\x00", "🐶", "a dog " * 300, ""]
    )
    text = st.lists(st.one_of(special, st.text(max_size=20)), max_size=4).map("".join)
    item = st.one_of(text, text, text, st.none(), st.integers(), st.floats(), st.binary(max_size=3))
    return st.one_of(st.lists(item, max_size=4), st.lists(text, max_size=4), item, st.sets(text, max_size=2))


def _use_texts(embedder: vk.Embedder, texts: Any) -> None:
    embeddings = embedder.encode_text(texts)
    if len(embeddings) != len(texts) or not torch.allclose(embeddings.norm(dim=-1), torch.ones(len(texts)), atol=1e-4):
        raise AssertionError(f"embeddings of shape {tuple(embeddings.shape)}")


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)


@st.composite
def _metadata(draw: st.DrawFn) -> bytes:
    names = st.one_of(st.sampled_from(["a.png", "a.png", "../a.png", "/etc/passwd", "b" * 300, "p.png", "link/a.png"]),
                      st.text(max_size=8), _JSON)  # fmt: skip
    lines = []
    for _ in range(draw(st.integers(1, 3))):
        record = {"file_name": draw(names), "short": draw(st.one_of(st.just("a dog"), _JSON))}
        record |= draw(st.dictionaries(st.sampled_from(["long", "captions", "negatives", "group"]), _JSON, max_size=2))
        line = st.just(json.dumps(record).encode())
        lines.append(draw(st.one_of(line, damaged(line))))
    return b"\n".join(lines)


def _use_metadata(folder: Path, content: bytes) -> None:
    if not folder.is_dir():
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "a.png")
        (folder / "link").symlink_to(folder.parent)
        os.mkfifo(folder / "p.png")
    (folder / "metadata.jsonl").write_bytes(content)
    for pair in vk.load_pairs(folder, on_error="skip"):
        if pair.image.resolve() != (folder / "a.png").resolve():
            raise AssertionError(f"an image outside the folder: {pair.image}")
    for record in list_images(folder):
        record.image.resolve().relative_to(folder.resolve())


def _saved_adapter(folder: Path) -> Path:
    return vk.attach(random_lvlm("tiny"), quiet=True).save_pretrained(folder)


def _adapter_changes() -> st.SearchStrategy[tuple[str, Any]]:
    """Draw (file, the new value of a key, or bytes in place of the file)."""
    values = st.one_of(_JSON, st.sampled_from([-1, 0, 10**9, float("nan"), "pissa", "(a+)+b", "../../etc/passwd"]))
    keys = st.sampled_from(["base", "soft_prompt", "lora", "temperature", "prompts", "weights", "max_pixels", "extra"])
    lora = st.sampled_from(["lora.r", "lora.lora_alpha", "lora.target_modules", "lora.init_lora_weights", "lora.bias"])
    records = st.tuples(st.sampled_from(["vladva.json", "provenance.json"]), st.tuples(st.one_of(keys, lora), values))
    files = st.sampled_from(["vladva.json", "provenance.json", "adapter_model.safetensors"])
    return st.one_of(records, st.tuples(files, st.tuples(st.integers(0, 400), st.binary(max_size=4))))


def _use_adapter(lvlm: LVLM, saved: Path, folder: Path, change: tuple[str, tuple[Any, Any]]) -> None:
    """Load a changed adapter; the LVLM must be as before if it is refused."""
    name, (key, value) = change
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    path = folder / name
    if isinstance(key, int):
        content = path.read_bytes()
        path.write_bytes(content[:key] + value + content[key + len(value) :] if value else content[:key])
    else:
        record = json.loads(path.read_text())
        inner = record.setdefault("lora", {}) if key.startswith("lora.") else record
        inner[key.removeprefix("lora.")] = value
        path.write_text(json.dumps(record))
    try:
        vk.Embedder.from_pretrained(folder, lvlm).encode_text(["a dog"])
    finally:
        loaded = lvlm.adapter is not None
        detach_adapter(lvlm)
    if not loaded:
        raise AssertionError("loaded without an adapter")


def _manifests() -> st.SearchStrategy[tuple[str, Any]]:
    numbers = st.one_of(_JSON, st.integers(-2, 10), st.sampled_from([10**9, 10**15, 2**63, 1e300]))
    values = st.tuples(st.sampled_from(["rows", "shard_size", "model", "version"]), numbers)
    whole = st.just(b'{"rows": 4, "shard_size": 2, "model": "m"}')
    return st.one_of(values, st.tuples(st.just("bytes"), damaged(whole)))


def _use_manifest(folder: Path, change: tuple[str, Any]) -> None:
    """Search shards whose manifest was changed: the results are right or the folder is refused."""
    shutil.rmtree(folder, ignore_errors=True)
    store, eye = Store.open(folder, {"rows": 4, "shard_size": 2, "model": "m"}), torch.eye(4)
    for shard in range(2):
        names = [str(2 * shard), str(2 * shard + 1)]
        store.write(shard, {"embeddings": eye[2 * shard : 2 * shard + 2]}, {"names": names, "skipped": []})
    key, value = change
    path = folder / "manifest.json"
    if key == "bytes":
        path.write_bytes(value)
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    if search(folder, eye, k=1) != [[(1.0, str(row))] for row in range(4)]:
        raise AssertionError("other results")

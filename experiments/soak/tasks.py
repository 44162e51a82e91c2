"""The runs that are killed: each resumes what is in its folder, and ends with a digest of all its results."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import vladva_kit as vk
from experiments.benchmarks.shapes import random_lvlm, sample_pairs, trainable_embedder
from experiments.paper import runs
from experiments.paper.plan import Plan
from experiments.paper.study import run_experiments
from experiments.world import cases, samples
from vladva_kit.data.captioning import caption_images, write_imagefolder
from vladva_kit.data.hard_batches import Mining
from vladva_kit.data.images import list_images
from vladva_kit.data.store import Store
from vladva_kit.embedder.adapter import adapter_state
from vladva_kit.evaluation import encoding
from vladva_kit.evaluation.results import read_per_case, save_results
from vladva_kit.models.files import write_json
from vladva_kit.search.shards import blocks, embed_images_to_shards

N_PAIRS, STEPS = 32, 12
MINING = Mining(refresh_every=4, margin=None)
RESULT = "result.json"  # of a run that ended: the digest of all that it made
SMALL = {"train": 36, "validation": 1, "test": 5, "unseen_style": 4}  # images of the study's samples


def make_world(folder: Path) -> Path:
    """Write what the runs read: an imagefolder, tar files and the samples of the study: `make_world(Path("world"))`."""
    images, tars = folder / "images", folder / "tars"
    images.mkdir(parents=True)
    tars.mkdir()
    lines = []
    for number, pair in enumerate(sample_pairs(N_PAIRS)):
        pair.image.save(images / f"{number}.png")
        captions = {"short": pair.short, "long": pair.long}
        lines.append(json.dumps({"file_name": f"{number}.png", **(captions if number % 2 else {})}))
        with tarfile.open(tars / f"{number % 4}.tar", "a") as tar:
            files = {"png": (images / f"{number}.png").read_bytes(), "json": json.dumps(captions).encode()}
            for suffix, content in files.items():
                entry = tarfile.TarInfo(f"{number:04}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    (images / "metadata.jsonl").write_text("\n".join(lines))
    _small_study()
    for name in samples.DRAWN:
        samples.write_sample(name, folder / "samples" / name)
    return folder


def _small_study() -> None:
    """Shrink the study's samples and checks to seconds."""
    samples.SPLITS, samples.TWIN_GROUPS, cases.CASES_PER_CATEGORY = SMALL, 8, 1
    samples.WINOGROUND_KINDS = dict.fromkeys(("object", "color", "size", "relation"), 1)
    runs.N_EQUALITY_IMAGES = 1


def train(world: Path, out: Path, *, streamed: bool = False, **changes: Any) -> str:
    """Train a few steps, resuming from the last checkpoint; return the digest of adapter and history."""
    embedder = trainable_embedder("tiny")
    cached = {"cache_images": str(out / "features")} if changes.get("micro_batch_size") else {}
    settings = vk.Settings(
        steps=STEPS, batch_size=8, warmup=2, save_every=3, output_dir=str(out / "checkpoints"), resume=True, **cached,
        **changes,
    )  # fmt: skip
    data = vk.stream_pairs(world / "tars", window=16, workers=1) if streamed else _pairs(world)
    history = vk.fit(embedder, data, settings, progress=False)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in history]
    weights = {name: tensor.numpy().tobytes() for name, tensor in adapter_state(embedder.lvlm).items()}
    return digest([rows, *(weights[name] for name in sorted(weights))])


def _pairs(world: Path) -> list[vk.Pair]:
    captioned = [record for record in list_images(world / "images") if record.metadata.get("short")]
    return [vk.Pair(record.image, record.metadata["short"], record.metadata["long"]) for record in captioned]


def embed(world: Path, out: Path) -> str:
    """Embed images into shards; return the digest of embeddings and names."""
    encode, folder = vk.Embedder(random_lvlm("tiny")).encode_image, out / "shards"
    options = {"model": "tiny", "shard_size": 4, "batch_size": 2}
    embed_images_to_shards(list_images(world / "images"), encode, folder, **options)
    store = Store(folder)
    names = [store.read_json(int(name), "names") for name in store.names()]
    assert sum(map(len, names)) == N_PAIRS, f"{sum(map(len, names))} embeddings of {N_PAIRS} images"
    return digest([names, *(block.numpy().tobytes() for _, _, block in blocks(folder))])


def evaluate(world: Path, out: Path) -> str:
    """Evaluate with a cache of embeddings and save the results; return the digest of every case."""
    encoding.SHARD = 4  # so that several files are written
    embedder = vk.Embedder(random_lvlm("tiny"))
    source = world / "samples" / "winoground_mini"
    result = vk.evaluate_winoground(embedder, source, batch_size=2, cache=out / "cache")
    save_results(out / "results", {"tiny": {"winoground": result}}, {"tiny": {}}, {"seed": 0})
    return digest([str(read_per_case(out / "results" / "per_case.parquet"))])


def caption(world: Path, out: Path) -> str:
    """Caption the images that lack captions; return the digest of the imagefolder."""
    images, embedder = list_images(world / "images"), vk.Embedder(random_lvlm("tiny"))
    caption_images(embedder, images, out / "captioned", batch_size=4)
    write_imagefolder(images, out / "captioned", "tiny")
    files = sorted(path.name for path in (out / "captioned").iterdir() if not path.name.startswith("."))
    return digest([files, (out / "captioned" / "metadata.jsonl").read_bytes()])


def ablate(world: Path, out: Path) -> str:
    """Run an experiment of the study on tiny samples; return the digest of its runs."""
    _small_study()
    vk.sample = lambda name: world / "samples" / name
    plan = Plan(steps=2, batch_size=32, sweep_seeds=(0,), n_generation_images=1, n_probe_images=2, n_prompt_images=2)
    results = run_experiments(["negatives"], plan, out / "study", log=lambda line: None)
    records = [json.dumps(_without_seconds(record), sort_keys=True) for record in results["runs"].values()]
    return digest(sorted(records))  # not their names, which change with the code


def _without_seconds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_seconds(inner) for key, inner in value.items() if key != "seconds"}
    return value


def digest(parts: list[Any]) -> str:
    """Hash values and bytes: `digest([{"loss": 1.0}, b"weights"])`; equal results have equal digests."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else json.dumps(part).encode())
    return found.hexdigest()


def run_task(name: str, world: Path, out: Path) -> None:
    """Run a task in its folder until its end and write the digest: `run_task("embed", world, Path("out"))`."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RESULT, {"digest": TASKS[name](world, out)})


TASKS: dict[str, Callable[[Path, Path], str]] = {
    "train": train,
    "train, cached gradients and features": partial(train, micro_batch_size=4),
    "train, streamed": partial(train, streamed=True),
    "train, by length": partial(train, group_by_length=True),
    "train, mined batches": partial(train, batches={"mined": 0.5, "random": 0.5}, mining=MINING),
    "train, distillation": partial(train, distill_weight=1.0),
    "embed": embed,
    "eval": evaluate,
    "caption": caption,
    "ablate": ablate,
}

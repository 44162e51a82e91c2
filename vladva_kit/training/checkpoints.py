"""Know which checkpoints of a run are complete, and whether a run resumes with the settings and data it began with."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import rotate_checkpoints

from vladva_kit.data.pairs import Pair
from vladva_kit.data.store import differences
from vladva_kit.data.streaming import PairStream
from vladva_kit.embedder.adapter import WEIGHTS_FILE, AdapterConfig, check_adapter_weights, load_adapter_weights
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.identity import content_key
from vladva_kit.models.device import rank, rank_from_env
from vladva_kit.models.files import write_json
from vladva_kit.training.progress import checkpoint_path, history_of
from vladva_kit.training.settings import Settings
from vladva_kit.training.validation import validations_since_best

MANIFEST = "manifest.json"  # sizes and hashes of a checkpoint's files, written last
RUN = "run.json"  # the settings and the data of the run, in output_dir
# settings that change no result, or only its rounding
FREE = {
    "output_dir", "resume", "resume_anyway", "save_every", "validate_every", "report_to", "micro_batch_size",
    "gradient_checkpointing", "keep_features", "cache_images", "distill_cache", "workers",
}  # fmt: skip


def last_checkpoint(settings: Settings) -> str | None:
    """Return the last complete checkpoint of an interrupted run, or None if there is none yet.

    A checkpoint is complete if its files have the sizes and hashes of its manifest; a warning names each other one.
    Raises ValueError if a new run would mix its checkpoints with an older run's, or if output_dir is missing.
    """
    if settings.output_dir is None:
        if settings.resume:
            raise ValueError("resume=True needs output_dir: the folder that the interrupted run wrote to")
        return None
    folders = _folders(settings.output_dir)
    if any(any(path.iterdir()) for path in folders) and not settings.resume:
        raise ValueError(
            f"{settings.output_dir} holds checkpoints of an earlier run: resume it with resume=True (--resume), "
            "remove the folder, or use another output_dir"
        )
    for number, folder in enumerate(folders):
        if (reason := incomplete(folder)) is None:
            return str(folder)
        following = next((older for older in folders[number + 1 :] if incomplete(older) is None), None)
        used = "training starts again at step 0" if following is None else f"{following.name} is used"
        warnings.warn(f"{folder} is incomplete ({reason}): {used}", stacklevel=2)
    return None


def _folders(output_dir: str) -> list[Path]:
    """List the folders of a run's checkpoints, the newest first."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.name[11:].isdecimal() and path.is_dir()]
    return sorted(folders, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """Return the step after which a checkpoint was saved: `step_of(Path("checkpoint-50")) == 50`."""
    return int(folder.name.removeprefix("checkpoint-"))


def incomplete(folder: Path) -> str | None:
    """Return why a checkpoint is incomplete, None if it is complete: `incomplete(Path("checkpoints/checkpoint-50"))`.

    Every file is read: a file of the right size may have been cut off by a crash of the machine.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        return f"it has no {MANIFEST}, which is written last"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {MANIFEST} cannot be read: {error}"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['size']}"
        if _file_digest(path) != expected["sha256"]:
            return f"the content of {name} is not what was saved"
    return None


def write_manifest(folder: Path) -> None:
    """Write the sizes and hashes of a checkpoint's files, which makes it complete: `write_manifest(folder)`."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST]
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _file_digest(path)}
        for path in paths
    }
    write_json(folder / MANIFEST, {"files": files})


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class CompleteCheckpoints(TrainerCallback):
    """Complete each checkpoint after the other callbacks wrote to it, then remove the oldest beyond the limit."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the manifest; the older checkpoints stay until it is there."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # every rank has written its random state
        if rank() == 0:
            write_manifest(checkpoint_path(args, state.global_step))
            for folder in _folders(str(args.output_dir)):  # a damaged newer one would be kept in place of this one
                if step_of(folder) > state.global_step and incomplete(folder) is not None:
                    shutil.rmtree(folder, ignore_errors=True)
            rotate_checkpoints(str(args.output_dir), args.save_total_limit, state.best_model_checkpoint)


def load_finished_run(
    embedder: Embedder, settings: Settings, checkpoint: str | None, early_stopping: int | None = None
) -> list[dict[str, float]] | None:
    """Load the adapter of a complete run's checkpoint, and return its history; None if there is more to train.

        load_finished_run(embedder, settings, last_checkpoint(settings))

    Raises BadAdapter for a checkpoint of another adapter.
    """
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    if not (Path(checkpoint) / WEIGHTS_FILE).is_file():  # sharded by FSDP: only the Trainer reads it
        return None
    has_all = state.global_step >= settings.steps
    has_best = early_stopping is not None and state.best_global_step is not None
    if not has_all and not (has_best and validations_since_best(state) >= (early_stopping or 0)):
        check_adapter_weights(embedder.lvlm, checkpoint)  # a sentence instead of torch's error with every tensor
        return None
    keeps_best = early_stopping is not None or settings.trainer.get("load_best_model_at_end")
    best = state.best_model_checkpoint if keeps_best else None
    folder = Path(checkpoint).with_name(Path(best or checkpoint).name)  # the run's folder may have moved
    load_adapter_weights(embedder.lvlm, folder if (folder / WEIGHTS_FILE).is_file() else checkpoint)
    if rank() == 0:
        reason = f"has all {settings.steps} steps of this run" if has_all else "is where this run stopped early"
        print(f"{checkpoint} {reason}: its adapter is loaded, nothing is trained")
    return history_of(state)


def run_record(embedder: Embedder, data: Sequence[Pair] | PairStream, settings: Settings) -> dict[str, Any]:
    """Describe what a run's result depends on, as JSON values: its settings, adapter, data and number of ranks.

    run_record(embedder, pairs, Settings())["settings"]["seed"]    # 0
    """
    values = {item.name: getattr(settings, item.name) for item in fields(Settings) if item.name not in FREE}
    values["mining"] = {name: value for name, value in asdict(settings.mining).items() if name != "cache"}
    record = {
        "settings": values,
        "adapter": asdict(cast(AdapterConfig, embedder.config)),
        "data": _stream_record(data) if isinstance(data, PairStream) else pairs_record(data),
        "ranks": rank_from_env()[1],
    }
    as_json = json.dumps(record, default=lambda value: dict(value) if isinstance(value, Mapping) else str(value))
    return json.loads(as_json)


def pairs_record(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Fingerprint pairs in their order: `pairs_record(pairs)` has their number and hashes of captions and images."""
    captions = [[pair.short, pair.long, pair.negatives, pair.captions, pair.group] for pair in pairs]
    images = [pair.image_key for pair in pairs]
    hashes = {"captions": content_key(json.dumps(captions)), "images": content_key("".join(images))}
    return {"pairs": len(pairs), **hashes}


def _stream_record(stream: PairStream) -> dict[str, Any]:
    """Fingerprint a stream by its options, its number of shards and the captions of its first row."""
    first: Mapping[str, Any] = next(iter(stream.rows), {})
    texts = {name: value for name, value in first.items() if isinstance(value, str)}
    options = {name: getattr(stream, name) for name in ("workers", "window", "seed", "group_by_length")}
    return {**options, "shards": stream.rows.num_shards, "first": content_key(json.dumps(texts, sort_keys=True))}


def check_run(record: Mapping[str, Any], settings: Settings, checkpoint: str | None) -> list[str]:
    """Compare a resumed run's record with the one it began with; a new run writes its record.

    Returns the differences, which `resume_anyway` allows. Raises ValueError naming each with both values otherwise.
    """
    path = Path(str(settings.output_dir)) / RUN
    if checkpoint is None:
        if rank_from_env()[0] == 0:
            write_json(path, record)
        return []
    if not path.is_file():
        warnings.warn(f"{path} is missing: whether settings and data are the run's own is not checked", stacklevel=3)
        return []
    try:
        began = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): remove it to resume without a comparison") from error
    found = [line.replace(" in the folder", " in the run", 1) for line in differences(began, record)]
    if found and not settings.resume_anyway:
        raise ValueError(
            f"{settings.output_dir} is a run with other settings or data: {'; '.join(found)}; use the run's own, or "
            "resume_anyway=True (--resume-anyway)"
        )
    if found:
        warnings.warn(f"resuming {settings.output_dir} with other settings or data: {'; '.join(found)}", stacklevel=3)
    return found

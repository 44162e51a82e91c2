"""What `vladva train` runs: options of the command line over a YAML file, checked by name, and saved as used."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from vladva_kit.data.hard_batches import Mining
from vladva_kit.embedder.embedder import attach
from vladva_kit.training.settings import Settings

LOAD = {"device": None, "max_pixels": None, "four_bit": False}  # arguments of load_lvlm
ATTACH = {
    name: parameter.default
    for name, parameter in inspect.signature(attach).parameters.items()
    if name not in ("lvlm", "quiet", "seed")
}
COMMAND = {
    "data": None, "out": "runs/train", "model": "emoji-llava", "validation": (), "early_stopping": None,
    "skip_bad": False,
}  # fmt: skip
STARTED = ("out", "output_dir", "resume", "resume_anyway")  # where and how a run was started: not saved


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: 1e-4 is a number, not the text that YAML 1.1 reads."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class RunConfig:
    """A run of `vladva train`: `read_run({"data": "emoji_pairs", "steps": 20}).settings.steps == 20`."""

    command: dict[str, Any]  # the keys of COMMAND
    load: dict[str, Any]  # of LOAD
    attach: dict[str, Any]  # of ATTACH
    settings: Settings

    @property
    def out(self) -> Path:
        return Path(self.command["out"])

    @property
    def on_error(self) -> str:
        return "skip" if self.command["skip_bad"] else "raise"

    def to_yaml(self) -> str:
        """Return all settings as a file for `--config`, without the output folder and whether the run was resumed."""
        values = self.command | self.load | self.attach | asdict(self.settings)
        values = {name: value for name, value in values.items() if name not in STARTED}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def read_run(options: Mapping[str, Any]) -> RunConfig:
    """Combine the options that were given with the file of the option `config`, which they override.

        read_run({"config": Path("run.yaml"), "steps": 20, "lora_rank": 8})

    A file has the keys of COMMAND and LOAD, of `attach` and of Settings. Raises ValueError for an unknown key, naming
    the nearest one, for an unusable value, for a file that is not YAML, and without data.
    """
    options = dict(options)
    path, rank = options.pop("config", None), options.pop("lora_rank", None)
    values = ({} if path is None else read_config(path)) | options
    if rank is not None:
        lora = values.get("lora")
        values["lora"] = {**(lora if isinstance(lora, Mapping) else {}), "r": rank}
    if isinstance(values.get("batches"), str):
        values["batches"] = proportions(values["batches"])
    if values.get("data") is None:
        raise ValueError("there is no data to train on: run vladva train FOLDER, or write data: FOLDER in the --config")
    command, load, adapter = (_chosen(values, defaults) for defaults in (COMMAND, LOAD, ATTACH))
    validation = command["validation"] or ()
    command["validation"] = [validation] if isinstance(validation, str) else [str(one) for one in validation]
    command["out"], adapter["prompts"] = str(command["out"]), tuple(adapter["prompts"])
    own = {field.name: values[field.name] for field in fields(Settings) if field.name in values}
    own.setdefault("output_dir", str(Path(command["out"]) / "checkpoints"))
    own["resume"] = bool(own.get("resume") or own.get("resume_anyway"))
    own["mining"] = Mining(**(own.get("mining") or {}))
    return RunConfig(command, load, adapter, Settings(**own))


def _chosen(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values.get(name, default) for name, default in defaults.items()}


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file and check its keys: `read_config(Path("run.yaml"))["steps"]`."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}  # noqa: S506  it is a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}: write one setting a line, as steps: 500")
    _refuse_unknown(path, values, {*COMMAND, *LOAD, *ATTACH, *(field.name for field in fields(Settings))})
    mining = values.get("mining") or {}
    _refuse_unknown(path, mining, {field.name for field in fields(Mining)}, "mining.")
    return values


def _refuse_unknown(path: Path, given: Iterable[Any], known: set[str], prefix: str = "") -> None:
    unknown = {
        str(name): difflib.get_close_matches(str(name), sorted(known), 1, 0.0) for name in given if name not in known
    }
    if unknown:
        listed = ", ".join(f"'{prefix}{name}' (nearest: '{prefix}{close[0]}')" for name, close in unknown.items())
        raise ValueError(f"{path}: unknown {'keys' if len(unknown) > 1 else 'key'} {listed}")


def proportions(text: str) -> dict[str, float]:
    """Parse the composition of a batch: `proportions("groups=0.25,random=0.75")["groups"] == 0.25`."""
    try:
        return {name.strip(): float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise ValueError(f"--batches {text!r}: write it as groups=0.25,mined=0.5,random=0.25") from error

"""Record what an adapter was trained on, without a local path, and compare it with the base it is loaded on."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from vladva_kit.embedder.identity import hash_weights, versions
from vladva_kit.models.files import atomic_write, read_object
from vladva_kit.models.hub import is_hub_id
from vladva_kit.models.load import LVLM, SHIPPED_LVLMS, base_name

PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True)
class Provenance:
    """The base and the versions that an adapter was saved with: provenance.json."""

    base: str  # a hub id, a shipped name, or the name of a local folder, never its path
    revision: str | None  # the hub's commit; None for a shipped or local base
    max_pixels: int | None  # larger images are shrunk to this many pixels
    dtype: str
    weights: str | None  # SHA-256 of the base's weights in this dtype; None where they were sharded
    versions: dict[str, str]

    def to_json(self) -> str:
        """Return the content of provenance.json."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @property
    def public_base(self) -> str | None:
        """The base's hub id or shipped name, None for a local folder."""
        return self.base if self.base in SHIPPED_LVLMS or is_hub_id(self.base) else None


def provenance_of(lvlm: LVLM) -> Provenance:
    """Describe a base: `provenance_of(load_lvlm("emoji-llava")).weights` is a SHA-256 of its weights.

    Remembers in the hub's cache folder where a local base is, so that it is found again on this computer.
    """
    dtype = str(lvlm.model.dtype).removeprefix("torch.")
    dtype += f", {getattr(lvlm.model, 'weight_bits', 4)}-bit" if getattr(lvlm.model, "is_quantized", False) else ""
    weights = _weights(lvlm)
    folder = Path(lvlm.name)
    if weights and folder.is_dir() and lvlm.name not in SHIPPED_LVLMS:
        with suppress(OSError):  # a cache that cannot be written: the base is then to be passed when loading
            atomic_write({_remembered(weights): str(folder.resolve()).encode()})
    return Provenance(base_name(lvlm.name), lvlm.revision, lvlm.family.max_pixels, dtype, weights, versions())


def read_provenance(folder: Path) -> tuple[Provenance | None, list[str]]:
    """Read provenance.json, and name what it lacks: `read_provenance(Path("my-adapter"))`.

    A folder of an older version of the kit has no such file: `(None, ["base", "revision", …])`.
    """
    names = [field.name for field in fields(Provenance)]
    file = folder / PROVENANCE_FILE
    if not file.is_file():
        return None, names
    values = read_object(file)
    missing = [name for name in names if name not in values]
    kinds = {"base": str, "revision": str, "max_pixels": int, "dtype": str, "weights": str, "versions": dict}
    for name, kind in kinds.items():
        value = values.get(name)
        is_hash = name != "weights" or value is None or re.fullmatch("[0-9a-f]{64}", str(value))
        if not isinstance(value, kind | None) or not is_hash:
            raise ValueError(f"{file}: {name} is {value!r}, which save_pretrained does not write; correct or remove it")
    empty = {"base": "", "dtype": "", "versions": {}}
    recorded: dict[str, Any] = {name: values.get(name, empty.get(name)) for name in names}
    return Provenance(**recorded), missing


def load_options(recorded: Provenance) -> dict[str, Any]:
    """Return keywords of `load_lvlm` for the recorded base: its folder on this computer, revision and max_pixels.

    Embedder.from_pretrained("my-adapter", revision="main")    # explicit keywords have priority
    """
    options: dict[str, Any] = {"revision": recorded.revision, "max_pixels": recorded.max_pixels}
    if recorded.weights and recorded.public_base is None and _remembered(recorded.weights).is_file():
        folder = Path(_remembered(recorded.weights).read_text())
        options["name"] = str(folder) if folder.is_dir() else None
    return {name: value for name, value in options.items() if value is not None}


def difference(adapter: str, recorded: Provenance | None, missing: list[str], lvlm: LVLM) -> str | None:
    """Say in one sentence how the base differs from the recorded one, or what was not recorded; None if they agree.

    difference("my-adapter", recorded, [], lvlm)
    # "my-adapter was saved with max_pixels 65536, but is loaded with None: its embeddings differ; load the base …"
    """
    if recorded is None:
        return (
            f"'{adapter}' does not record {', '.join(missing)} of its base, so a different base goes unnoticed: save "
            "it again with save_pretrained, on the base that it was trained on"
        )
    same_commit = lvlm.revision is not None and lvlm.revision == recorded.revision
    loaded = {"base": base_name(lvlm.name), "revision": lvlm.revision, "max_pixels": lvlm.family.max_pixels}
    differing = [
        f"{name} {getattr(recorded, name)} (loaded: {value})"
        for name, value in loaded.items()
        if name not in missing and getattr(recorded, name) != value
    ]
    note = ""
    if recorded.weights and not same_commit and recorded.dtype == str(lvlm.model.dtype).removeprefix("torch."):
        weights = _weights(lvlm)
        note = "; the weights are equal" if weights == recorded.weights else ""
        if weights and not note:
            differing.append(f"weights {recorded.weights[:16]}… (loaded: {weights[:16]}…)")
            old, new = recorded.versions.get("transformers"), versions()["transformers"]
            note = f"; it was saved with transformers {old}, and this is {new}" if old != new else ""
    if differing:
        return (
            f"'{adapter}' was saved with {', '.join(differing)}, so its embeddings may differ{note}: load the base "
            "with the recorded values, or leave it out"
        )
    return f"'{adapter}' does not record {', '.join(missing)} of its base" if missing else None


def _weights(lvlm: LVLM) -> str | None:
    """Return the SHA-256 of the base's weights, None where FSDP2 has sharded them."""
    if any(isinstance(weight, DTensor) for weight in lvlm.model.parameters()):
        return None
    return hash_weights(lvlm.model)


def _remembered(weights: str) -> Path:
    """Return the file that holds the folder of a local base with these weights."""
    from huggingface_hub import constants

    return Path(os.path.expanduser(constants.HF_HOME)) / "vladva_kit" / "bases" / weights

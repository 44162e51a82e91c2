"""Identify models and images by content: the keys of everything that the kit stores and reads again.

What is in a key, and why:

- Weights, as bytes in memory: a name or path stays the same when its content changes. The adapter's tensors and LoRA's
  settings count too, since equal tensors give other embeddings with another `lora_alpha`.
- Prompts, both as words and as tokens, since a chat template changes only the tokens.
- Resolution: `max_pixels` and all settings of the image processor and vocabulary.
- dtype, since bfloat16 and float32 embeddings of one model differ.
- Versions of the kit and its libraries, and the kit's code from an input to its embedding, so that an edit without a
  new version is seen. Comments, docstrings and formatting are left out, since they change no number.
- Images by content: a SHA-256 of a file's bytes, which is not decoded for it, or of a PIL image's pixels as the model
  sees them, with palette, transparency and EXIF rotation applied. Paths, names and dates are no part of it.

Not in a key: the device and the batch size, which change results by rounding only, and a model's name or folder.
Unchanged weights and files are hashed once per process.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, nn

from vladva_kit.embedder.adapter import adapter_state
from vladva_kit.models.images import Crop, ImageLike, check_regular, is_array, open_image

ADAPTER_PARTS = ("lora_", "soft_prompt", "temperature", "modules_to_save", "original_module")  # in parameter names
PACKAGE = Path(__file__).parents[1]
CODE = ("models", "embedder", "evaluation/baselines.py", "evaluation/encoding.py")  # from an input to its embedding
LIBRARIES = ("tokenizers", "pillow", "torchvision")  # prepare inputs; torchvision is optional
BASELINE_LIBRARIES = {"open_clip": "open_clip_torch", "sentence_transformers": "sentence-transformers"}
SETTLED = 2_000_000_000  # nanoseconds: a file changed more recently may change again without a new date
_hashed_weights: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()  # (probe, SHA-256)


def versions() -> dict[str, str]:
    """Return the versions that results depend on: kit, torch, transformers, peft, Python and the type of machine."""
    names = ("vladva-kit", "torch", "transformers", "peft")
    installed = {name: importlib.metadata.version(name) for name in names}
    return {**installed, "python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}


def describe(embedder: Any) -> dict[str, Any]:
    """Describe a model completely: `describe(embedder)["adapter"]` is a SHA-256, or None without an adapter.

    Takes an Embedder, a baseline, or any encoder with a string attribute `fingerprint`. Raises TypeError for
    others, since their embeddings could not be distinguished from those of other weights.
    """
    if isinstance(declared := getattr(embedder, "fingerprint", None), str):
        return {"name": type(embedder).__name__, "weights": declared}
    lvlm = getattr(embedder, "lvlm", None)
    model = getattr(lvlm or embedder, "model", None)
    if model is None or not hasattr(model, "named_parameters"):
        raise TypeError(
            f"a {type(embedder).__name__} has no weights to fingerprint; give it a string attribute 'fingerprint' that "
            "changes whenever its embeddings do"
        )
    common = {
        "name": (lvlm or embedder).name,
        "revision": getattr(getattr(model, "config", None), "_commit_hash", None),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "weights": hash_weights(model),
        "input": _hash_processing(lvlm.processor if lvlm is not None else embedder),
    }
    if lvlm is None:
        return {**common, "adapter": None, "prompts": None}
    with lvlm.lock:  # another thread may be in `with embedder.base():`
        prompts, adapted = (embedder.image_prompt, embedder.text_prompt), embedder.adapted
        adapter = _hash_tensors(adapter_state(lvlm).items()) if adapted else None
    return {
        **common,
        "adapter": adapter,
        "lora": embedder.config.lora if adapted else None,
        "prompts": [prompt.words for prompt in prompts],
        "prompt_tokens": content_key(json.dumps([[prompt.prefix, prompt.ids] for prompt in prompts])),
        "max_pixels": lvlm.family.max_pixels,
    }


def identity_of(embedder: Any) -> dict[str, Any]:
    """Return everything that embeddings depend on by name; a `Store` with it names each value that differs.

        Store.open(folder, {"identity": identity_of(embedder)})

    Raises TypeError as `describe` does.
    """
    description = describe(embedder)
    library = BASELINE_LIBRARIES.get(description.pop("name").partition(":")[0])  # a name is no content
    description.pop("revision", None)  # of a repository; the weights say more
    libraries = {name: _version(name) for name in (*LIBRARIES, *([library] if library else []))}
    code = code_digest(*(PACKAGE / part for part in CODE))
    return {**description, "versions": {**versions(), **libraries, "code": code}}


def model_fingerprint(embedder: Any) -> str:
    """Compute a SHA-256 of `identity_of(embedder)`: weights, adapter, prompts, resolution, dtype and versions.

        model_fingerprint(embedder) != model_fingerprint(the_same_after_a_training_step)

    Raises TypeError as `describe` does.
    """
    return content_key(json.dumps(identity_of(embedder), sort_keys=True))


def content_key(content: str | bytes) -> str:
    """Compute the SHA-256 of a text or of bytes as 64 hex digits: `content_key("a dog")`."""
    # half a character, which JSON allows, is hashed too: what reads the text later refuses it by name
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()


def image_key(image: ImageLike | Crop) -> str:
    """Return the key of an image's content, as 64 hex digits: equal for equal images, whatever their path.

        image_key(Path("copy.png")) == image_key(Path("original.png"))
        image_key(image) != image_key(the_same_indices_with_another_palette)

    A file, or its bytes, is hashed without decoding it; a PIL image or an array by its pixels as the model sees them; a
    crop by its image and box. Raises FileNotFoundError for a missing file, and what `open_image` raises for an image
    that cannot be converted.
    """
    if isinstance(image, Crop):
        return content_key(f"{image_key(image.image)} {image.box}")
    if isinstance(image, Image.Image) or is_array(image):
        opened = open_image(image)
        return content_key(f"{opened.mode} {opened.size} ".encode() + opened.tobytes())
    if isinstance(image, bytes):
        return content_key(image)
    check_regular(image)  # a pipe has no end
    status = os.stat(image)
    if time.time_ns() - status.st_mtime_ns < SETTLED:
        return content_key(Path(image).read_bytes())
    return _file_key(os.path.abspath(image), status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=1_000_000)
def _file_key(path: str, *_: int) -> str:
    """Hash a file once, until its date, size or inode changes."""
    return content_key(Path(path).read_bytes())


@lru_cache
def code_digest(*paths: Path) -> str:
    """Compute a SHA-256 of the Python code in files and folders, without comments, docstrings and formatting.

    code_digest(PACKAGE / "models", PACKAGE / "embedder")
    """
    digest = hashlib.sha256()
    for root in paths:
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            tree = ast.parse(path.read_bytes())
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    node.body = node.body[ast.get_docstring(node) is not None :]
            digest.update(f"{path.relative_to(root.parent).as_posix()} {ast.dump(tree)}".encode())
    return digest.hexdigest()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def hash_weights(model: nn.Module) -> str:
    """Compute a SHA-256 of the base weights: `hash_weights(lvlm.model)`, the same with and without an adapter.

    Computed again only if a sample of them, or a trainable tensor's sum, changed.
    """
    # buffers that are saved count too: a batch norm's statistics, the scales of 4-bit weights
    buffers = ((name, value) for name, value in model.state_dict(keep_vars=True).items() if type(value) is Tensor)
    tensors = (*model.named_parameters(), *buffers)
    named = [part for name, tensor in tensors for part in _plain_parts(name.replace(".base_layer", ""), tensor)]
    base = [(name, tensor) for name, tensor in named if not any(part in name for part in ADAPTER_PARTS)]
    probe = hashlib.sha256()
    for name, tensor in base:
        flat = tensor.detach().reshape(-1)
        # a fused optimizer's step leaves no trace in `_version`, and may change few rows of an embedding
        total = float(flat.sum(dtype=torch.float64)) if tensor.requires_grad else 0.0
        version = 0 if tensor.is_inference() else tensor._version
        probe.update(f"{name} {tensor.data_ptr()} {version} {total} ".encode())
        probe.update(_as_bytes(flat[:: max(1, len(flat) // 64)]))
    if _hashed_weights.get(model, ("",))[0] != probe.hexdigest():
        _hashed_weights[model] = probe.hexdigest(), _hash_tensors(base)
    return _hashed_weights[model][1]


def _plain_parts(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """Return a tensor as it is, or the plain tensors that torchao's int8 weights consist of."""
    if not type(tensor).__module__.startswith("torchao"):
        return [(name, tensor)]
    parts = ((part, getattr(tensor, part)) for part in cast(Any, tensor).__tensor_flatten__()[0])
    return [(f"{name}.{part}", value) for part, value in parts if value is not None]


def _as_bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _hash_tensors(weights: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights, key=lambda item: item[0]):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        digest.update(_as_bytes(weight))
    return digest.hexdigest()


def _hash_processing(source: Any) -> str:
    """Compute a SHA-256 of how inputs are prepared: image sizes, means, vocabulary."""
    image_processor, tokenizer = (getattr(source, name, None) for name in ("image_processor", "tokenizer"))
    settings = [image_processor.to_dict()] if image_processor is not None else []
    settings += [sorted(tokenizer.get_vocab().items())] if tokenizer is not None else []
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()

"""Export both encoders as ONNX files, which run without PyTorch and without this kit.

The files hold the model that `export` writes: LoRA is merged, and the prompts are tokens at the end of the vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.export import export
from vladva_kit.embedder.prompts import begins_with_bos, padding_id
from vladva_kit.models.files import atomic_dir
from vladva_kit.models.load import load_processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

CONFIG = "onnx_config.json"
TEXT, IMAGE = "text_encoder.onnx", "image_encoder.onnx"
_NO_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"  # read by transformers
_CAPTION = "CAPTIONGOESHERE"  # placeholder while the chat template is rendered


class _TextEncoder(nn.Module):
    """Embed right-padded texts, (batch, length) ids and mask, as (batch, dim) of unit length."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        last = attention_mask.sum(1) - 1
        return F.normalize(hidden[torch.arange(hidden.shape[0]), last].float(), dim=-1)


class _ImageEncoder(nn.Module):
    """Embed the pixels of an image, (1, 3, height, width), as (1, dim) of unit length; all other inputs are fixed."""

    def __init__(self, model: PreTrainedModel, fixed: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model, self.names = model, list(fixed)
        for name, value in fixed.items():
            self.register_buffer(f"fixed_{name}", value)

    def forward(self, pixel_values: Tensor) -> Tensor:
        fixed = {name: getattr(self, f"fixed_{name}") for name in self.names}
        hidden = self.model(pixel_values=pixel_values, use_cache=False, **fixed).last_hidden_state
        return F.normalize(hidden[:, -1].float(), dim=-1)


def export_onnx(embedder: Embedder, folder: str | os.PathLike) -> Path:
    """Write text_encoder.onnx, image_encoder.onnx, the processor's files and onnx_config.json, and return the folder.

        export_onnx(embedder, "my-onnx")    # needs: pip install 'vladva-kit[onnx]'
        onnxruntime.InferenceSession("my-onnx/text_encoder.onnx").run(None, {"input_ids": ids, "attention_mask": mask})

    Tokenize `before + caption + after`, both in onnx_config.json, with tokenizer.json, and pad on the right. The text
    encoder takes any batch and length; the image encoder takes one image at a time, as preprocessor_config.json
    describes. Embeddings, (batch, dim) float32, have unit length. A family whose number of tokens depends on the image
    gets no image encoder; a warning and onnx_config.json give the reason. The embedder is unchanged.
    Raises ImportError without onnx, ValueError for what `export` refuses and for a family that torch cannot export.
    """
    if missing := [name for name in ("onnx", "onnxscript") if not importlib.util.find_spec(name)]:
        raise ImportError(f"ONNX export needs {' and '.join(missing)}: pip install 'vladva-kit[onnx]'")
    from transformers import AutoModel

    folder, family = Path(folder), embedder.lvlm.family
    with tempfile.TemporaryDirectory() as merged, atomic_dir(folder) as tmp_dir:
        export(embedder, merged)
        model = AutoModel.from_pretrained(merged, dtype=torch.float32).eval()
        processor = load_processor(merged, model.config, family)
        text = processor.apply_chat_template(_turn({"type": "text", "text": _CAPTION}))
        ids, mask = _token_ids(processor, [text, f"{text}{text}"])
        if error := _save(
            _TextEncoder(model), {"input_ids": ids, "attention_mask": mask}, tmp_dir / TEXT, dynamic=True
        ):
            raise ValueError(f"torch cannot export the text encoder of a {family.model_type} as ONNX: {error}")
        reason = _save_image_encoder(model, processor, tmp_dir / IMAGE)
        processor.save_pretrained(tmp_dir)
        config = _config(processor, text, model.get_input_embeddings().embedding_dim, reason)
        (tmp_dir / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if reason:
        warnings.warn(f"{embedder.lvlm.name}: {IMAGE} was left out: {reason}", stacklevel=2)
    return folder


def _turn(content: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [dict(content)]}]


def _token_ids(processor: ProcessorMixin, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Tokenize texts that the chat template wrote, right-padded: two tensors (batch, length)."""
    tokenizer = processor.tokenizer
    options = {"add_special_tokens": not begins_with_bos(tokenizer, texts[0])}
    rows = [torch.tensor(tokenizer(text, **options).input_ids) for text in texts]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding_id(tokenizer))
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def _save_image_encoder(model: PreTrainedModel, processor: ProcessorMixin, path: Path) -> str:
    """Write the image encoder; return why it cannot be exported, or ""."""
    text = processor.apply_chat_template(_turn({"type": "image"}))
    options = {"return_tensors": "pt", "add_special_tokens": not begins_with_bos(processor.tokenizer, text)}
    sizes = ((96, 64), (64, 96), (400, 300), (1200, 100))
    batches = [dict(processor(images=[[Image.new("RGB", size)]], text=[text], **options)) for size in sizes]
    for batch in batches:
        del batch["attention_mask"]  # one sequence has no padding
    pixels = [batch.pop("pixel_values") for batch in batches]
    same = all(
        one.shape == pixels[0].shape and batch.keys() == batches[0].keys()
        for one, batch in zip(pixels, batches, strict=True)
    )
    if not same or not all(torch.equal(batch[name], batches[0][name]) for batch in batches for name in batch):
        return "its number of tokens or tiles depends on the size of the image"
    return _save(_ImageEncoder(model, batches[0]), {"pixel_values": pixels[0]}, path, dynamic=False)


def _save(encoder: nn.Module, inputs: Mapping[str, Tensor], path: Path, dynamic: bool) -> str:
    """Export an encoder to a file; return the first line of torch's error, or ""."""
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    options: dict[str, Any] = {"input_names": list(inputs), "output_names": ["embeddings"], "verbose": False}
    if dynamic:
        options["dynamic_shapes"] = dict.fromkeys(inputs, axes)
    try:
        with _exporting(), torch.no_grad():
            program: Any = torch.onnx.export(encoder.eval(), tuple(inputs.values()), **options)
            program.save(path)
    except torch.onnx.OnnxExporterError as error:
        return str(error.__cause__ or error).strip().splitlines()[0]
    return ""


@contextmanager
def _exporting() -> Iterator[None]:
    """Leave transformers' checks of the inputs out, which ONNX cannot express, and silence the exporter's notes."""
    logger, before = logging.getLogger("torch.onnx"), os.environ.get(_NO_CHECKS)
    level = logger.level
    logger.setLevel(logging.ERROR)
    os.environ[_NO_CHECKS] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        del os.environ[_NO_CHECKS]
        if before is not None:
            os.environ[_NO_CHECKS] = before


def _config(processor: ProcessorMixin, text: str, dim: int, reason: str) -> dict[str, Any]:
    """Describe how to make the encoders' inputs."""
    tokenizer, (before, _, after) = processor.tokenizer, text.partition(_CAPTION)
    bos = not begins_with_bos(tokenizer, text)  # by the tokenizer's own template, if it has one
    described = {
        "file": TEXT,
        "before": before,
        "after": after,
        "add_special_tokens": bos,
        "pad_id": padding_id(tokenizer),
    }
    image = {"file": None, "reason": reason} if reason else {"file": IMAGE, "images_at_once": 1}
    return {"dim": dim, "text": described, "image": image}

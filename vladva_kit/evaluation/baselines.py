"""The baselines beside the LVLM: CLIP, SigLIP, and what open_clip and sentence-transformers load, with the same verbs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.models.hub import friendly_hub_errors
from vladva_kit.models.images import open_images
from vladva_kit.models.load import UnknownModel, resolve

if TYPE_CHECKING:
    from PIL import Image

SHIPPED_BASELINES = ("emoji-clip",)


def load_baseline(
    name: str = "emoji-clip", device: str | None = None
) -> ClipEmbedder | OpenClipEmbedder | SentenceEmbedder:
    """A peer by one name, with the embedder's verbs, so that whatever judges one judges the other.

        load_baseline()                                                # emoji-clip, shipped
        load_baseline("google/siglip-base-patch16-224")                # a CLIP or SigLIP: a hub id or a folder
        load_baseline("open_clip:ViT-B-32/laion2b_s34b_b79k")          # a model and its weights' tag
        load_baseline("open_clip:hf-hub:timm/ViT-B-16-SigLIP")
        load_baseline("sentence_transformers:sentence-transformers/clip-ViT-B-32")

    Raises UnknownModel for a name that leads nowhere or to another kind of model, ImportError where the named library
    is not installed.
    """
    library, _, rest = name.partition(":")
    if library == "open_clip":
        return OpenClipEmbedder(rest, device)
    if library == "sentence_transformers":
        return SentenceEmbedder(rest, device)
    return ClipEmbedder(name, device)


class ClipEmbedder:
    """A CLIP's or a SigLIP's two towers (SigLIP 2's too), as transformers has them.

        clip = ClipEmbedder("emoji-clip")            # shipped; or a folder, or a hub id
        clip.similarity(clip.encode_image(pictures), clip.encode_text(captions))

    Raises UnknownModel for a name that leads nowhere, or to a model that is neither; HubError where it cannot be
    download.
    """

    def __init__(self, name: str = "emoji-clip", device: str | None = None) -> None:
        from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

        source = resolve(name, known=SHIPPED_BASELINES)
        with friendly_hub_errors(name):
            kind = AutoConfig.from_pretrained(source).model_type
            if kind not in ("clip", "siglip", "siglip2"):
                raise UnknownModel(
                    f"'{name}' is a {kind}, neither a CLIP nor a SigLIP of transformers: load an LVLM with load_lvlm, "
                    "or name the library, as open_clip:… or sentence_transformers:…"
                )
            model = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
            self.image_processor = AutoImageProcessor.from_pretrained(source, backend="pil")
            self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.model = model.to(_device(device)).eval()
        # SigLIP was trained on captions filled up to its whole context, without a mask, and reads its last token
        self.padding = True if kind == "clip" else "max_length"

    @torch.inference_mode()
    def encode_image(self, images: Sequence[Image.Image | Path | str], batch_size: int = 256) -> Tensor:
        """Pictures to unit vectors: (n, dim) float32 on the CPU."""
        states = []
        for start in range(0, len(images), batch_size):
            pictures = open_images(images[start : start + batch_size], start)
            pixels = self.image_processor(pictures, return_tensors="pt").to(self.model.device)
            states.append(self.model.get_image_features(**pixels).pooler_output)
        return F.normalize(torch.cat(states), dim=-1).cpu()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Captions to unit vectors: (n, dim) float32 on the CPU; what exceeds the context is cut off."""
        states = []
        for start in range(0, len(texts), batch_size):
            captions = list(texts[start : start + batch_size])
            limit = self.model.config.text_config.max_position_embeddings
            ids = self.tokenizer(
                captions, padding=self.padding, truncation=True, max_length=limit, return_tensors="pt"
            ).to(self.model.device)
            mask = None if self.padding == "max_length" else ids["attention_mask"]
            features = self.model.get_text_features(input_ids=ids["input_ids"], attention_mask=mask)
            states.append(features.pooler_output)
        return F.normalize(torch.cat(states), dim=-1).cpu()

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Cosines (n_images, n_texts) of unit vectors."""
        return images.float() @ texts.float().T


class OpenClipEmbedder:
    """A model of open_clip: `OpenClipEmbedder("ViT-B-32/laion2b_s34b_b79k")`, or "hf-hub:owner/name".

    open_clip takes safetensors where there are any; an older file is read as weights only, which runs no code in it.
    Raises ImportError where open_clip is not installed, UnknownModel for a name without a tag.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        open_clip = _library("open_clip", "open_clip_torch", f"open_clip:{name}")
        model, tag = (name, None) if name.startswith(("hf-hub:", "local-dir:")) else _model_and_tag(name)
        self.device = _device(device)
        self.model, self.transform = open_clip.create_model_from_pretrained(
            model, pretrained=tag, device=self.device, weights_only=True
        )
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(model)

    @torch.inference_mode()
    def encode_image(self, images: Sequence[Image.Image | Path | str], batch_size: int = 256) -> Tensor:
        """Pictures to unit vectors: (n, dim) float32 on the CPU."""
        states = []
        for start in range(0, len(images), batch_size):
            pictures = open_images(images[start : start + batch_size], start)
            pixels = torch.stack([self.transform(picture) for picture in pictures])
            states.append(self.model.encode_image(pixels.to(self.device)).float())
        return F.normalize(torch.cat(states), dim=-1).cpu()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Captions to unit vectors: (n, dim) float32 on the CPU; what exceeds the context is cut off."""
        states = []
        for start in range(0, len(texts), batch_size):
            ids = self.tokenizer(list(texts[start : start + batch_size]))
            states.append(self.model.encode_text(ids.to(self.device)).float())
        return F.normalize(torch.cat(states), dim=-1).cpu()

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Cosines (n_images, n_texts) of unit vectors."""
        return images.float() @ texts.float().T


class SentenceEmbedder:
    """A model of sentence-transformers that takes pictures too: `SentenceEmbedder("clip-ViT-B-32")`.

    Weights are read from safetensors only, and no code of the repository is run. Raises ImportError where the library
    is not installed.
    """

    def __init__(self, name: str, device: str | None = None) -> None:
        library = _library("sentence_transformers", "sentence-transformers", f"sentence_transformers:{name}")
        self.model: Any = library.SentenceTransformer(
            name, device=_device(device), trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )

    def encode_image(self, images: Sequence[Image.Image | Path | str], batch_size: int = 256) -> Tensor:
        """Pictures to unit vectors: (n, dim) float32 on the CPU."""
        return self._encode(open_images(images), batch_size)

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Captions to unit vectors: (n, dim) float32 on the CPU; what exceeds the context is cut off."""
        return self._encode(list(texts), batch_size)

    def _encode(self, things: list[Any], batch_size: int) -> Tensor:
        vectors = self.model.encode(things, batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
        return F.normalize(vectors.float(), dim=-1).cpu()

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Cosines (n_images, n_texts) of unit vectors."""
        return images.float() @ texts.float().T


def _device(device: str | None) -> str:
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _library(module: str, package: str, asked: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"'{asked}' needs {package}, which is not installed: pip install {package}, "
            "or take a CLIP or SigLIP of transformers, as load_baseline('emoji-clip')"
        ) from error


def _model_and_tag(name: str) -> tuple[str, str]:
    model, _, tag = name.rpartition("/")
    if not model or not tag:
        raise UnknownModel(
            f"'open_clip:{name}' names no weights: write open_clip:MODEL/TAG, as open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    return model, tag

"""The peer beside the LVLM: a CLIP with the same two verbs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.inputs import open_image
from vladva_kit.lvlm import resolve

if TYPE_CHECKING:
    from PIL import Image


class ClipEmbedder:
    """A CLIP's two towers, with the embedder's verbs, so that whatever judges one judges the other.

        clip = ClipEmbedder("emoji-clip")            # shipped; or a folder, or a hub id
        clip.similarity(clip.encode_image(pictures), clip.encode_text(captions))

    Raises UnknownModel for a name that leads nowhere.
    """

    def __init__(self, name: str = "emoji-clip", device: str | None = None) -> None:
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        source = resolve(name, known=("emoji-clip",))
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model = CLIPModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32).to(device).eval()
        self.image_processor = CLIPImageProcessorPil.from_pretrained(source)
        self.tokenizer = AutoTokenizer.from_pretrained(source)

    @torch.inference_mode()
    def encode_image(self, images: Sequence[Image.Image | Path | str], batch_size: int = 256) -> Tensor:
        """Pictures to unit vectors: (n, dim) float32 on the CPU."""
        states = []
        for start in range(0, len(images), batch_size):
            pictures = [open_image(image) for image in images[start : start + batch_size]]
            pixels = self.image_processor(pictures, return_tensors="pt").to(self.model.device)
            states.append(self.model.get_image_features(**pixels).pooler_output)
        return F.normalize(torch.cat(states), dim=-1).cpu()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Captions to unit vectors: (n, dim) float32 on the CPU; what exceeds CLIP's context is cut off."""
        states = []
        for start in range(0, len(texts), batch_size):
            captions = list(texts[start : start + batch_size])
            limit = self.model.config.text_config.max_position_embeddings
            ids = self.tokenizer(captions, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            states.append(self.model.get_text_features(**ids.to(self.model.device)).pooler_output)
        return F.normalize(torch.cat(states), dim=-1).cpu()

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Cosines (n_images, n_texts) of unit vectors."""
        return images.float() @ texts.float().T

"""Evaluate the kit's models with other libraries: mteb and CLIP_benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from vladva_kit.embedder.identity import model_fingerprint
from vladva_kit.evaluation.encoding import ImageTextEncoder

IMAGES_PER_CALL = 64  # mteb's loaders give one image at a time


class MtebEncoder:
    """An Embedder, or any encoder of images and texts, as a model of mteb 2.

        mteb.evaluate(MtebEncoder(embedder), mteb.get_tasks(["Winoground", "SugarCrepe"]))

    name: as mteb stores results, "owner/name". revision: by default the model's fingerprint, so that mteb's cache never
    mixes up two adapters. An image with a text as one document is refused: its embedding is not defined.
    Raises TypeError for an encoder without fingerprint if no revision is given.
    """

    def __init__(self, embedder: ImageTextEncoder, name: str = "vladva-kit/embedder", revision: str = "") -> None:
        from mteb.models import ModelMeta

        meta = {"name": name, "revision": revision or model_fingerprint(embedder), "modalities": ["image", "text"]}
        self.embedder, self.mteb_model_meta = embedder, ModelMeta.create_empty(meta)

    def encode(self, inputs: Iterable[dict[str, Any]], **_: Any) -> Tensor:
        """Embed the images or the texts of mteb's batches, unit length: (n, dim) float32."""
        images: list[Image.Image] = []
        texts: list[str] = []
        embeddings = []
        for batch in inputs:
            if "image" in batch and "text" in batch:
                raise ValueError("a document of an image with a text has no embedding: choose another task of mteb")
            images += batch.get("image", ())
            texts += batch.get("text", ())
            if len(images) >= IMAGES_PER_CALL:
                embeddings.append(torch.as_tensor(self.embedder.encode_image(images)))
                images = []
        embeddings += [torch.as_tensor(self.embedder.encode_image(images))] if images else []
        embeddings += [torch.as_tensor(self.embedder.encode_text(texts))] if texts else []
        return torch.cat(embeddings)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compute the cosine of each embedding of the first set with each of the second: (n, m)."""
        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Compute the cosine of each embedding of the first set with the same one of the second: (n,)."""
        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)


class _Texts(list):
    """Texts in place of token ids, which CLIP_benchmark moves to a device."""

    device = "cpu"

    def to(self, device: Any) -> _Texts:
        self.device = device
        return self


class ClipBenchmarkModel:
    """An Embedder, or any encoder of images and texts, as a model of CLIP_benchmark.

        model = ClipBenchmarkModel(embedder)
        dataset = build_dataset("sugar_crepe/swap_obj", root="coco", transform=model.transform)
        zeroshot_retrieval.evaluate(model, DataLoader(dataset), model.tokenizer, device="cpu")

    CLIP_benchmark stacks images of one size. The model needs each image as it is, so `transform` keeps the image and
    returns its number, a tensor (1, 1, 1). Load data in the main process, with num_workers=0. `amp` is ignored: the
    model computes in its own dtype, as in the kit.
    """

    def __init__(self, embedder: ImageTextEncoder) -> None:
        self.embedder, self.tokenizer = embedder, _Texts
        self._images: dict[int, Image.Image] = {}
        self._numbers = count()

    def eval(self) -> ClipBenchmarkModel:
        """Return the model, which always is in this mode."""
        return self

    def transform(self, image: Image.Image) -> Tensor:
        """Keep an image until it is encoded, and return its number: (1, 1, 1). Raises ValueError in a worker."""
        if get_worker_info() is not None:
            raise ValueError("images that another process loads do not reach the model: pass num_workers=0")
        number = next(self._numbers)
        self._images[number] = image
        return torch.full((1, 1, 1), number)

    def encode_image(self, numbers: Tensor) -> Tensor:
        """Embed the images of these numbers, (n, 1, 1, 1), once: (n, dim) float32, unit length."""
        images = [self._images.pop(number) for number in numbers.flatten().tolist()]
        return self._encode(self.embedder.encode_image, images, numbers.device)

    def encode_text(self, texts: _Texts) -> Tensor:
        """Embed texts that `tokenizer` returned: (n, dim) float32, unit length."""
        return self._encode(self.embedder.encode_text, texts, texts.device)

    def _encode(self, encode: Any, items: Sequence[Any], device: Any) -> Tensor:
        with torch.autocast(torch.device(device).type, enabled=False):
            return torch.as_tensor(encode(items)).to(device)

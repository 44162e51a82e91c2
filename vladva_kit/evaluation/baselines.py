"""Load baselines with the Embedder's methods: CLIP and SigLIP, and models of open_clip and sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.prompts import check_texts
from vladva_kit.models.device import memory_advice
from vladva_kit.models.hub import friendly_hub_errors
from vladva_kit.models.images import ImageLike, check_image_list, image_batches
from vladva_kit.models.load import UnknownModel, load_weights, refuse_wrong_transformers, resolve

CLIP_TYPES = ("clip", "siglip", "siglip2")  # the model_type of configs that ClipEmbedder reads
LIBRARIES = ("open_clip", "sentence_transformers")  # before the colon of a name


def load_baseline(name: str = "emoji-clip", device: str | None = None) -> FeatureEmbedder:
    """Load a baseline by name; every evaluation takes it in place of an Embedder.

        load_baseline()                                                # emoji-clip, shipped
        load_baseline("google/siglip-base-patch16-224")                # a CLIP or SigLIP: a hub id or a folder
        load_baseline("open_clip:ViT-B-32/laion2b_s34b_b79k")          # a model and the tag of its weights
        load_baseline("open_clip:hf-hub:timm/ViT-B-16-SigLIP")        # or open_clip:local-dir:FOLDER
        load_baseline("sentence_transformers:sentence-transformers/clip-ViT-B-32")

    Weights of the two libraries are read as safetensors or as weights only: no code of a repository is run.
    Raises UnknownModel for a name that is not found or names another kind of model, ImportError if the library it
    names is not installed.
    """
    library, _, rest = name.partition(":")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if library == "open_clip":
        return _open_clip(rest, device)
    return _sentence_transformer(rest, device) if library == "sentence_transformers" else ClipEmbedder(name, device)


@dataclass(eq=False, repr=False)
class FeatureEmbedder:
    """Encode with a model's own functions, and the methods of an Embedder.

    `image_features` takes a batch of RGB images, `text_features` a batch of captions; both return features (n, dim).
    """

    name: str
    model: Any
    image_features: Callable[[list[Image.Image]], Tensor]
    text_features: Callable[[list[str]], Tensor]

    similarity = Embedder.similarity

    def encode_image(self, images: Sequence[ImageLike], batch_size: int = 256) -> Tensor:
        """Encode images to unit vectors: (n, dim) float32 on the CPU. Raises what `Embedder.encode_image` raises."""
        check_image_list(images)
        return self._encode(map(self.image_features, image_batches(images, batch_size)), batch_size)

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Encode captions, truncated to the model's context, to unit vectors: (n, dim) float32 on the CPU.

        Raises what `Embedder.encode_text` raises.
        """
        check_texts(texts)
        starts = range(0, len(texts), batch_size)
        return self._encode((self.text_features(list(texts[i : i + batch_size])) for i in starts), batch_size)

    @torch.inference_mode()
    def _encode(self, batches: Iterable[Tensor], batch_size: int) -> Tensor:
        fix = f"pass batch_size={max(1, batch_size // 4)}"
        with memory_advice(lambda: f"while encoding with batch_size={batch_size}: {fix}"):
            return F.normalize(torch.cat([features.float() for features in batches]), dim=-1).cpu()


class ClipEmbedder(FeatureEmbedder):
    """A CLIP, SigLIP or SigLIP 2 of transformers.

        clip = ClipEmbedder("emoji-clip")            # shipped; or a folder, or a hub id
        clip.similarity(images, captions)            # (n_images, n_texts)

    Raises UnknownModel for a name that is not found or names another kind of model, HubError if the download fails.
    """

    def __init__(self, name: str = "emoji-clip", device: str | None = None) -> None:
        from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

        refuse_wrong_transformers()
        source = resolve(name, ("emoji-clip",))
        with friendly_hub_errors(name):
            kind = AutoConfig.from_pretrained(source).model_type
            if kind not in CLIP_TYPES:
                raise UnknownModel(
                    f"'{name}' is a {kind}, not a CLIP or SigLIP of transformers: load an LVLM with load_lvlm, or name "
                    "the library, as in open_clip:… or sentence_transformers:…"
                )
            model = load_weights(AutoModel, source, name, dtype=torch.float32)
            self.image_processor = AutoImageProcessor.from_pretrained(source, backend="pil")
            self.tokenizer = AutoTokenizer.from_pretrained(source)
        # SigLIP was trained on captions padded to its full context, without a mask, and reads the last token
        self.padding = True if kind == "clip" else "max_length"
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = model.to(device).eval()  # type: ignore[arg-type]  # the wrapper of transformers shows `self` as an argument
        super().__init__(name, model, self._image_features, self._text_features)

    def _image_features(self, images: list[Image.Image]) -> Tensor:
        inputs = self.image_processor(images, return_tensors="pt").to(self.model.device)
        return self.model.get_image_features(**inputs).pooler_output

    def _text_features(self, texts: list[str]) -> Tensor:
        limit = self.model.config.text_config.max_position_embeddings
        inputs = self.tokenizer(texts, padding=self.padding, truncation=True, max_length=limit, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        mask = None if self.padding == "max_length" else inputs["attention_mask"]
        return self.model.get_text_features(input_ids=inputs["input_ids"], attention_mask=mask).pooler_output


def _open_clip(name: str, device: str) -> FeatureEmbedder:
    """Load a model of open_clip: "ViT-B-32/laion2b_s34b_b79k", or "hf-hub:owner/name"."""
    open_clip = _library("open_clip", "open_clip_torch", f"open_clip:{name}")
    model_name, _, tag = (name, "", None) if name.startswith(("hf-hub:", "local-dir:")) else name.rpartition("/")
    if not model_name or tag == "":
        raise UnknownModel(
            f"'open_clip:{name}' names no weights: write open_clip:MODEL/TAG, as open_clip:ViT-B-32/laion2b_s34b_b79k"
        )
    options = {"pretrained": tag, "device": device, "weights_only": True}
    model, transform = open_clip.create_model_from_pretrained(model_name, **options)
    model.eval()
    tokenizer = open_clip.get_tokenizer(model_name)
    return FeatureEmbedder(
        f"open_clip:{name}",
        model,
        lambda images: model.encode_image(torch.stack([transform(image) for image in images]).to(device)),
        lambda texts: model.encode_text(tokenizer(texts).to(device)),
    )


def _sentence_transformer(name: str, device: str) -> FeatureEmbedder:
    """Load an image-text model of sentence-transformers: "clip-ViT-B-32"."""
    refuse_wrong_transformers()  # an exported LVLM is affected too
    library = _library("sentence_transformers", "sentence-transformers", f"sentence_transformers:{name}")
    safe = {"trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
    model = library.SentenceTransformer(name, device=device, **safe)

    def features(batch: list[Any]) -> Tensor:
        return model.encode(batch, batch_size=len(batch), convert_to_tensor=True, show_progress_bar=False)

    return FeatureEmbedder(f"sentence_transformers:{name}", model, features, features)


def _library(module: str, package: str, name: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"'{name}' needs {package}, which is not installed: pip install {package}, or use a CLIP or SigLIP of "
            "transformers, as load_baseline('emoji-clip')"
        ) from error

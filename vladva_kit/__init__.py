"""VladVA: turn a generative LVLM into an image-text embedding model that can still generate text.

import vladva_kit as vk

lvlm = vk.load_lvlm("emoji-llava")             # or a Hub id, or a folder
base = vk.Embedder(lvlm)                       # hand-written prompts, no adapter
embedder = vk.attach(lvlm)                     # soft prompts and LoRA
vk.fit(embedder, vk.sample("emoji_pairs"), vk.Settings(steps=200, batch_size=64))
images, texts = embedder.encode_image(["photo.jpg"]), embedder.encode_text(["a dog", "a cat"])    # (n, dim)
embedder.similarity(images, texts)             # cosines, (n_images, n_texts)
vk.likelihood(lvlm, ["photo.jpg"], ["a dog", "a cat"])    # the same weights, asked: log-probabilities (1, 2)
vk.evaluate_winoground(embedder, vk.sample("winoground_mini"))
vk.playground({"base": base, "fine-tuned": embedder})     # in a notebook; `vladva play` opens it in the browser
embedder.generate("photo.jpg", "what is to the left of the dog?")
embedder.save_pretrained("my-adapter")         # load it with vk.Embedder.from_pretrained("my-adapter")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` imports on first use, for type checkers and editors; a test compares both
    from vladva_kit import analysis as analysis
    from vladva_kit import emoji_world as emoji_world
    from vladva_kit import plots as plots
    from vladva_kit import widgets as widgets
    from vladva_kit.checks import check as check
    from vladva_kit.data.pairs import Pair as Pair
    from vladva_kit.data.pairs import load_pairs as load_pairs
    from vladva_kit.data.samples import sample as sample
    from vladva_kit.data.streaming import stream_pairs as stream_pairs
    from vladva_kit.embedder.embedder import Embedder as Embedder
    from vladva_kit.embedder.embedder import attach as attach
    from vladva_kit.embedder.interpolation import interpolate as interpolate
    from vladva_kit.embedder.likelihood import LikelihoodScorer as LikelihoodScorer
    from vladva_kit.embedder.likelihood import likelihood as likelihood
    from vladva_kit.embedder.likelihood import yes_probability as yes_probability
    from vladva_kit.embedder.quantization import quantize_int8 as quantize_int8
    from vladva_kit.evaluation import evaluate_classification as evaluate_classification
    from vladva_kit.evaluation import evaluate_retrieval as evaluate_retrieval
    from vladva_kit.evaluation import evaluate_sugarcrepe as evaluate_sugarcrepe
    from vladva_kit.evaluation import evaluate_sugarcrepe_pp as evaluate_sugarcrepe_pp
    from vladva_kit.evaluation import evaluate_winoground as evaluate_winoground
    from vladva_kit.evaluation import evaluate_word_order as evaluate_word_order
    from vladva_kit.evaluation.baselines import ClipEmbedder as ClipEmbedder
    from vladva_kit.evaluation.baselines import load_baseline as load_baseline
    from vladva_kit.evaluation.caption_quality import evaluate_captions as evaluate_captions
    from vladva_kit.evaluation.generation import evaluate_generation as evaluate_generation
    from vladva_kit.evaluation.validation import metrics_on as metrics_on
    from vladva_kit.evaluation.vqa import evaluate_vqa as evaluate_vqa
    from vladva_kit.models.images import BadInput as BadInput
    from vladva_kit.models.load import load_lvlm as load_lvlm
    from vladva_kit.search.rerank import rerank as rerank
    from vladva_kit.training.fit import fit as fit
    from vladva_kit.training.memory import estimate_memory as estimate_memory
    from vladva_kit.training.settings import Settings as Settings
    from vladva_kit.training.trainer import VladvaTrainer as VladvaTrainer
    from vladva_kit.widgets.notebook import notebook as notebook
    from vladva_kit.widgets.playground import playground as playground

_LAZY_EXPORTS = {  # public name -> its module; None: the name is a subpackage
    "load_lvlm": "models.load",
    "BadInput": "models.images",
    "Embedder": "embedder.embedder",
    "attach": "embedder.embedder",
    "interpolate": "embedder.interpolation",
    "likelihood": "embedder.likelihood",
    "yes_probability": "embedder.likelihood",
    "LikelihoodScorer": "embedder.likelihood",
    "quantize_int8": "embedder.quantization",
    "Pair": "data.pairs",
    "load_pairs": "data.pairs",
    "sample": "data.samples",
    "stream_pairs": "data.streaming",
    "Settings": "training.settings",
    "fit": "training.fit",
    "VladvaTrainer": "training.trainer",
    "metrics_on": "evaluation.validation",
    "estimate_memory": "training.memory",
    "ClipEmbedder": "evaluation.baselines",
    "load_baseline": "evaluation.baselines",
    "evaluate_retrieval": "evaluation",
    "evaluate_winoground": "evaluation",
    "evaluate_sugarcrepe": "evaluation",
    "evaluate_sugarcrepe_pp": "evaluation",
    "evaluate_word_order": "evaluation",
    "evaluate_classification": "evaluation",
    "evaluate_generation": "evaluation.generation",
    "evaluate_vqa": "evaluation.vqa",
    "evaluate_captions": "evaluation.caption_quality",
    "check": "checks",
    "rerank": "search.rerank",
    "notebook": "widgets.notebook",
    "playground": "widgets.playground",
    "analysis": None,
    "plots": None,
    "widgets": None,
    "emoji_world": None,
}
__all__ = list(_LAZY_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name on first use, which keeps `import vladva_kit` fast."""
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"vladva_kit has no attribute {name!r}; available: {', '.join(__all__)}")
    if _LAZY_EXPORTS[name] is None:
        return importlib.import_module(f"vladva_kit.{name}")
    return getattr(importlib.import_module(f"vladva_kit.{_LAZY_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

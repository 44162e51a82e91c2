"""VladVA in notebooks: turn a generative LVLM into an image-text embedding model that still talks.

import vladva_kit as vk

embedder = vk.attach(vk.load_lvlm("emoji-llava"))
vk.fit(embedder, vk.sample("emoji_pairs"))
"""

import importlib

_LAZY_EXPORTS = {
    "load_lvlm": "models.load",
    "estimate_memory": "training.memory",
    "Embedder": "embedder.embedder",
    "attach": "embedder.embedder",
    "ClipEmbedder": "evaluation.baselines",
    "load_baseline": "evaluation.baselines",
    "Pair": "data.pairs",
    "load_pairs": "data.pairs",
    "sample": "data.samples",
    "BadInput": "models.images",
    "Settings": "training.settings",
    "fit": "training.trainer",
    "stream_pairs": "data.streaming",
    "evaluate_retrieval": "evaluation",
    "evaluate_winoground": "evaluation",
    "evaluate_sugarcrepe": "evaluation",
    "evaluate_sugarcrepe_pp": "evaluation",
    "evaluate_word_order": "evaluation",
    "evaluate_classification": "evaluation",
    "evaluate_generation": "evaluation.generation",
    "analysis": None,
    "evaluate_vqa": "evaluation.vqa",
    "evaluate_captions": "evaluation.caption_quality",
    "plots": None,
    "widgets": None,
    "emoji_world": None,
}
__all__ = list(_LAZY_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str):
    """Imports what is asked for when it is asked for, so that `import vladva_kit` is quick."""
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"vladva_kit has no '{name}'; it has {', '.join(__all__)}")
    if _LAZY_EXPORTS[name] is None:
        return importlib.import_module(f"vladva_kit.{name}")
    return getattr(importlib.import_module(f"vladva_kit.{_LAZY_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

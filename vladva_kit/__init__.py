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

_LAZY_EXPORTS = {  # public name -> its module; None: the name is a subpackage
    "load_lvlm": "models.load",
    "BadInput": "models.images",
    "Embedder": "embedder.embedder",
    "attach": "embedder.embedder",
    "interpolate": "embedder.interpolation",
    "likelihood": "embedder.likelihood",
    "yes_probability": "embedder.likelihood",
    "LikelihoodScorer": "embedder.likelihood",
    "Pair": "data.pairs",
    "load_pairs": "data.pairs",
    "sample": "data.samples",
    "stream_pairs": "data.streaming",
    "Settings": "training.settings",
    "fit": "training.fit",
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
    "playground": "widgets.playground",
    "analysis": None,
    "plots": None,
    "widgets": None,
    "emoji_world": None,
}
__all__ = list(_LAZY_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str):
    """Import a public name on first use, which keeps `import vladva_kit` fast."""
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"vladva_kit has no attribute {name!r}; available: {', '.join(__all__)}")
    if _LAZY_EXPORTS[name] is None:
        return importlib.import_module(f"vladva_kit.{name}")
    return getattr(importlib.import_module(f"vladva_kit.{_LAZY_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

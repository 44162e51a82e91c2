"""Write a notebook with every ipywidgets widget, one per cell, for the browser tests."""

from collections.abc import Iterable
from pathlib import Path

import nbformat

SETUP = """\
import vladva_kit as vk

lvlm = vk.load_lvlm("emoji-llava")
tuned = vk.Embedder.from_pretrained("emoji-llava-vladva")
embedders = {"emoji-clip": vk.load_baseline(), "base": vk.Embedder(lvlm), "fine-tuned": tuned}
models = {name: vk.widgets.CachedEmbedder(model) for name, model in embedders.items()}
pairs = list({pair.short: pair for pair in vk.load_pairs(vk.sample("emoji_pairs"), "test")[:20]}.values())[:12]
images, captions = [pair.load_image() for pair in pairs], [pair.short for pair in pairs]
lengths = ["long" if len(caption.split()) > 6 else "short" for caption in captions]
"""

CELLS = {
    "setup": SETUP,
    "explorer": """\
scores = {name: model.similarity(images, captions) for name, model in models.items() if name != "emoji-clip"}
vk.widgets.SimilarityExplorer(scores, images, captions)""",
    "map": """\
points = {name: (model.encode_image(images), model.encode_text(captions)) for name, model in models.items()}
vk.widgets.EmbeddingMap(points, images, captions, {"caption": lengths})""",
    "search": "vk.widgets.RetrievalBox(models, images, captions)",
    "composer": "vk.widgets.SceneComposer(models)",
    "training": """\
learner = vk.attach(vk.load_lvlm("emoji-llava"))
settings = vk.Settings(steps=400, batch_size=8, validate_every=2)
vk.widgets.TrainingDashboard(learner, vk.sample("emoji_pairs"), settings, validation=pairs)""",
    "chat": "vk.widgets.ChatBox(tuned, images[:3])",
    "attention": "vk.widgets.AttentionView(tuned, images[:3])",
}
WIDGETS = tuple(name for name in CELLS if name != "setup")
CELLS["probe"] = 'vk.widgets.WinogroundProbe(models, vk.sample("photos") / "winoground")'
CELLS["end"] = 'print("all cells have run")'


def write_gallery(path: Path, names: Iterable[str] = tuple(CELLS)) -> Path:
    """Write the notebook, or some of its cells: `write_gallery(path, ["setup", "chat"])`."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELLS[name], id=name) for name in names],
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    )
    nbformat.write(notebook, path)
    return path

"""Shared fixtures: the shipped LVLM, and a few scenes of the emoji world with images and captions."""

import io
import json
import os
import random
import sys
import zipfile

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may need the hub
if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: a second thread each would slow both down
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

import vladva_kit as vk
from vladva_kit.emoji_world.captions import long_caption, short_caption
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import sample_scene

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


@pytest.fixture(scope="module")
def one_thread():
    """Use one thread: for tiny models a second one costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_leaks_into_pyplot():
    """Check after every test that no figure is registered with pyplot, where it would stay in memory."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.fixture
def texts_of():
    """Return all visible texts of a figure: `texts_of(figure)`."""

    def texts(figure):
        figure.draw_without_rendering()
        return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]

    return texts


@pytest.fixture(scope="session")
def scenes():
    """Twelve scenes in seen styles."""
    rng = random.Random(7)
    return [sample_scene(rng) for _ in range(12)]


@pytest.fixture(scope="session")
def pictures(scenes):
    """Images of the scenes, larger than the vision encoder's input."""
    return [render(scene, 128) for scene in scenes]


@pytest.fixture(scope="session")
def captions(scenes):
    """One short caption per scene."""
    rng = random.Random(8)
    return [short_caption(scene, rng) for scene in scenes]


@pytest.fixture(scope="session")
def long_captions(scenes):
    """One long caption per scene."""
    rng = random.Random(9)
    return [long_caption(scene, rng) for scene in scenes]


@pytest.fixture(scope="session")
def pairs(pictures, captions, long_captions):
    """The scenes as pairs."""
    return [vk.Pair(*row) for row in zip(pictures, captions, long_captions, strict=True)]


@pytest.fixture
def lvlm():
    """A newly loaded emoji-llava."""
    return vk.load_lvlm("emoji-llava")


@pytest.fixture
def zipped(tmp_path, monkeypatch):
    """Return an imagefolder in a zip as `datasets` opens it: with paths such as zip://0.png::pairs.zip."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), "red").save(buffer, "PNG")
    with zipfile.ZipFile(tmp_path / "pairs.zip", "w") as file:
        for number in range(3):
            file.writestr(f"{number}.png", buffer.getvalue())
        lines = (json.dumps({"file_name": f"{number}.png", "short": f"dog {number}"}) for number in range(3))
        file.writestr("metadata.jsonl", "\n".join(lines))
    load = {"path": "imagefolder", "data_files": str(tmp_path / "pairs.zip"), "split": "train"}
    return lambda **more: datasets.load_dataset(**load, cache_dir=str(tmp_path / "cache"), **more)

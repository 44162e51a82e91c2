"""What the tests share: the shipped LVLM, and a few scenes of the emoji world with their captions."""

import os
import random
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may need a hub

import pytest
import torch
from matplotlib.text import Text

import vladva_kit as vk
from vladva_kit.emoji_world.captions import long_caption, short_caption
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import sample_scene

torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="module")
def one_thread():
    """For tests of tiny models: a second thread costs them more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_leaks_into_pyplot():
    """Holds for every test: a figure that pyplot knows stays in memory, and pops up in a notebook."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


@pytest.fixture
def texts_of():
    """All that can be read on a figure: `texts_of(figure)`."""

    def texts(figure):
        figure.draw_without_rendering()
        return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]

    return texts


@pytest.fixture(scope="session")
def scenes():
    """Twelve scenes of the seen styles."""
    rng = random.Random(7)
    return [sample_scene(rng) for _ in range(12)]


@pytest.fixture(scope="session")
def pictures(scenes):
    """The scenes' pictures, at a size that the tower shrinks."""
    return [render(scene, 128) for scene in scenes]


@pytest.fixture(scope="session")
def captions(scenes):
    """A short caption of each scene."""
    rng = random.Random(8)
    return [short_caption(scene, rng) for scene in scenes]


@pytest.fixture(scope="session")
def long_captions(scenes):
    """A long caption of each scene."""
    rng = random.Random(9)
    return [long_caption(scene, rng) for scene in scenes]


@pytest.fixture(scope="session")
def pairs(pictures, captions, long_captions):
    """The scenes as pairs."""
    return [vk.Pair(*row) for row in zip(pictures, captions, long_captions, strict=True)]


@pytest.fixture
def lvlm():
    """A fresh emoji-llava, to attach something to."""
    return vk.load_lvlm("emoji-llava")

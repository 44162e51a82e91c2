"""A world so small that a cell takes a second or two, and records of cells made by hand."""

import pytest

import vladva_kit as vk
from vladva_kit.ablation import Plan, cells
from vladva_kit.ablation.measures import Measure
from vladva_kit.emoji_world import cases


@pytest.fixture(scope="session")
def small_samples(tmp_path_factory):
    """The three drawn samples, a few cases each."""
    folder = tmp_path_factory.mktemp("samples")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cases, "SPLITS", {"train": 12, "validation": 1, "test": 5, "unseen_style": 4})
        patched.setattr(cases, "WINOGROUND_KINDS", {"object": 1, "tint": 1, "size": 1, "relation": 1})
        patched.setattr(cases, "SUGARCREPE_EACH", 1)
        return {name: cases.write_sample(name, folder / name) for name in cases.DRAWN}


@pytest.fixture
def small_world(small_samples, monkeypatch):
    """vk.sample leads to the few cases."""
    monkeypatch.setattr(cells, "PROBED", 2)
    monkeypatch.setattr(vk, "sample", small_samples.__getitem__, raising=False)
    return small_samples


@pytest.fixture
def small_plan():
    """Two steps of four pairs from one seed."""
    return Plan(steps=2, batch_size=4, seeds=(0,), talks_about=1, reads=4, prompt_pictures=4)


@pytest.fixture
def record():
    """A cell's record from its bits: record(seed, {"winoground/seen/group": "0110"})."""

    def made(seed, rights, together=1, model="emoji-llava", **more):
        measures = {name: vars(Measure(right, together, 50.0, 0)) for name, right in rights.items()}
        return {"cell": {"seed": seed, "model": model}, "measures": measures, **more}

    return made

"""A world so small that a cell takes a second or two, and records of cells made by hand."""

import zlib
from dataclasses import asdict

import numpy as np
import pytest

import vladva_kit as vk
from experiments.paper import COLUMNS, EXPERIMENTS, Measure, Plan, experiment, runs
from vladva_kit.emoji_world import cases, samples


@pytest.fixture(scope="session")
def small_samples(tmp_path_factory):
    """The three drawn samples, a few cases each."""
    folder = tmp_path_factory.mktemp("samples")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(samples, "SPLITS", {"train": 12, "validation": 1, "test": 5, "unseen_style": 4})
        patched.setattr(samples, "WINOGROUND_KINDS", {"object": 1, "color": 1, "size": 1, "relation": 1})
        patched.setattr(cases, "SUGARCREPE_EACH", 1)
        return {name: samples.write_sample(name, folder / name) for name in samples.DRAWN}


@pytest.fixture
def small_world(small_samples, monkeypatch):
    """vk.sample leads to the few cases."""
    monkeypatch.setattr(runs, "PROBED", 2)
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


N = 80


def made_record(cell):
    """A record of a cell: the more of it learns, the more is right; the seed and the cell fix the bits."""
    generator = np.random.default_rng(zlib.crc32(repr(cell).encode()))
    share = 0.25 + 0.25 * cell.soft_prompt + 0.2 * bool(cell.lora_rank) + 0.1 * (cell.next_token_weight > 0)
    share -= 0.6 * (cell.captions == "long")
    measures = {}
    for column in COLUMNS.values():
        for name in column.measures:
            talk, off = name.startswith("generation"), ", adapter off" in name
            if (talk and not cell.talks_about) or (off and not cell.adapter_off):
                continue
            right = generator.random(N) < (0.7 if talk else share)
            measures[name] = asdict(Measure.of(right, 25.0))
    record = {"cell": asdict(cell), "measures": measures, "seconds": {"training": 60.0, "judging": 30.0}}
    if cell.steps:
        end = 0.01 if cell.captions == "long" else 0.8
        loss = np.linspace(4, end, 20).clip(min=end)
        record["history"] = {"step": list(range(1, 21)), "contrastive": [*loss[:17], end, end, end]}
    if cell.steps and cell.model == "emoji-llava":
        record["adapter_off_equal"] = True
    if cell.reads:
        record["inside"] = made_inside(generator, 1.0 if cell.steps else 0.0)
    return record


def made_inside(generator, more):
    density = np.clip(generator.random((4, 8)) * 0.3 + 0.3 * more, 0, 1)
    return {
        "n": 20,
        "words": {side: {"dog": 12, "the": 3} for side in ("image", "text")},
        "modality_gap": 0.25,
        "entropy": {side: (1 + more + 0.1 * generator.random(20)).tolist() for side in ("image", "text")},
        "density": density.tolist(),
        "density_by_picture": (0.2 + 0.3 * more + 0.01 * generator.random(20)).tolist(),
        "maps": (generator.random((4, 6, 6)) / 40).tolist(),
        "effective_rank": {"image": 10 + 20 * more, "text": 12 + 20 * more},
        "cumulative": {side: np.linspace(0.2, 1, 30).tolist() for side in ("image", "text")},
        "prompt": {side: {"nearest": ["say", "it"], "unchanged": 0.9} for side in ("image", "text")},
    }


@pytest.fixture
def results():
    """All experiments, as run_experiments writes them."""
    experiments = [experiment(name, Plan(seeds=(0, 1))) for name in EXPERIMENTS]
    names = {cell: f"cell-{place}" for place, cell in enumerate({c: 0 for one in experiments for c in one.cells()})}
    prompts = [
        {
            "image_prompt": f"prompt {place}", "text_prompt": f"prompt {place}", "image_entropy": 1 + place / 10,
            "text_entropy": 1.0, "image_to_text": 5.0 + place, "text_to_image": 4.0 + place,
        }
        for place in range(10)
    ]  # fmt: skip
    coefficient = {"value": 0.6, "low": 0.4, "high": 0.8, "n": 10}
    return {
        "command": "vladva ablate --experiment all",
        "plan": asdict(Plan(seeds=(0, 1))),
        "versions": {"torch": "2.13.0"},
        "experiments": {
            one.name: {
                "rows": [{"name": row.name, "cells": [names[cell] for cell in row.cells]} for row in one.rows],
                "compared": [list(pair) for pair in one.compared],
            }
            for one in experiments
        },
        "cells": {name: made_record(cell) for cell, name in names.items()},
        "prompts": {
            "n": 10,
            "prompts": prompts,
            "correlations": {"spearman": coefficient, "pearson": dict(coefficient)},
        },
    }

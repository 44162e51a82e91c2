"""Results made by hand: bits drawn with a share that grows with what a row has, and nothing that was measured."""

import zlib
from dataclasses import asdict

import numpy as np
import pytest

from vladva_kit.ablation import COLUMNS, EXPERIMENTS, Measure, Plan, experiment

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

"""A tiny world in which a run takes a second or two, and synthetic records of runs."""

import zlib
from dataclasses import asdict

import numpy as np
import pytest

import vladva_kit as vk
from experiments.paper import runs
from experiments.paper.measures import Measure
from experiments.paper.plan import EXPERIMENTS, Plan, Run, experiment, trained
from experiments.paper.tables import COLUMNS, STYLES
from experiments.world import cases, samples


@pytest.fixture(scope="session")
def small_samples(tmp_path_factory):
    """The three generated samples with a few cases each."""
    folder = tmp_path_factory.mktemp("samples")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(samples, "SPLITS", {"train": 36, "validation": 1, "test": 5, "unseen_style": 4})
        patched.setattr(samples, "TWIN_GROUPS", 8)
        patched.setattr(samples, "WINOGROUND_KINDS", {"object": 1, "color": 1, "size": 1, "relation": 1})
        patched.setattr(cases, "CASES_PER_CATEGORY", 1)
        return {name: samples.write_sample(name, folder / name) for name in samples.DRAWN}


@pytest.fixture
def small_world(small_samples, monkeypatch):
    """Make vk.sample return the small samples."""
    monkeypatch.setattr(runs, "N_EQUALITY_IMAGES", 1)
    monkeypatch.setattr(vk, "sample", small_samples.__getitem__, raising=False)
    return small_samples


@pytest.fixture
def small_plan():
    """Two steps of 32 pairs with one seed."""
    return Plan(steps=2, batch_size=32, seeds=(0,), n_generation_images=1, n_probe_images=4, n_prompt_images=4)


@pytest.fixture
def record():
    """Build a record from bits: record(0, {"winoground/seen/group": "0110"})."""

    def build(seed, correct, images=1):
        measures = {name: vars(Measure(bits, images, 50.0, 0)) for name, bits in correct.items()}
        return {"config": {"seed": seed, "model": "emoji-llava"}, "measures": measures}

    return build


N = 80


def synthetic_record(run):
    """A record whose share of correct cases grows with what is trained; the run determines the bits."""
    generator = np.random.default_rng(zlib.crc32(repr(run).encode()))
    share = 0.25 + 0.25 * run.soft_prompt + 0.2 * bool(run.lora_rank) + 0.1 * (run.next_token_weight > 0)
    share -= 0.6 * (run.captions == "long")
    measures = {}
    for name in (name for names in COLUMNS.values() for name in names):
        generation, adapter_off = name.startswith("generation"), name.startswith("generation_adapter_off")
        if (generation and not run.n_generation_images) or (adapter_off and not run.generate_adapter_off):
            continue
        chance = None if name.endswith("caption_truth") else 25.0
        n = 180 if name.startswith("winoground/") and "held-out" not in name else N  # the sample's cases
        measures[name] = asdict(Measure.of(generator.random(n) < (0.7 if generation else share), chance))
    record = {"config": asdict(run), "measures": measures, "seconds": {"training": 60.0, "evaluation": 30.0}}
    kinds = ("image", "caption", "interaction")
    record["effects"] = {style: dict(zip(kinds, generator.random(3).tolist(), strict=True)) for style in STYLES}
    if run.steps:
        end = 0.01 if run.captions == "long" else 0.8
        loss = np.linspace(4, end, 20).clip(min=end)
        falls = np.linspace(0.8, 0.72 if run.model == "emoji-clip" else 0.3, 8)
        record["validation"] = {"step": list(range(1, 9)), "eval_twin_loss": falls.tolist()}
        record["history"] = {"step": list(range(1, 21)), "contrastive": [*loss[:17], end, end, end]}
    if run.steps and run.model == "emoji-llava":
        record["adapter_off_equal"] = True
    if run.n_probe_images:
        record["representations"] = synthetic_representations(generator, 1.0 if run.steps else 0.0)
    return record


def synthetic_representations(generator, increase):
    density = np.clip(generator.random((4, 8)) * 0.3 + 0.3 * increase, 0, 1)
    return {
        "n": 20,
        "top_words": {side: {"dog": 12, "the": 3} for side in ("image", "text")},
        "modality_gap": 0.25,
        "entropy": {side: (1 + increase + 0.1 * generator.random(20)).tolist() for side in ("image", "text")},
        "attention_density": density.tolist(),
        "density_per_image": (0.2 + 0.3 * increase + 0.01 * generator.random(20)).tolist(),
        "attention_maps": (generator.random((4, 6, 6)) / 40).tolist(),
        "effective_rank": {"image": 10 + 20 * increase, "text": 12 + 20 * increase},
        "cumulative": {side: np.linspace(0.2, 1, 30).tolist() for side in ("image", "text")},
        "prompt": {side: {"nearest": ["say", "it"], "unchanged": 0.9} for side in ("image", "text")},
    }


@pytest.fixture
def results():
    """All experiments with synthetic records, as run_experiments writes them."""
    experiments = [experiment(name, Plan(seeds=(0, 1))) for name in EXPERIMENTS]
    runs = dict.fromkeys(run for one in experiments for run in one.runs())
    names = {run: f"run-{index}" for index, run in enumerate(runs)}
    prompts = [
        {
            "image_prompt": f"prompt {index}", "text_prompt": f"prompt {index}", "image_entropy": 1 + index / 10,
            "text_entropy": 1.0, "image_to_text": 5.0 + index, "text_to_image": 4.0 + index,
            "pretrained": index == 0,
        }
        for index in range(10)
    ]  # fmt: skip
    coefficient = {"value": 0.6, "low": 0.4, "high": 0.8, "n": 10}
    return {
        "command": "python -m experiments.paper ablate --experiment all",
        "plan": asdict(Plan(seeds=(0, 1))),
        "versions": {"torch": "2.13.0"},
        "experiments": {
            one.name: {
                "variants": [{"name": v.name, "runs": [names[run] for run in v.runs]} for v in one.variants],
                "comparisons": [list(pair) for pair in one.comparisons],
            }
            for one in experiments
        },
        "runs": {name: synthetic_record(run) for run, name in names.items()},
        "context": {"weight 1, summary token only": synthetic_record(trained(Plan(), 0, next_token_weight=1.0))},
        "blind": {"shorter caption": synthetic_record(Run())},
        "prompts": {
            "n": 10,
            "prompts": prompts,
            "correlations": {"spearman": coefficient, "pearson": dict(coefficient)},
        },
    }

"""The shipped adapter's recipe: its data, its validation, the choice of LoRA's weight, and its card."""

import json
from pathlib import Path

import pytest
import torch
from tiny import randomize_lora, tiny_lvlm

import vladva_kit as vk
from experiments.adapter import train
from experiments.adapter.card import curve_table, model_card, weight_table
from experiments.world.twins import held_out
from vladva_kit.emoji_world.scenes import Scene
from vladva_kit.models.load import SHIPPED

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_largest_weight_that_keeps_captions_within_two_points_is_chosen():
    rows = [{"weight": w, "captions": c} for w, c in ((1.0, 80.0), (0.8, 91.0), (0.6, 92.0))]
    assert train.choose_weight(rows, 93.0) == 0.8
    assert train.choose_weight(rows, 99.0) == 0.6  # none is good enough: the smallest


def test_scoring_a_weight_leaves_the_trained_weights_unchanged(monkeypatch):
    embedder = vk.attach(tiny_lvlm(), quiet=True)
    randomize_lora(embedder)
    before = {name: value.clone() for name, value in embedder.lvlm.adapter.named_parameters()}
    seen = []
    monkeypatch.setattr(train, "validate", lambda e: {"winoground_group": 40.0})
    name = next(name for name in before if "lora_B." in name)
    monkeypatch.setattr(
        train, "true_captions", lambda e: seen.append(e.lvlm.adapter.get_parameter(name).clone()) or 5.0
    )
    assert train.score_weight(embedder, 0.5) == {"weight": 0.5, "captions": 5.0, "winoground_group": 40.0}
    assert torch.allclose(seen[0], 0.5 * before[name]) and before[name].abs().max() > 0
    assert all(torch.equal(value, before[key]) for key, value in embedder.lvlm.adapter.named_parameters())


def test_pairs_are_drawn_once_and_hold_no_held_out_combination(tmp_path):
    folder = train.draw_pairs(tmp_path, n_scenes=6, n_groups=2)
    pairs = vk.load_pairs(folder)
    stamp = (folder / "train" / "metadata.jsonl").stat().st_mtime_ns
    assert len({pair.group for pair in pairs} - {None}) == 2 and any(pair.long for pair in pairs)
    rows = (folder / "train" / "metadata.jsonl").read_text().splitlines()
    assert not any(held_out(Scene.from_dict(json.loads(row)["scene"])) for row in rows)
    assert train.draw_pairs(tmp_path) == folder
    assert (folder / "train" / "metadata.jsonl").stat().st_mtime_ns == stamp


def test_tables_show_each_weight_and_each_validation():
    row = {"captions": 91.0, "winoground_group": 88.5, "text_to_image_r1": 94.0, "image_to_text_r1": 97.0}
    assert "| 0.6 | 91.0 | 88.5 | 94.0 | 97.0 |" in weight_table([{"weight": 0.6, **row}])
    curve = curve_table([{"step": 1200.0, **{f"eval_{key}": value for key, value in row.items()}}])
    assert "| 1,200 | 88.5 | 94.0 | 97.0 |" in curve


def test_the_shipped_card_is_that_of_the_committed_results():
    results = json.loads((ROOT / "docs" / "adapter.json").read_text())
    assert (SHIPPED / "emoji-llava-vladva" / "README.md").read_text() == model_card(results)
    assert results["training"]["lora_weight"] == train.choose_weight(
        results["training"]["weights"], results["training"]["base_captions"]
    )


def test_the_committed_scores_are_those_of_the_shipped_adapter():
    results = json.loads((ROOT / "docs" / "adapter.json").read_text())
    embedder = vk.Embedder.from_pretrained("emoji-llava-vladva")
    folder = vk.sample("winoground_mini") / "unseen_style"
    group = vk.evaluate_winoground(embedder, folder).group.percent
    assert group == pytest.approx(
        results["models"]["fine-tuned"]["winoground/unseen style"]["group"]["percent"], abs=1.2
    )

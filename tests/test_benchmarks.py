"""The benchmarks run from their commands, with tiny settings, and write pages whose figures are those measured."""

import json
import runpy
import statistics
import sys

import pytest

from benchmarks import measure, scaling
from benchmarks.cost import line

TINY = {
    "encode": "--shape tiny --pairs 4 --batch 2 --runs 1",
    "step": "--shape tiny --batch 4 --rows 2 --runs 1 --peak-tflops 1",
    "memory": "--shape tiny --batches 4 8 --rows 2",
    "cost": "--shape tiny --batches 2 4 6 --words 30 60 90 --sides 32 64 96 --batch 2 --rows 2 --runs 1",
    "start": "--runs 1",
    "recall": "--images 600 --captions 2 --dim 16 --runs 1",
    "loader": "--pairs 640 --batch 32 --window 64 --stops 4",
}


def run(name, out, monkeypatch, options):
    monkeypatch.setattr(sys, "argv", [name, *options.split(), "--out", str(out)])
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    return (out / f"{name}.md").read_text(), json.loads((out / f"{name}.json").read_text())


@pytest.mark.parametrize("name", TINY)
def test_each_benchmark_runs_and_writes_its_page(name, tmp_path, monkeypatch):
    text, values = run(name, tmp_path, monkeypatch, TINY[name])
    assert f"python -m benchmarks.{name}" in text and "torch" in text
    if name == "encode":
        assert values["ratios"]["kit / floor"] == pytest.approx(
            statistics.median(values["seconds"]["kit"]) / statistics.median(values["seconds"]["floor"])
        )
    if name == "memory":
        assert [point["batch"] for point in values["points"]] == [4, 8]
        assert all(point["cached"]["peak"] > 0 and point["whole"]["peak"] > 0 for point in values["points"])
    if name == "recall":
        assert values["square"] == 600 * 1200 * 4 / 1e9
        assert 0 < values["peaks"]["blocks"] < values["peaks"]["one square"]
    if name == "loader":
        assert values["stops"][-1]["pairs"] == 640
    if name == "cost":
        assert set(values) >= {"batch size", "caption tokens", "image tokens"}
    if name == "step":
        assert "MFU" in text and set(values["seconds"]) == {"one forward", "two forwards", "cached"}


def test_ways_take_turns_and_are_warmed_up_once():
    done = []
    seconds = measure.turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, runs=3)
    assert done == ["a", "b"] * 4 and len(seconds["a"]) == 3
    with pytest.raises(ValueError, match="at least 1"):
        measure.turns({}, runs=0)


def test_a_goal_says_whether_it_was_met():
    assert measure.goal("x", 2.5, 2.0, least=True).endswith("measured 2.5, met.")
    assert measure.goal("x", 2.5, 2.0, least=False).endswith("measured 2.5, missed.")


def test_a_line_is_fitted():
    slope, start, fit = line([1, 2, 3], [3, 5, 7])
    assert (slope, start, fit) == (pytest.approx(2), pytest.approx(1), pytest.approx(1))


def test_what_ranks_exchange_by_hand():
    sent = scaling.exchanged(ranks=4, batch=8, dim=10, adapter=100)
    assert sent["embeddings"] == pytest.approx(2 * 8 * 10 * 4 * 3 / 4 / 1e6)
    assert sent["adapter"] == pytest.approx(100 * 4 * 2 * 3 / 4 / 1e6)
    assert sum(scaling.exchanged(1, 8, 10, 100).values()) == 0


def test_the_page_on_scaling_is_made_from_what_was_measured(tmp_path, monkeypatch):
    values = {"pairs_a_second": {"cached": 100.0}, "dim": 4096, "adapter_weights": 40_000_000, "shape": "tiny",
              "batch": 64, "command": "python -m benchmarks.step", "machine": "a machine"}  # fmt: skip
    with pytest.raises(ValueError, match=r"run python -m benchmarks.step first"):
        measure.read(tmp_path / "step.json")
    (tmp_path / "step.json").write_text(json.dumps(values))
    page = tmp_path / "scaling.md"
    monkeypatch.setattr(sys, "argv", ["scaling", "--results", str(tmp_path), "--out-file", str(page), "--price", "3"])
    scaling.main()
    text = page.read_text()
    hours = 8_100_000 * 7 / 100 / 3600
    assert "55,371 steps" in text and f"{hours:.0f} hours on one device" in text
    assert f"| 1 | 1024 | {hours:.0f} | {hours * 3:.0f} | 0.0 | 0.0 % |" in text

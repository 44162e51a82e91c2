"""The benchmarks run from their commands, with tiny settings, and write pages whose figures are those measured."""

import json
import runpy
import statistics
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import baselines, measure, scaling
from experiments.benchmarks.__main__ import ALL, TINY, commands, run_all
from experiments.benchmarks.cost import line
from experiments.benchmarks.shapes import learning, shaped


def run(name, out, monkeypatch, options):
    monkeypatch.setattr(sys, "argv", [name, *options.split(), "--out", str(out)])
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    return (out / f"{name}.md").read_text(), json.loads((out / f"{name}.json").read_text())


def test_a_ratio_is_taken_turn_by_turn():
    seconds = {"kit": [1.0, 5.0, 2.0], "plain": [2.0, 20.0, 6.0]}  # the second turn was a slow moment for both
    assert measure.ratio(seconds, "plain", "kit") == 3.0


@pytest.mark.parametrize("name", [name for name in ALL if name != "scaling"])
def test_each_benchmark_runs_and_writes_its_page(name, tmp_path, monkeypatch):
    text, values = run(name, tmp_path, monkeypatch, TINY[name])
    assert f"python -m experiments.benchmarks.{name}" in text and "torch" in text
    if name == "encode":
        turns = zip(values["seconds"]["kit"], values["seconds"]["floor"], strict=True)
        assert values["ratios"]["kit / floor"] == pytest.approx(statistics.median(kit / floor for kit, floor in turns))
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
    if name == "throughput":
        lines = values["lines"]
        assert set(lines) == {"train, sdpa", "train, sdpa, compiled"}
        assert all(line["peak"] > 0 and line["flops"] > 0 for line in lines.values())
        assert "times as fast" in text
    if name in ("step", "encode"):
        assert ("not installed" in text) is not baselines.there()


@pytest.mark.skipif(not baselines.there(), reason="needs sentence-transformers")
def test_sentence_transformers_has_the_kit_s_embeddings_and_its_loss(tmp_path, monkeypatch):
    text, values = run("encode", tmp_path, monkeypatch, TINY["encode"])
    off = float(text.partition("the kit's within ")[2].split()[0].rstrip("."))
    assert off < 1e-5 and values["ratios"]["sentence-transformers / kit"] > 0
    _, values = run("step", tmp_path, monkeypatch, TINY["step"])
    losses = values["peer"]["losses"]
    assert losses["sentence-transformers"] == pytest.approx(losses["kit"], rel=1e-4)
    assert values["peer"]["peaks"]["kit"]["peak"] > 0.1  # a process with torch in it


def test_one_that_fails_does_not_keep_the_others_from_running(capfd):
    says = "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[2]))"
    lines = {name: [sys.executable, "-c", says, name, code] for name, code in (("one", "3"), ("two", "0"))}
    assert run_all(lines) == ["one"]
    said = capfd.readouterr().out
    assert "one: FAILED with 3 after" in said and said.index("one: FAILED") < said.index("two: done")


def test_every_benchmark_is_among_all():
    there = {path.stem for path in Path(measure.__file__).parent.glob("*.py") if "__main__" in path.read_text()}
    assert there - {"__main__"} == set(ALL) == set(TINY) and list(commands(list(ALL))) == list(ALL)


def test_a_process_that_dies_says_why():
    assert measure.in_process("math", "sqrt", x=-1)["died"].startswith("TypeError")
    assert measure.in_process("os", "abort") == {"died": "killed by signal 6"}


def test_the_operations_of_a_step_by_hand():
    model = learning(shaped("tiny")).lvlm.model
    layer = 4 * 64 * 64 + 3 * 64 * 96  # attention, and an MLP of three matrices
    sight = 4 * 64 * 64 + 2 * 64 * 256 + 65 * 64  # of the tower's one layer; the places' embedding
    once = 4 * 2 * layer * 100 + 4 * 64 * 512 * 30 + 2 * sight * 65
    assert measure.operations(model, tokens=100, learned=30, patches=65) == once
    assert measure.operations(model, 100, 30, 65, forwards=2) == once + 2 * 2 * layer * 100


def test_ways_take_turns_and_are_warmed_up_once():
    done = []
    seconds = measure.turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, runs=3)
    assert done == ["a", "b"] * 4 and len(seconds["a"]) == 3
    with pytest.raises(ValueError, match="at least 1"):
        measure.turns({}, runs=0)


def test_a_goal_says_whether_it_was_met():
    assert measure.goal("x", 2.5, 2.0, least=True).endswith("measured 2.5, met.")
    assert measure.goal("x", 2.5, 2.0, least=False).endswith("measured 2.5, missed.")


@pytest.mark.skipif(not measure.CLEAR.exists(), reason="only Linux forgets a peak")
def test_a_peak_is_of_what_came_after_it_was_forgotten():
    held = torch.ones(50_000_000)
    most = measure.peak("cpu")
    del held
    assert measure.peak("cpu") == pytest.approx(most, abs=0.01)
    measure.forget_peak("cpu")
    assert measure.peak("cpu") < most - 0.15


def test_a_missed_goal_stands_with_a_profile_and_one_that_is_met_without():
    square = torch.randn(200, 200)
    way = lambda: [square @ square for _ in range(20)]  # noqa: E731
    assert measure.explained(["x: goal at least 2, measured 3, met."], "it", way) == [
        "x: goal at least 2, measured 3, met."
    ]
    said = measure.explained(["x: goal at least 2, measured 1, missed."], "the squares", way)
    assert "time of the squares" in said[1] and "`aten::mm` | 20 |" in said[2]


def test_a_line_is_fitted():
    slope, start, fit = line([1, 2, 3], [3, 5, 7])
    assert (slope, start, fit) == (pytest.approx(2), pytest.approx(1), pytest.approx(1))


def test_what_ranks_exchange_by_hand():
    sent = scaling.exchanged(ranks=4, batch=8, dim=10, adapter=100)
    assert sent["embeddings"] == pytest.approx(2 * 8 * 10 * 4 * 3 / 4 / 1e6)
    assert sent["adapter"] == pytest.approx(100 * 4 * 2 * 3 / 4 / 1e6)
    assert sum(scaling.exchanged(1, 8, 10, 100).values()) == 0


def test_the_page_on_scaling_is_made_from_what_was_measured(tmp_path, monkeypatch):
    values = {
        "pairs_a_second": {"cached": 100.0}, "dim": 4096, "adapter_weights": 40_000_000, "shape": "tiny", "batch": 64,
        "tflops": {"cached": 0.1}, "device": "cpu", "command": "python -m experiments.benchmarks.step", "machine": "a machine",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"run python -m experiments.benchmarks.step first"):
        measure.read(tmp_path / "step.json")
    (tmp_path / "step.json").write_text(json.dumps(values))
    page = tmp_path / "scaling.md"
    monkeypatch.setattr(sys, "argv", ["scaling", "--results", str(tmp_path), "--out-file", str(page), "--price", "3"])
    scaling.main()
    text = page.read_text()
    hours = 8_100_000 * 7 / 100 / 3600
    assert "55,371 steps" in text and f"| 1 | 1024 | {hours:.0f} | {hours * 0.1:.0f} | 0.0 | 0 % |" in text
    assert "No GPU was at hand" in text and "| 1 | 1024 |" in text.partition("an estimate")[2]
    each = 6 * 6_476_005_376 * 776 + 4 * 4096 * 32_064 * 100 + 2 * 24 * 12 * 1024**2 * 577
    assert scaling.Paper().operations(2) == each
    assert f"| the machine above, at the speed measured there | 0.1 | {1e11 / each:.3g} |" in text
    assert "| 8 | 29.4 | 58.7 | 281.0 |" in text  # 2 x 1,024 rows of 4,096 floats, by seven eighths


def test_sending_takes_a_fifth_of_computing_from_the_ranks_said_on():
    chosen = Namespace(bandwidth=0.5, price=1.0)
    said = scaling._limit(4.0, scaling.Paper(), chosen)
    ranks = int(said.split()[1])
    for number, more in ((ranks - 1, False), (ranks, True)):
        compute, talk = scaling.seconds_of_step(number, 4.0, 4096, scaling.Paper().adapter, 0.5)
        assert (talk > 0.2 * compute) is more

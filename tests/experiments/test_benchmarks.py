"""Every benchmark runs with tiny settings and writes a page with its measured values."""

import importlib.util
import json
import runpy
import statistics
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from experiments.benchmarks import baselines, measure, scaling
from experiments.benchmarks.__main__ import ALL, TINY, commands, run_all
from experiments.benchmarks.cost import fit_line
from experiments.benchmarks.images import draw_photos, load_with_draft, load_with_kit
from experiments.benchmarks.prefix import AFTER, BEFORE, with_system_prompt
from experiments.benchmarks.shapes import random_lvlm, trainable_embedder
from vladva_kit.embedder.prompts import text_inputs


def check_encode(text, values):
    times = zip(values["seconds"]["kit"], values["seconds"]["floor"], strict=True)
    assert values["ratios"]["kit / floor"] == pytest.approx(statistics.median(kit / floor for kit, floor in times))
    assert ("not installed" in text) is not baselines.installed()
    if baselines.installed():
        difference = float(text.partition("differ from the kit's by at most ")[2].split()[0].rstrip("."))
        assert difference < 1e-5 and values["ratios"]["sentence-transformers / kit"] > 0


def check_memory(text, values):
    assert [point["batch"] for point in values["points"]] == [4, 8]
    assert all(point["cached"]["peak"] > 0 and point["one_graph"]["peak"] > 0 for point in values["points"])


def check_recall(text, values):
    assert values["matrix_gb"] == 600 * 1200 * 4 / 1e9
    assert 0 < values["peaks"]["blocks"] < values["peaks"]["one matrix"]


def check_loader(text, values):
    assert [sample["pairs"] for sample in values["samples"]] == [160, 320, 480, 640]


def check_cost(text, values):
    assert set(values) >= {"batch size", "caption tokens", "image tokens"} and text.count("Slope: ") == 3


def check_likelihood(text, values):
    times = zip(values["seconds"]["plain pairs"], values["seconds"]["shared prefix"], strict=True)
    assert values["ratio"] == pytest.approx(statistics.median(plain / shared for plain, shared in times))
    assert values["difference"] < 1e-4 and measure.find_targets(text)[0][2] == "at least 3"


def check_images(text, values):
    assert set(values["seconds"]) == {"32", "48"} and set(values["seconds"]["48"]) >= {"kit", "Pillow draft"}
    assert load_with_draft(*(photo := draw_photos(1)), 48).size == load_with_kit(*photo, 48).size == (48, 48)


def check_int8(text, values):
    if importlib.util.find_spec("torchao") is None:
        assert "torchao is not installed" in text and "ratios" not in values
        return
    times = values["seconds"]["tiny"]["captions"]
    pairs = zip(times["float32"], times["int8"], strict=True)
    assert values["ratios"]["tiny, captions"] == pytest.approx(statistics.median(plain / int8 for plain, int8 in pairs))


def check_prefix(text, values):
    assert values["by_length"].keys() == {"2", "14"} and ("not installed" in text) is not baselines.installed()
    if baselines.installed():
        assert [found[2] for found in measure.find_targets(text)] == ["at least 1.3", "at least 1.1"]
        assert all(result["difference"] < 1e-5 for result in values["results"].values())


def test_the_template_has_as_many_tokens_around_a_caption_as_qwen2_vls():
    embedder = with_system_prompt(random_lvlm("tiny"))
    assert text_inputs(embedder.lvlm.processor.tokenizer, ["a dog"], embedder.text_prompt).prefix_length == BEFORE
    assert len(embedder.text_prompt.ids) == AFTER


def check_step(text, values):
    assert "MFU" in text and set(values["seconds"]) == {"one forward", "two forwards", "cached"}
    assert ("not installed" in text) is not baselines.installed()
    if baselines.installed():
        losses, peaks = values["baseline"]["losses"], values["baseline"]["peaks"]
        assert losses["sentence-transformers"] == pytest.approx(losses["kit"], rel=1e-4)
        assert peaks["kit"]["peak"] > 0.1  # GB, of a process that has loaded torch


def check_throughput(text, values):
    assert set(values["results"]) == {"train, sdpa", "train, sdpa, compiled"}
    assert all(result["peak"] > 0 and result["flops"] > 0 for result in values["results"].values())


def check_start(text, values):
    assert len(measure.find_targets(text)) == 2 and all(len(times) == 1 for times in values["seconds"].values())


@pytest.mark.parametrize("name", [name for name in ALL if name != "scaling"])
def test_benchmark_runs_and_writes_its_page(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")  # compiling takes a minute
    monkeypatch.setattr(sys, "argv", [name, *TINY[name].split(), "--out", str(tmp_path)])
    runpy.run_module(f"experiments.benchmarks.{name}", run_name="__main__")
    text, values = (tmp_path / f"{name}.md").read_text(), json.loads((tmp_path / f"{name}.json").read_text())
    assert f"python -m experiments.benchmarks.{name}" in text and "torch" in text
    load = measure.Load(*(values["load"][key] for key in ("start", "end", "others")))
    assert str(load) in text and load.idle is values["load"]["idle"] and str(load) == measure.load_text(values)
    assert f"Measured at commit {values['commit']} on" in text and values["commit"] == measure.commit()
    globals()[f"check_{name}"](text, values)


def test_a_machine_is_called_idle_only_if_other_processes_hardly_ran():
    assert str(measure.Load(0.3, 1.9, 0.01)) == (
        "Load average: 0.3 at the start, 1.9 at the end; other processes used 1 % of the processors' time, so the "
        "machine was idle."
    )
    assert measure.Load(0.0, 0.0, 0.4).idle is False and "so the machine was not idle" in str(measure.Load(0, 0, 0.4))
    assert measure.Load(0.0, 0.0, None).idle is False and "idle" not in str(measure.Load(0, 0, None))


@pytest.mark.parametrize("others, expected", [(0.0, 0.0), (3.0, 0.3), (float("nan"), None)])
def test_the_load_is_the_processor_time_that_was_not_the_benchmarks(monkeypatch, others, expected):
    begin, end = (1.5, 100.0, 50.0, 4.0), (2.5, 105.0, 50.0 + 2 + others, 4.0 + 2)
    monkeypatch.setattr(measure.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(measure, "START", begin)
    monkeypatch.setattr(measure, "_moment", lambda: end)
    load = measure.machine_load()
    assert (load.start, load.end) == (1.5, 2.5) and load.others == (expected and pytest.approx(expected))


def test_published_pages_state_their_load_and_are_not_called_idle_without_a_measurement():
    for page in measure.RESULTS.glob("*.md"):
        text, load = page.read_text(), json.loads(page.with_suffix(".json").read_text())["load"]
        assert "Load average" in text, page.name
        assert ("machine was idle" in text) is (isinstance(load, dict) and load["idle"]), page.name


def test_pages_made_from_benchmarks_state_the_load_too():
    docs = Path(__file__).parents[2] / "docs"
    assert "Load average" in (docs / "scaling.md").read_text()
    performance = (docs / "performance.md").read_text()
    for page in measure.RESULTS.glob("*.json"):
        load = measure.read_values(page)["load"]
        for row in (line for line in performance.splitlines() if line.startswith(f"| [{page.stem}](")):
            assert row.endswith("| idle |") is (isinstance(load, dict) and load["idle"]), row


def test_the_commit_is_that_of_the_repository_with_a_note_on_changes(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    monkeypatch.setattr(measure, "__file__", str(tmp_path / "measure.py"))
    assert measure.commit() == "unknown"
    (tmp_path / "measure.py").write_text("one = 1")
    for line in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *line], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert measure.commit() == head[:12]
    (tmp_path / "page.md").write_text("not code")
    (tmp_path / "measure.py").write_text("one = 2")
    assert measure.commit() == f"{head[:12]} with changes"


def test_a_failing_benchmark_does_not_stop_the_others(capfd):
    code = "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[2]))"
    lines = {name: [sys.executable, "-c", code, name, status] for name, status in (("one", "3"), ("two", "0"))}
    assert run_all(lines) == ["one"]
    output = capfd.readouterr().out
    assert "one: FAILED with 3 after" in output and output.index("one: FAILED") < output.index("two: done")


def test_every_benchmark_module_is_listed():
    modules = {path.stem for path in Path(measure.__file__).parent.glob("*.py") if "__main__" in path.read_text()}
    assert modules - {"__main__"} == set(ALL) == set(TINY) and list(commands(list(ALL))) == list(ALL)


def test_a_failed_process_returns_its_error():
    assert measure.run_in_process("math", "sqrt", x=-1)["error"].startswith("TypeError")
    assert measure.run_in_process("os", "abort") == {"error": "killed by signal 6"}


def test_flops_of_a_step_equal_a_count_by_hand():
    model = trainable_embedder("tiny").lvlm.model
    layer = 4 * 64 * 64 + 3 * 64 * 96  # attention, and an MLP of three matrices
    vision = 4 * 64 * 64 + 2 * 64 * 256 + 65 * 64  # one layer; position embedding
    once = 4 * 2 * layer * 100 + 4 * 64 * 512 * 30 + 2 * vision * 65
    assert measure.count_flops(model, tokens=100, targets=30, image_tokens=65) == once
    assert measure.count_flops(model, 100, 30, 65, forwards=2) == once + 2 * 2 * layer * 100


def test_methods_are_interleaved_after_one_warm_up():
    calls = []
    seconds = measure.time_interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=3)
    assert calls == ["a", "b"] * 4 and len(seconds["a"]) == 3
    with pytest.raises(ValueError, match="at least 1"):
        measure.time_interleaved({}, runs=0)


def test_ratio_is_the_median_over_interleaved_runs():
    seconds = {"kit": [1.0, 5.0, 2.0], "plain": [2.0, 20.0, 6.0]}  # the second run was slow for both
    assert measure.median_ratio(seconds, "plain", "kit") == 3.0


def test_target_is_met_or_missed():
    assert measure.target("x", 2.5, at_least=2.0) == "x: measured 2.5, target at least 2, target met."
    assert measure.target("x", 2.5, at_most=2.0) == "x: measured 2.5, target at most 2, target missed."


def test_targets_are_found_on_a_page():
    page = "\n\n".join(["# a page", measure.target("a / b", 2.5, at_least=2.0), measure.target("c", 3, at_most=1)])
    assert measure.find_targets(page) == [
        ("a / b", "2.5", "at least 2", "target met"),
        ("c", "3", "at most 1", "target missed"),
    ]


@pytest.mark.skipif(not measure.CLEAR_REFS.exists(), reason="only Linux resets the peak")
def test_peak_memory_counts_from_the_reset():
    tensor = torch.ones(50_000_000)
    peak = measure.peak_memory("cpu")
    del tensor
    assert measure.peak_memory("cpu") == pytest.approx(peak, abs=0.01)
    measure.reset_peak_memory("cpu")
    assert measure.peak_memory("cpu") < peak - 0.15


def test_only_missed_targets_have_a_profile():
    matrix = torch.randn(200, 200)

    def square():
        return [matrix @ matrix for _ in range(20)]

    met, missed = (measure.target("x", value, at_least=2) for value in (3, 1))
    assert measure.with_profile([met], "it", square) == [met]
    _, title, table = measure.with_profile([met, missed], "the squares", square)[1:]
    assert title == "Profile of the squares:" and "`aten::mm` | 20 |" in table


def test_line_fit():
    slope, intercept, r2 = fit_line([1, 2, 3], [3, 5, 7])
    assert (slope, intercept, r2) == (pytest.approx(2), pytest.approx(1), pytest.approx(1))


def test_communication_equals_a_count_by_hand():
    sent = scaling.megabytes_sent(ranks=4, batch=8, dim=10, adapter=100)
    assert sent["embeddings"] == pytest.approx(2 * 8 * 10 * 4 * 3 / 4 / 1e6)
    assert sent["adapter"] == pytest.approx(100 * 4 * 2 * 3 / 4 / 1e6)
    assert sum(scaling.megabytes_sent(1, 8, 10, 100).values()) == 0


def test_scaling_page_follows_the_measured_step(tmp_path, monkeypatch):
    values = {
        "pairs_per_second": {"cached": 100.0}, "dim": 4096, "adapter_parameters": 40_000_000, "shape": "tiny",
        "batch": 64, "tflops": {"cached": 0.1}, "device": "cpu", "machine": "a machine",
        "command": "python -m experiments.benchmarks.step", "load": {"start": 0.5, "end": 1.5, "others": 0.4},
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"run python -m experiments.benchmarks.step first"):
        measure.read_values(tmp_path / "step.json")
    (tmp_path / "step.json").write_text(json.dumps(values))
    page = tmp_path / "scaling.md"
    monkeypatch.setattr(sys, "argv", ["scaling", "--results", str(tmp_path), "--out-file", str(page), "--price", "3"])
    scaling.main()
    text = page.read_text()
    hours = 8_100_000 * 7 / 100 / 3600
    assert "55,371 steps" in text and f"| 1 | 1024 | {hours:.0f} | {hours * 0.1:.0f} | 0.0 | 0 % |" in text
    assert "40 % of the processors' time, so the machine was not idle." in text
    assert "Nothing here was measured on a GPU" in text and "| 1 | 1024 |" in text.partition("Estimate")[2]
    flops = 6 * 6_476_005_376 * 776 + 4 * 4096 * 32_064 * 100 + 2 * 24 * 12 * 1024**2 * 577
    assert scaling.Paper().flops(2) == flops
    assert f"| the machine above, at its measured speed | 0.1 | {1e11 / flops:.3g} |" in text
    assert "| 8 | 29.4 | 58.7 | 281.0 |" in text  # 2 x 1,024 rows of 4,096 floats, times seven eighths


def test_communication_limit_is_the_first_number_of_ranks_above_a_fifth():
    paper = scaling.Paper()
    ranks = int(scaling.communication_limit(4.0, paper, bandwidth=0.5).split()[1])
    for number, exceeds in ((ranks - 1, False), (ranks, True)):
        compute, send = scaling.step_seconds(number, 4.0, paper.dim, paper.adapter, 0.5)
        assert (send > 0.2 * compute) is exceeds


def test_committed_scaling_page_is_up_to_date():
    root = Path(__file__).parents[2]
    args = Namespace(method="cached", price=2.0, cpu_price=0.1, bandwidth=25.0, utilization=0.4)
    measured = measure.read_values(measure.RESULTS / "step.json")
    assert scaling.scaling_page(measured, args) == (root / "docs" / "scaling.md").read_text()

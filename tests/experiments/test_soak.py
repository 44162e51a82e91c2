"""The soak test in a few seconds, its page, and the committed results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.soak.page import PAGE, RESULTS, failures_of, reliability_page
from experiments.soak.tasks import TASKS, digest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_short_soak_finds_nothing(tmp_path):
    results = tmp_path / "results.json"
    options = ["--minutes", "5", "--kills", "1", "--inputs", "60", "--items", "400", "--seed", "1"]
    command = [sys.executable, "-m", "experiments.soak", *options, "--out", str(tmp_path), "--results", str(results)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    record = json.loads(results.read_text())
    assert sum(count["resumed"] for count in record["kills"]["tasks"].values()) >= 1
    assert [count["tried"] >= 12 for count in record["fuzz"]["kinds"].values()] == [True] * 5
    assert record["load"]["reported"] == {"images": 396, "skipped": 4, "texts": 396, "refused": 4}
    assert (tmp_path / PAGE).read_text() == reliability_page(record)


def test_the_page_is_that_of_the_committed_results_and_nothing_failed():
    record = json.loads(RESULTS.read_text())
    assert (ROOT / "docs" / PAGE).read_text() == reliability_page(record)
    assert failures_of(record) == []
    assert list(record["kills"]["tasks"]) == list(TASKS)


def failed_record():
    record = json.loads(RESULTS.read_text())
    record["kills"]["tasks"]["embed"]["failed"] = ["SIGKILL at 1.00 s: the results differ"]
    record["fuzz"]["kinds"]["images"]["failed"] = ["OSError: | b'x'"]
    record["load"]["failed"] = ["not all reported"]
    return record


def test_failures_are_listed_on_the_page():
    record = failed_record()
    assert len(failures_of(record)) == 3
    page = reliability_page(record)
    for line in ("- embed: SIGKILL at 1.00 s", "- images: OSError:", "- load: not all reported"):
        assert line in page


def test_digests_differ_if_a_value_or_a_byte_does():
    assert digest([{"loss": 1.0}, b"ab"]) == digest([{"loss": 1.0}, b"ab"])
    assert len({digest([{"loss": 1.0}, b"ab"]), digest([{"loss": 1.5}, b"ab"]), digest([{"loss": 1.0}, b"ac"])}) == 3

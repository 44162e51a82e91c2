"""The overview shows each model's headline scores, and counts the cases that change."""

import numpy as np
import pytest
from rich.console import Console

from vladva_kit.evaluation.cases import CaseScore, Result
from vladva_kit.evaluation.overview import count_changes, overview, overview_table


def result(correct, data="a"):
    cases = [CaseScore("group", str(i), "", "", "", "", 0.0, bool(one)) for i, one in enumerate(correct)]
    return Result(n=len(cases), cases=tuple(cases), data=data)


@pytest.fixture
def results():
    score = {"percent": 12.34, "chance": 16.7, "n": 8}
    return {
        "models": {
            "CLIP, same batches": {"winoground/seen": {"group": {**score, "percent": 1.0}}},
            "base": {
                "winoground/seen": {"group": score},
                "retrieval/seen": {"text_to_image": {"R@1": {"percent": 81.4, "chance": 0.2, "n": 4}}},
                "generation/seen": {"caption_truth": {"percent": 93.0, "chance": None}},
            },
        }
    }


def test_each_model_has_its_scores_and_a_dash_where_it_has_none(results):
    table = overview(results, "seen")
    assert table["base"]["Winoground group"] == "12.3" and table["base"]["text → image R@1"] == "81.4"
    assert table["CLIP, same batches"]["captions true"] == "—"
    assert set(overview(results, "unseen style")["base"].values()) == {"—"}


def test_the_terminal_table_names_every_model_within_80_columns(results):
    console = Console(width=80, record=True)
    console.print(overview_table(results))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "base " in text and "batches" in text and "12.3" in text
    (chance,) = (line.split() for line in text.splitlines() if line.strip().startswith("chance") and "16.7" in line)
    assert chance == ["chance", "16.7", "0.2", "—", "—", "—", "—"]


def test_fixed_and_broken_cases_are_counted():
    rng = np.random.default_rng(0)
    before, after = rng.random(50) < 0.3, rng.random(50) < 0.8
    fixed, broken = count_changes(result(before), result(after), "group")
    assert (fixed, broken) == (int((~before & after).sum()), int((before & ~after).sum())) and broken > 0


def test_results_of_different_data_are_not_compared():
    with pytest.raises(ValueError, match="different data"):
        count_changes(result([1]), result([1], data="b"), "group")

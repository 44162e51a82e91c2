"""Comparisons of two runs against counts by hand."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app
from vladva_kit.evaluation.bootstrap import mcnemar
from vladva_kit.evaluation.cases import CaseScore
from vladva_kit.evaluation.compare import MEAN, compare, difference_table
from vladva_kit.evaluation.results import read_results, save_results

KINDS = ("Object", "Relation", "Both")


def test_differences_equal_counts_by_hand(runs):
    folder, results = runs
    found = compare(folder / "first", folder / "second" / "results.json")
    assert (found.first, found.second, found.alone) == ("first", "second", ())
    by_name = {(one.score, one.category): one for one in found.differences}
    assert set(by_name) == {(score, kind) for score in ("text", "image", "group") for kind in ("", MEAN, *KINDS)}
    for score in ("text", "image", "group"):
        first, second = (
            np.array([getattr(case, f"{score}_margin") > 0 for case in results[name].cases]) for name in runs[1]
        )
        one = by_name[score, ""]
        assert one.difference == pytest.approx(100 * (second.mean() - first.mean()))
        assert (one.only_first, one.only_second) == ((first & ~second).sum(), (second & ~first).sum())
        assert one.p_value == mcnemar(first, second).p_value
        assert one.low <= one.difference <= one.high and one.n == 60
        kinds = [by_name[score, kind].difference for kind in KINDS]
        assert by_name[score, MEAN].difference == pytest.approx(np.mean(kinds))
        assert by_name[score, MEAN].p_value is None


def save_graded(folder, values, correct=None):
    """A run whose only benchmark has these values, and whether each case is right, or None."""

    class Graded:
        data = "same"

        def as_dict(self):
            return {"accuracy": {"percent": 100 * np.mean(values)}}

        def per_case(self):
            for case, value in enumerate(values):
                right = None if correct is None else bool(correct[case])
                yield CaseScore("accuracy", str(case), "", str(case), "?", "", value, correct=right, value=value)

    save_results(folder, {folder.name: {"vqa": Graded()}}, {}, {})


def test_a_paired_interval_is_narrower_if_both_are_right_on_the_same_cases(tmp_path):
    rng = np.random.default_rng(0)
    first = rng.random(400) < 0.5
    second = first.copy()
    second[:8] = ~second[:8]
    for name, right in (("first", first), ("second", second), ("shuffled", rng.permutation(second)), ("same", first)):
        save_graded(tmp_path / name, right.astype(float).tolist(), right)
    paired, unpaired, same = (
        compare(tmp_path / "first", tmp_path / name).differences[0] for name in ("second", "shuffled", "same")
    )
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 3
    assert paired.difference == pytest.approx(100 * (second.mean() - first.mean()))
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_a_mean_of_categories_that_share_images_resamples_images(tmp_path):
    right = {"first": np.zeros(60, dtype=bool), "second": np.arange(60) < 42}

    def save(name, image_of):
        class Categories:
            data = "same"

            def as_dict(self):
                return {"macro": {"percent": 0.0}}

            def per_case(self):
                for case in range(420):
                    correct = bool(right[name][case % 60])
                    columns = f"category {case // 60}", str(image_of(case)), "?", "", 0.0, correct
                    yield CaseScore("accuracy", str(case), *columns)

        folder = tmp_path / f"{name}-{image_of(60)}"
        save_results(folder, {name: {"sugarcrepe": Categories()}}, {}, {})
        return folder

    shared, apart = (
        next(one for one in compare(*(save(name, image_of) for name in right)).differences if one.category == MEAN)
        for image_of in (lambda case: case % 60, lambda case: case)
    )
    assert (shared.low, shared.high) == pytest.approx((58.3, 81.7), abs=2)
    assert (apart.low, apart.high) == pytest.approx((65.7, 74.3), abs=1)


def test_runs_on_other_data_are_rejected(runs, winoground, seeded_encoder, tmp_path):
    folder, _ = runs
    rows = (winoground / "examples.jsonl").read_text().splitlines()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "images").symlink_to(winoground / "images")
    (tmp_path / "other" / "examples.jsonl").write_text("\n".join(rows[:-1]))
    result = vk.evaluate_winoground(seeded_encoder(2), tmp_path / "other")
    save_results(tmp_path / "run", {"second": {"winoground": result}}, {}, {})
    with pytest.raises(ValueError, match="winoground: the two runs were evaluated on different data .fingerprints"):
        compare(folder / "first", tmp_path / "run")
    shown = CliRunner().invoke(app, ["compare", str(folder / "first"), str(tmp_path / "run")])
    assert shown.exit_code and "different data" in str(shown.exception)


def test_runs_without_common_benchmarks_or_files_are_rejected(runs, tmp_path):
    folder, _ = runs
    with pytest.raises(ValueError, match="results.json does not exist; write it with vladva eval"):
        compare(folder / "first", tmp_path)
    path = tmp_path / "results.json"
    for text, reason in (('{"models"', "not JSON .*truncated"), ('{"models": {"a": {}}}', "holds no models with data")):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_results(tmp_path)
    path.write_text(json.dumps({"models": {"a": {"sugarcrepe": {}}}, "data": {"sugarcrepe": "x"}}))
    with pytest.raises(ValueError, match="no benchmark in common: the first run has winoground, the second sugarcrepe"):
        compare(folder / "first", tmp_path)
    same = json.loads((folder / "first" / "results.json").read_text())["data"]
    path.write_text(json.dumps({"models": {"a": dict.fromkeys(same, {})}, "data": same}))
    with pytest.raises(ValueError, match="per_case.parquet does not exist; write it with vladva eval --out"):
        compare(folder / "first", tmp_path)


@pytest.fixture(scope="module")
def together(runs, tmp_path_factory):
    """Both models in one run, as in a demo."""
    _, results = runs
    both = {name: {"winoground": result} for name, result in results.items()}
    folder = tmp_path_factory.mktemp("together")
    save_results(folder, both, {name: {"name": name} for name in results}, {"seed": 0})
    return folder


def test_a_model_is_named_after_a_colon_and_the_last_is_the_default(runs, together):
    folder, _ = runs
    apart = compare(folder / "first", folder / "second")
    assert compare(f"{together}:first", f"{together}:second") == apart
    assert compare(f"{together}:first", together) == compare(folder / "first", together / "results.json") == apart
    shown = CliRunner().invoke(app, ["compare", f"{together}:first", str(folder / "second")], env={"COLUMNS": "160"})
    assert shown.exit_code == 0 and "first" in shown.output and "second" in shown.output
    with pytest.raises(ValueError, match="are one model of one run; it has first, second: name one after a colon"):
        compare(together, f"{together}:second")
    with pytest.raises(ValueError, match="holds no model 'third'; it has first, second"):
        compare(f"{together}:third", together)
    again = compare(folder / "second", together)  # models of the same name are shown by their folders
    assert (again.first, again.second) == (str(folder / "second"), str(together))


def test_graded_answers_are_compared_by_value_without_mcnemar(tmp_path):
    save_graded(tmp_path / "a", [0.3, 0.6, 1.0, 0.0])
    save_graded(tmp_path / "b", [0.6, 0.6, 1.0, 1.0])
    (one,) = compare(tmp_path / "a", tmp_path / "b").differences
    assert (one.first, one.second, one.difference) == (pytest.approx(47.5), pytest.approx(80), pytest.approx(32.5))
    assert one.low <= one.difference <= one.high and (one.only_first, one.only_second, one.p_value) == (None,) * 3


def test_runs_with_the_older_file_name_are_read(runs, tmp_path):
    folder, _ = runs
    shutil.copytree(folder / "first", tmp_path / "old")
    (tmp_path / "old" / "per_case.parquet").rename(tmp_path / "old" / "margins.parquet")
    differences = compare(tmp_path / "old", folder / "second").differences
    assert differences == compare(folder / "first", folder / "second").differences


def test_the_command_prints_and_writes_the_differences(runs, tmp_path):
    folder, _ = runs
    out = tmp_path / "differences.json"
    arguments = ["compare", str(folder / "first"), str(folder / "second"), "--out", str(out)]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert shown.exit_code == 0 and "winoground group Relation" in shown.output
    found = compare(folder / "first", folder / "second")
    assert len(json.loads(out.read_text())["differences"]) == len(found.differences) == 15
    assert difference_table(found).row_count == 15

"""What a run leaves behind, and two runs beside each other: encoders of known answers, files in tmp_path."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app
from vladva_kit.evaluation.bootstrap import mcnemar, paired
from vladva_kit.evaluation.compare import MEAN, compare, difference_table
from vladva_kit.evaluation.per_case import CaseScore
from vladva_kit.evaluation.results import read_results, save_all_results, save_results

KINDS = ("Object", "Relation", "Both")


class Guesses:
    """A random vector for each picture and text, its own for each seed."""

    def __init__(self, seed):
        self.seed, self.fingerprint = seed, f"guesses {seed}"

    def encode_image(self, images):
        return self._unit([image.getpixel((0, 0)) for image in images])

    def encode_text(self, texts):
        return self._unit(texts)

    def _unit(self, things):
        vectors = [self._guess(thing) for thing in things]
        return torch.nn.functional.normalize(torch.tensor(np.array(vectors), dtype=torch.float32), dim=-1)

    def _guess(self, thing):
        seed = int.from_bytes(hashlib.sha256(f"{self.seed} {thing!r}".encode()).digest()[:8], "big")
        return np.random.default_rng(seed).normal(size=16)


@pytest.fixture(scope="module")
def winoground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("winoground")
    (folder / "images").mkdir()
    rows = []
    for case in range(60):
        for place in range(2):
            Image.new("RGB", (2, 2), (case, place, 0)).save(folder / "images" / f"ex_{case}_img_{place}.png")
        images = {f"image_{place}": f"ex_{case}_img_{place}" for place in range(2)}
        captions = {f"caption_{place}": f"case {case} caption {place}" for place in range(2)}
        rows.append({"id": case, **images, **captions, "collapsed_tag": KINDS[case % 3]})
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def runs(winoground, tmp_path_factory):
    """Two guessers' runs on the same cases, with their results."""
    folder, results = tmp_path_factory.mktemp("runs"), {}
    for name, seed in (("first", 1), ("second", 2)):
        results[name] = vk.evaluate_winoground(Guesses(seed), winoground)
        save_results(folder / name, Guesses(seed), {"winoground": results[name]}, name, seed=3, command="vladva eval")
    return folder, results


def test_results_json_holds_what_repeats_the_run(runs):
    folder, results = runs
    told = json.loads((folder / "first" / "results.json").read_text())
    assert told["command"] == "vladva eval" and told["seed"] == 3
    assert {"vladva-kit", "torch", "transformers", "peft", "python"} <= told["versions"].keys()
    assert told["identity"] == {"first": {"name": "Guesses", "weights": "guesses 1"}}
    assert told["data"] == {"winoground": results["first"].data} and len(told["data"]["winoground"]) == 64
    assert told["models"]["first"]["winoground"]["group"]["percent"] == results["first"].group.percent


def test_an_lvlm_s_identity_names_revision_prompts_adapter_and_dtype(lvlm, winoground, tmp_path):
    embedder = vk.attach(lvlm)
    result = vk.evaluate_winoground(Guesses(1), winoground)  # whose figures they are does not matter here
    told = save_results(tmp_path, embedder, {"winoground": result}, "tuned")["identity"]["tuned"]
    assert told["name"] == "emoji-llava" and told["dtype"] == "float32" and "revision" in told
    assert told["prompts"] == [embedder.image_prompt.words, embedder.text_prompt.words]
    assert len(told["adapter"]) == len(told["weights"]) == 64


def test_tables_and_margins_lie_beside_and_say_the_same(runs):
    folder, results = runs
    group = results["first"].group
    for name in ("table.md", "table.tex"):
        text = (folder / "first" / name).read_text()
        assert f"{group.percent:.1f} [{group.low:.1f}, {group.high:.1f}]" in text and "16.7" in text and "60" in text
    frame = pandas.read_parquet(folder / "first" / "margins.parquet")
    assert 100 * frame[frame.score == "group"].correct.mean() == pytest.approx(group.percent)


def test_differences_equal_those_counted_by_hand(runs):
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


def test_a_paired_interval_is_narrower_where_the_two_are_right_on_the_same_cases():
    rng = np.random.default_rng(0)
    first = rng.random(400) < 0.5
    second = first.copy()
    second[:8] = ~second[:8]
    told, apart = paired(first, second), paired(first, rng.permutation(second))
    assert told.high - told.low < (apart.high - apart.low) / 3
    assert told.difference == pytest.approx(100 * (second.mean() - first.mean()))
    same = paired(first, first)
    assert (same.difference, same.low, same.high, same.mcnemar.p_value) == (0, 0, 0, 1)


def test_other_data_is_refused(runs, winoground, tmp_path):
    folder, _ = runs
    rows = (winoground / "examples.jsonl").read_text().splitlines()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "images").symlink_to(winoground / "images")
    (tmp_path / "other" / "examples.jsonl").write_text("\n".join(rows[:-1]))
    result = vk.evaluate_winoground(Guesses(2), tmp_path / "other")
    save_results(tmp_path / "run", Guesses(2), {"winoground": result}, "second")
    with pytest.raises(ValueError, match="winoground: the two runs were scored on different data .fingerprints"):
        compare(folder / "first", tmp_path / "run")
    shown = CliRunner().invoke(app, ["compare", str(folder / "first"), str(tmp_path / "run")])
    assert shown.exit_code and "different data" in str(shown.exception)


def test_runs_that_lack_something_are_refused_with_the_way_out(runs, tmp_path):
    folder, _ = runs
    with pytest.raises(ValueError, match="results.json does not exist; write it with vladva eval"):
        compare(folder / "first", tmp_path)
    path = tmp_path / "results.json"
    for text, reason in (('{"models"', "not JSON .*cut short"), ('{"models": {"a": {}}}', "holds no models with data")):
        path.write_text(text)
        with pytest.raises(ValueError, match=reason):
            read_results(tmp_path)
    path.write_text(json.dumps({"models": {"a": {"sugarcrepe": {}}}, "data": {"sugarcrepe": "x"}}))
    with pytest.raises(ValueError, match="no benchmark in common: the first run has winoground, the second sugarcrepe"):
        compare(folder / "first", tmp_path)
    same = json.loads((folder / "first" / "results.json").read_text())["data"]
    path.write_text(json.dumps({"models": {"a": dict.fromkeys(same, {})}, "data": same}))
    with pytest.raises(ValueError, match="margins.parquet does not exist; write it with vladva eval --out"):
        compare(folder / "first", tmp_path)


@pytest.fixture(scope="module")
def together(runs, tmp_path_factory):
    """Both guessers in one run, as a demo has its models."""
    _, results = runs
    judged = {name: {"winoground": result} for name, result in results.items()}
    folder = tmp_path_factory.mktemp("together")
    save_all_results(folder, judged, {name: {"name": name} for name in results}, {"seed": 0})
    return folder


def test_one_of_several_models_is_named_and_else_the_last_is_taken(runs, together):
    folder, _ = runs
    apart = compare(folder / "first", folder / "second")
    assert compare(f"{together}:first", f"{together}:second") == apart
    assert compare(f"{together}:first", together) == compare(folder / "first", together / "results.json") == apart
    shown = CliRunner().invoke(app, ["compare", f"{together}:first", str(folder / "second")], env={"COLUMNS": "160"})
    assert shown.exit_code == 0 and "first" in shown.output and "second" in shown.output
    with pytest.raises(ValueError, match="are one model of one run; it has first, second: name one behind a colon"):
        compare(together, f"{together}:second")
    with pytest.raises(ValueError, match="holds no model 'third'; it has first, second"):
        compare(f"{together}:third", together)
    again = compare(folder / "second", together)  # of one name, told apart by where they lie
    assert (again.first, again.second) == (str(folder / "second"), str(together))


def test_models_judged_on_different_data_are_not_written_into_one_run(runs, winoground, tmp_path):
    _, results = runs
    other = replace(results["second"], data="other")
    judged = {"first": {"winoground": results["first"]}, "second": {"winoground": other}}
    with pytest.raises(ValueError, match="winoground: second was judged on other data"):
        save_all_results(tmp_path / "run", judged, {}, {})
    assert not (tmp_path / "run").exists()


def test_graded_answers_are_compared_by_what_they_count_for_without_a_test_of_right_and_wrong(tmp_path):
    class Graded:
        data = "one"

        def __init__(self, values):
            self.values = values

        def as_dict(self):
            return {"accuracy": {"percent": 100 * np.mean(self.values)}}

        def margins(self):
            for case, value in enumerate(self.values):
                yield CaseScore("accuracy", str(case), "", str(case), "?", "", value, correct=None, value=value)

    for name, values in (("a", [0.3, 0.6, 1.0, 0.0]), ("b", [0.6, 0.6, 1.0, 1.0])):
        save_all_results(tmp_path / name, {name: {"vqa": Graded(values)}}, {}, {})
    (one,) = compare(tmp_path / "a", tmp_path / "b").differences
    assert (one.first, one.second, one.difference) == (pytest.approx(47.5), pytest.approx(80), pytest.approx(32.5))
    assert one.low <= one.difference <= one.high and (one.only_first, one.only_second, one.p_value) == (None,) * 3


def test_the_command_prints_the_differences_and_writes_them(runs, tmp_path):
    folder, _ = runs
    out = tmp_path / "differences.json"
    arguments = ["compare", str(folder / "first"), str(folder / "second"), "--out", str(out)]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert shown.exit_code == 0 and "winoground group Relation" in shown.output
    found = compare(folder / "first", folder / "second")
    assert len(json.loads(out.read_text())["differences"]) == len(found.differences) == 15
    assert difference_table(found).row_count == 15

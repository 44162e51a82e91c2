"""The files of a run: results.json, tables and per-case scores."""

import json
import os
from dataclasses import replace

import pandas
import pytest

import vladva_kit as vk
from vladva_kit.embedder.identity import describe
from vladva_kit.evaluation.cases import CaseScore
from vladva_kit.evaluation.results import read_per_case, save_results, write_per_case


def test_results_json_has_everything_to_reproduce_the_run(runs):
    folder, results = runs
    saved = json.loads((folder / "first" / "results.json").read_text())
    assert saved["command"] == "vladva eval" and saved["seed"] == 3
    assert {"vladva-kit", "torch", "transformers", "peft", "python"} <= saved["versions"].keys()
    assert saved["identity"] == {"first": {"name": "SeededEncoder", "weights": "seed 1"}}
    assert saved["data"] == {"winoground": results["first"].data} and len(saved["data"]["winoground"]) == 64
    assert saved["models"]["first"]["winoground"]["group"]["percent"] == results["first"].group.percent


def test_the_identity_of_an_lvlm_has_revision_prompts_adapter_and_dtype(lvlm, runs, tmp_path):
    embedder = vk.attach(lvlm)
    results = {"tuned": {"winoground": runs[1]["first"]}}  # any result will do
    saved = save_results(tmp_path, results, {"tuned": describe(embedder)}, {})["identity"]["tuned"]
    assert saved["name"] == "emoji-llava" and saved["dtype"] == "float32" and "revision" in saved
    assert saved["prompts"] == [embedder.image_prompt.words, embedder.text_prompt.words]
    assert len(saved["adapter"]) == len(saved["weights"]) == 64


def test_tables_and_per_case_scores_agree_with_the_result(runs):
    folder, results = runs
    group = results["first"].group
    for name in ("table.md", "table.tex"):
        text = (folder / "first" / name).read_text()
        assert f"{group.percent:.1f} [{group.low:.1f}, {group.high:.1f}]" in text and "16.7" in text and "60" in text
    frame = pandas.read_parquet(folder / "first" / "per_case.parquet")
    assert 100 * frame[frame.score == "group"].correct.mean() == pytest.approx(group.percent)


def test_models_evaluated_on_different_data_are_not_saved_together(runs, tmp_path):
    _, results = runs
    other = replace(results["second"], data="other")
    both = {"first": {"winoground": results["first"]}, "second": {"winoground": other}}
    with pytest.raises(ValueError, match="winoground: second was evaluated on other data"):
        save_results(tmp_path / "run", both, {}, {})
    assert not (tmp_path / "run").exists()


def test_results_and_per_case_scores_change_together_or_not_at_all(runs, tmp_path, monkeypatch):
    _, results = runs
    save_results(tmp_path, {"first": {"winoground": results["first"]}}, {}, {})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    replace_file, calls = os.replace, []

    def fail_once(source, target):
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr("vladva_kit.models.files.os.replace", fail_once)
    with pytest.raises(OSError, match="cannot be written"):
        save_results(tmp_path, {"second": {"winoground": results["second"]}}, {}, {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Result:
    def __init__(self, cases):
        self.cases = cases

    def per_case(self):
        yield from self.cases


CASES = [
    CaseScore("group", "0", "Relation", "0", "a dog chasing a cat", "a cat chasing a dog", 0.25, True),
    CaseScore("group", "1", "Relation", "1", "a", "b", -0.5, False),
    CaseScore("group", "2", "Object", "2", "c", "d", 0.0, False, tags=("Object", "Symbolic")),
]
GRADED = [CaseScore("accuracy", "7", "number", "7.png", "how many?", "two", 0.3, None, 0.3)]


def test_per_case_scores_survive_parquet_and_pandas_reads_them(tmp_path):
    results = {"winoground": Result(CASES), "empty": Result([])}
    path = write_per_case(tmp_path / "run" / "per_case.parquet", {"base": results, "tuned": {"vqa": Result(GRADED)}})
    assert read_per_case(path) == {"base": {"winoground": CASES}, "tuned": {"vqa": GRADED}}
    frame = pandas.read_parquet(path)
    assert list(frame.margin) == [0.25, -0.5, 0.0, 0.3] and frame.correct.isna().sum() == 1
    assert list(frame.model) == ["base"] * 3 + ["tuned"]
    assert frame[frame.tags.map(lambda tags: "Symbolic" in tags)].case.tolist() == ["2"]


def test_a_case_counts_as_1_0_or_its_value():
    assert [case.counts for case in (*CASES, *GRADED)] == [1.0, 0.0, 0.0, 0.3]


def test_another_file_is_rejected(tmp_path):
    path = tmp_path / "per_case.parquet"
    with pytest.raises(ValueError, match="per_case.parquet does not exist; write it with vladva eval --out"):
        read_per_case(path)
    path.write_text("not parquet")
    with pytest.raises(ValueError, match="is not a parquet file .*write it again with vladva eval --out"):
        read_per_case(path)
    pandas.DataFrame({"benchmark": ["winoground"]}).to_parquet(path)
    with pytest.raises(ValueError, match="has no column caption, case, .*give the per_case.parquet of vladva eval"):
        read_per_case(path)


def test_names_that_are_not_utf_8_are_saved_escaped(runs, tmp_path):
    cases = tuple(replace(case, id=f"caf\udce9 {case.id}", tags={"tag": "\udce9"}) for case in runs[1]["first"].cases)
    results = {"first": {"winoground": replace(runs[1]["first"], cases=cases)}}
    save_results(tmp_path, results, {}, {})
    read = read_per_case(tmp_path / "per_case.parquet")["first"]["winoground"]
    assert read[0].case == "caf\\udce9 0"
    saved = json.loads((tmp_path / "results.json").read_text())["models"]["first"]["winoground"]["cases"]
    assert saved[0]["id"] == cases[0].id and read[0].tags == ("\\udce9",)

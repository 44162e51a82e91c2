import pandas
import pytest

from vladva_kit.evaluation.per_case import CaseScore, count_wrong, read_per_case, write_per_case


class Result:
    def __init__(self, cases):
        self.cases = cases

    def margins(self):
        yield from self.cases


CASES = [
    CaseScore("group", "0", "Relation", "0", "a dog chasing a cat", "a cat chasing a dog", 0.25, True),
    CaseScore("group", "1", "Relation", "1", "a", "b", -0.5, False),
    CaseScore("group", "2", "Object", "2", "c", "d", 0.0, False, tags=("Object", "Symbolic")),
]
GRADED = [CaseScore("accuracy", "7", "number", "7.png", "how many?", "two", 0.3, None, 0.3)]


def test_margins_come_back_from_the_parquet_as_they_were_and_pandas_opens_it(tmp_path):
    results = {"winoground": Result(CASES), "empty": Result([])}
    path = write_per_case(tmp_path / "run" / "margins.parquet", {"base": results, "tuned": {"vqa": Result(GRADED)}})
    assert read_per_case(path) == {"base": {"winoground": CASES}, "tuned": {"vqa": GRADED}}
    frame = pandas.read_parquet(path)
    assert list(frame.margin) == [0.25, -0.5, 0.0, 0.3] and frame.correct.isna().sum() == 1
    assert list(frame.model) == ["base"] * 3 + ["tuned"]
    assert frame[frame.tags.map(lambda tags: "Symbolic" in tags)].case.tolist() == ["2"]


def test_a_case_counts_for_one_or_nothing_or_its_value():
    assert [case.counts for case in (*CASES, *GRADED)] == [1.0, 0.0, 0.0, 0.3]


def test_wrong_cases_are_counted_by_score_and_category():
    assert count_wrong(CASES + GRADED) == {("group", "Relation"): (1, 2), ("group", "Object"): (1, 1)}


def test_another_file_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "margins.parquet"
    with pytest.raises(ValueError, match="margins.parquet does not exist; write it with vladva eval --out"):
        read_per_case(path)
    path.write_text("no parquet")
    with pytest.raises(ValueError, match="is no parquet .*write it again with vladva eval --out"):
        read_per_case(path)
    pandas.DataFrame({"benchmark": ["winoground"]}).to_parquet(path)
    with pytest.raises(ValueError, match="has no column caption, case, .*give the margins.parquet of vladva eval"):
        read_per_case(path)

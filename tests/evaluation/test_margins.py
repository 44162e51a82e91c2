import pandas
import pytest

from vladva_kit.evaluation.margins import CaseMargin, count_wrong, read_margins, write_margins


class Result:
    def __init__(self, cases):
        self.cases = cases

    def margins(self):
        yield from self.cases


CASES = [
    CaseMargin("group", "0", "Relation", "0", "a dog chasing a cat", "a cat chasing a dog", 0.25, True),
    CaseMargin("group", "1", "Relation", "1", "a", "b", -0.5, False),
    CaseMargin("group", "2", "Object", "2", "c", "d", 0.0, False),
]


def test_margins_come_back_from_the_parquet_as_they_were_and_pandas_opens_it(tmp_path):
    path = write_margins(tmp_path / "run" / "margins.parquet", {"winoground": Result(CASES), "empty": Result([])})
    assert read_margins(path) == {"winoground": CASES}
    frame = pandas.read_parquet(path)
    assert list(frame.margin) == [0.25, -0.5, 0.0] and frame.correct.dtype == bool
    assert set(frame.benchmark) == {"winoground"}


def test_wrong_cases_are_counted_by_score_and_category():
    assert count_wrong(CASES) == {("group", "Relation"): (1, 2), ("group", "Object"): (1, 1)}


def test_another_file_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "margins.parquet"
    path.write_text("no parquet")
    with pytest.raises(ValueError, match="is no parquet .*write it again with vladva eval --out"):
        read_margins(path)
    pandas.DataFrame({"benchmark": ["winoground"]}).to_parquet(path)
    with pytest.raises(ValueError, match="has no column caption, case, .*give the margins.parquet of vladva eval"):
        read_margins(path)

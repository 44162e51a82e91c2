"""Tables in Markdown: aligned, and with cells that cannot end themselves."""

import pytest

from vladva_kit.evaluation.markdown import table


def test_a_table_has_a_heading_a_rule_and_its_rows():
    made = table(["model", "R@1"], iter([["base", "9.0"], ["both", "91.9"]]), "lr")
    assert made == "| model | R@1 |\n| --- | ---: |\n| base | 9.0 |\n| both | 91.9 |\n"
    assert table(["", "n"], [], "rl") == "|  | n |\n| ---: | --- |\n"


def test_a_cell_cannot_end_its_row():
    assert table(["a|b"], [["two\nlines"]], "l") == "| a\\|b |\n| --- |\n| two lines |\n"


def test_a_row_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"row 2 has 1 cells, not 2: \['alone'\]"):
        table(["a", "b"], [["1", "2"], ["alone"]], "lr")

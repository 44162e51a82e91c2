import pytest

from vladva_kit.evaluation.latex import latex_table


def score(percent, half=4.0):
    return {"percent": percent, "low": percent - half, "high": percent + half, "chance": 25.0, "n": 40, "ties": 0}


def test_a_table_has_a_row_a_score_with_interval_chance_and_n_and_escapes_what_latex_reads():
    results = {
        "models": {
            "my_model & 100%": {"winoground": {"group": score(20.0), "skipped": ["line 3: gone"]}},
            "tuned~{v}\\": {"winoground": {"group": score(60.0)}, "retrieval": {"text_to_image": {"R@1": score(9.0)}}},
        }
    }
    lines = latex_table(results).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrr}" and lines[-1] == r"\end{tabular}"
    assert lines[2] == (r" & my\_model \& 100\% & tuned\textasciitilde{}\{v\}\textbackslash{} & guessing & $n$ \\")
    assert lines[4] == (
        r"Winoground: group & 20.0 [16.0, 24.0] & \textbf{60.0 [56.0, 64.0]} & 25.0 & 40, 1 left out \\"
    )
    assert lines[5] == r"Retrieval: text $\to$ image R@1 & --- & 9.0 [5.0, 13.0] & 25.0 & 40 \\"


def test_results_without_models_are_refused():
    with pytest.raises(ValueError, match="needed are models"):
        latex_table({})

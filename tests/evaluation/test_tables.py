"""Tables of scores for the terminal, Markdown and LaTeX."""

import copy
import io
import re

import pytest
from rich.console import Console

from vladva_kit.evaluation import RetrievalResult, Score, SugarCrepeResult
from vladva_kit.evaluation.sugarcrepe import CATEGORIES
from vladva_kit.evaluation.tables import (
    compare_intervals,
    comparison_table,
    figure_table,
    latex_table,
    markdown_rows,
    markdown_table,
    score_rows,
    summary_sentences,
)


def score(percent, half=4.0, chance=None, n=100, ties=0):
    return {"percent": percent, "low": percent - half, "high": percent + half, "chance": chance, "n": n, "ties": ties}


def winoground(group, **kinds):
    parts = {name: score(group, chance=25.0) for name in ("text", "image")}
    by_kind = {kind: {"group": score(percent, chance=100 / 6)} for kind, percent in kinds.items()}
    parts["group"] = score(group, chance=100 / 6)
    return {**parts, "breakdown": {"collapsed_tag": by_kind}, "cases": [{"id": "0"}]}


def retrieval(percent):
    way = {"R@1": score(percent, chance=0.2, n=500), "R@5": score(percent + 8, chance=1.0, n=500)}
    return {"image_to_text": way, "text_to_image": copy.deepcopy(way), "n_images": 500, "image_margins": [None]}


@pytest.fixture
def results():
    return {
        "models": {
            "emoji-clip": {
                "retrieval/seen": retrieval(54.0),
                "retrieval/unseen style": retrieval(50.0),
                "winoground/seen": winoground(20.0, Object=60.0, Relation=6.0),
            },
            "base": {
                "retrieval/seen": retrieval(5.0),
                "retrieval/unseen style": retrieval(4.0),
                "winoground/seen": winoground(10.0, Object=10.0, Relation=9.0),
                "generation": {"question_accuracy": score(91.0)},
            },
            "fine-tuned": {
                "retrieval/seen": retrieval(70.0),
                "retrieval/unseen style": retrieval(52.0),
                "winoground/seen": winoground(60.0, Object=70.0, Relation=50.0),
                "generation": {"question_accuracy": score(89.0)},
            },
        }
    }


def printed(table, width=80):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(table)
    return console.file.getvalue()


def by_name(results):
    return {(row.section, row.name): row for row in score_rows(results)}


def test_every_score_is_a_named_row(results):
    rows = by_name(results)
    assert rows["Retrieval, seen", "text → image R@1"].scores["base"]["percent"] == 5.0
    assert rows["Winoground, seen", "Relation group"].scores["fine-tuned"]["percent"] == 50.0
    assert rows["Generation", "question accuracy"].scores["emoji-clip"] is None
    assert len(rows) == 2 * 4 + 3 + 2 + 1


def test_headlines_and_table_scores_are_found_in_real_results():
    one = Score(50.0, 40.0, 60.0, 50.0, 10, 0)
    retrieved = RetrievalResult({1: one, 5: one}, {1: one, 5: one}, 10, 50, n=60)
    chosen = SugarCrepeResult(dict.fromkeys(CATEGORIES, one), dict.fromkeys(("swap", "add"), one), one, one, n=70)
    rows = score_rows(
        {"models": {"base": {"retrieval/seen": retrieved.as_dict(), "sugarcrepe/seen": chosen.as_dict()}}}
    )
    levels = {row.name: row.level for row in rows}
    assert [name for name, level in levels.items() if level == 0] == ["image → text R@1", "text → image R@1", "macro"]
    assert [name for name, level in levels.items() if level == 1] == ["swap", "add", "micro"]
    assert {"image → text R@5", "replace obj"} <= set(levels)


def test_retrieval_is_shown_with_the_size_of_its_gallery(results):
    for sections in results["models"].values():
        if "retrieval/seen" in sections:
            sections["retrieval/seen"] |= {"n_images": 500, "n_captions": 1500}
    gallery = "Retrieval, seen, 500 images and 1,500 captions"
    assert by_name(results)["Retrieval, seen", "text → image R@1"].heading == gallery
    assert by_name(results)["Winoground, seen", "group"].heading == "Winoground, seen"
    assert f"| {gallery}: text → image R@1 |" in markdown_table(results)
    assert gallery in printed(comparison_table(results), width=120)


def test_a_score_that_is_not_a_number_counts_as_missing(results):
    results["models"]["base"]["generation"]["question_accuracy"]["percent"] = float("nan")
    assert by_name(results)["Generation", "question accuracy"].scores["base"] is None


def test_only_headlines_reach_the_figure(results):
    assert list(figure_table(results)) == [
        "Retrieval, seen\nimage → text R@1",
        "Retrieval, seen\ntext → image R@1",
        "Retrieval, unseen style\nimage → text R@1",
        "Retrieval, unseen style\ntext → image R@1",
        "Winoground, seen\ngroup",
        "Generation\nquestion accuracy",
    ]


def test_the_number_of_skipped_cases_is_shown(results):
    results["models"]["base"]["winoground/seen"]["skipped"] = ["line 3: gone", "line 7: gone"]
    row = by_name(results)["Winoground, seen", "group"]
    assert row.skipped == 2 and row.n_text == "100, 2 left out"
    assert by_name(results)["Retrieval, seen", "text → image R@1"].n_text == "500"
    assert "| 100, 2 left out |" in markdown_table(results)
    assert "100, 2 left out" in printed(comparison_table(results), width=120)


def test_the_main_scores_of_all_benchmarks_are_in_the_tables():
    one = score(50.0)
    sections = {
        "sugarcrepe_pp": {"itt": {"swap_obj": one, "macro": one}, "tot": {"macro": one}},
        "word_order": {
            "accuracy": {"relation": one},
            "macro": {"relation": one},
            "breakdown": {"relation": {"on": one}},
        },
        "classification": {"accuracy": {"top-1": one}, "mean_per_class": one, "per_class": {"dog": one}},
        "coco": {"text_to_image": {"R@1": one}},
    }
    levels = {(row.section, row.name): row.level for row in score_rows({"models": {"base": sections}})}
    assert levels == {
        ("SugarCrepe++", "itt swap obj"): 2,
        ("SugarCrepe++", "itt macro"): 1,
        ("SugarCrepe++", "tot macro"): 1,
        ("Word order", "accuracy relation"): 1,
        ("Word order", "macro relation"): 1,
        ("Word order", "relation on"): 2,
        ("Zero-shot classification", "accuracy top-1"): 1,
        ("Zero-shot classification", "mean per class"): 1,
        ("Zero-shot classification", "per class dog"): 2,
        ("COCO", "text → image R@1"): 0,
    }


def test_two_scores_differ_only_if_their_intervals_do_not_overlap():
    assert compare_intervals(score(60), score(40)) == "above"
    assert compare_intervals(score(40), score(60)) == "below"
    assert compare_intervals(score(52), score(50)) == "level"
    assert compare_intervals({"percent": 99}, score(1)) == "level"


def test_the_winner_is_clear_of_all_others(results):
    rows = by_name(results)
    assert rows["Retrieval, seen", "text → image R@1"].clear_winner == "fine-tuned"
    assert rows["Retrieval, unseen style", "text → image R@1"].clear_winner is None
    assert rows["Generation", "question accuracy"].clear_winner is None


def test_the_terminal_table_fits_80_columns_and_shows_dashes(results):
    text = printed(comparison_table(results))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert re.search(r"text → image R@1 +54.0 \[50, 58\] +5.0 \[1, 9\] +70.0 \[66, 74\] +0.2 +500", text)
    assert "question accuracy" in text and "—" in text
    assert "R@5" not in text


def test_intervals_are_rounded_outward(results):
    results["models"]["base"]["generation"]["question_accuracy"] = {"percent": 50.0, "low": 48.9, "high": 51.1}
    assert "50.0 [48, 52]" in printed(comparison_table(results))


def test_names_with_brackets_are_not_markup(results):
    results["models"] = {"[bold]": {"[red]x/[link]": {"[/]": score(50.0)}}}
    text = printed(comparison_table(results))
    assert "[bold]" in text and "[link]" in text and "[/]" in text


def test_the_markdown_table_has_one_line_per_score(results):
    table = markdown_table(results).splitlines()
    assert table[0] == "|  | emoji-clip | base | fine-tuned | chance | n |"
    cells = ("54.0 [50.0, 58.0]", "5.0 [1.0, 9.0]", "**70.0 [66.0, 74.0]**", "0.2", "500")
    assert f"| Retrieval, seen: text → image R@1 | {' | '.join(cells)} |" in table
    assert "| Generation: question accuracy | — | 91.0 [87.0, 95.0] | 89.0 [85.0, 93.0] | — | 100 |" in table
    assert {row.count("|") for row in table} == {7}


def test_a_pipe_in_a_model_name_is_escaped():
    table = markdown_table({"models": {"a|b": {"retrieval": {"R@1": score(50.0)}}}})
    assert r"| a\|b |" in table


def test_the_summary_prefers_the_unseen_style_and_says_clearly_only_if_it_is(results):
    first, second = summary_sentences(results)
    assert first == (
        "Given a caption (Retrieval, unseen style), fine-tuned ranks the right image first in 52.0 % of cases, "
        "clearly more than base (4.0 %) and chance (0.2 %), not clearly different from emoji-clip (50.0 %)."
    )
    assert second == (
        "Given two images and two captions of the same words (Winoground, seen), fine-tuned matches all of them in "
        "60.0 % of cases, clearly more than emoji-clip (20.0 %), base (10.0 %) and chance (16.7 %); its weakest "
        "category is Relation with 50.0 % (there emoji-clip has 6.0 % and base has 9.0 %)."
    )


def test_the_summary_follows_the_numbers(results):
    models = results["models"]
    models["fine-tuned"], models["emoji-clip"] = models["emoji-clip"], models["fine-tuned"]
    assert "clearly less than emoji-clip (60.0 %), not clearly different from chance" in summary_sentences(results)[1]


def test_missing_scores_are_left_out_of_the_summary(results):
    del results["models"]["fine-tuned"]["winoground/seen"]
    assert len(summary_sentences(results)) == 1
    assert summary_sentences({"models": {"only": {}}}) == []


def test_a_model_without_any_score_is_all_dashes():
    rows = score_rows({"models": {"base": {"generation": {"question_accuracy": score(1.0)}}, "new": {}}})
    assert [row.scores["new"] for row in rows] == [None]


def test_results_without_models_are_refused():
    with pytest.raises(ValueError, match="hold command; models with their scores are needed"):
        score_rows({"command": "vladva demo"})


def test_markdown_rows_have_a_heading_a_rule_and_rows():
    text = markdown_rows(["model", "R@1"], iter([["base", "9.0"], ["both", "91.9"]]), "lr")
    assert text == "| model | R@1 |\n| --- | ---: |\n| base | 9.0 |\n| both | 91.9 |\n"
    assert markdown_rows(["", "n"], [], "rl") == "|  | n |\n| ---: | --- |\n"


def test_markdown_cells_are_escaped():
    assert markdown_rows(["a|b"], [["two\nlines"]], "l") == "| a\\|b |\n| --- |\n| two lines |\n"


def test_a_markdown_row_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"row 2 has 1 cells, not 2: \['alone'\]"):
        markdown_rows(["a", "b"], [["1", "2"], ["alone"]], "lr")


def test_the_latex_table_has_one_row_per_score_and_escapes_special_signs():
    results = {
        "models": {
            "my_model & 100%": {"winoground": {"group": score(20.0, chance=25.0, n=40), "skipped": ["line 3: gone"]}},
            "tuned~{v}\\": {
                "winoground": {"group": score(60.0, chance=25.0, n=40)},
                "retrieval": {"text_to_image": {"R@1": score(9.0, chance=25.0, n=40)}},
                "generation": {"caption_truth": score(80.0)},
            },
        }
    }
    lines = latex_table(results).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrr}" and lines[-1] == r"\end{tabular}"
    assert lines[2] == (r" & my\_model \& 100\% & tuned\textasciitilde{}\{v\}\textbackslash{} & chance & $n$ \\")
    assert lines[4] == (
        r"Winoground: group & 20.0 [16.0, 24.0] & \textbf{60.0 [56.0, 64.0]} & 25.0 & 40, 1 left out \\"
    )
    assert lines[5] == r"Retrieval: text $\to$ image R@1 & --- & 9.0 [5.0, 13.0] & 25.0 & 40 \\"
    assert lines[6] == r"Generation: caption truth & --- & 80.0 [76.0, 84.0] & --- & 100 \\"

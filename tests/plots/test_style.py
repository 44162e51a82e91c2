"""Titles, checks and files; and on every figure, no text is cut off, overlaps another or is read as a formula."""

import io
import os
from xml.etree import ElementTree

import numpy as np
import pytest
from figure_text import assert_text_is_readable
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from vladva_kit import plots
from vladva_kit.analysis import NearestTokens, ParameterCount, Piece, Projection, WordImportance
from vladva_kit.evaluation import Score
from vladva_kit.evaluation.cases import CaseScore
from vladva_kit.plots.style import check_matrix, new_figure, wrap_text
from vladva_kit.training.memory import GIB, Memory

FORMULA = r"$\x $"  # raises an error if it is parsed as a formula
LONG = "a rather long caption about a dog to the left of a cat on grass"
IMAGE = Image.new("RGB", (20, 30), "red")
MODELS = {name: Score(50.0, 40.0, 60.0, 25.0, 100, 0) for name in ("emoji-clip", "base", "fine-tuned")}
HISTORY = [
    {"step": step, "seconds": 0.5 * step, "contrastive": 4 / step, "next_token": 1 / step, "temperature": 0.07}
    | {"accuracy": 1 - 1 / step, "eval_text_to_image_r1": 40.0 if step % 20 == 0 else None}
    for step in range(1, 61)
]
POINTS = np.random.default_rng(0).normal(size=(2, 12, 2))
CASES = [CaseScore("group", str(i), f"category {i % 3}", "i", "c", "o", i - 4.5, i > 4) for i in range(10)]
CURVES = {
    "a": [{"step": [1, 2, 3], "contrastive": [3.0, 2.0, 1.0]}],
    "b": [{"step": [1, 2], "contrastive": [2.0, 0.5]}],
}
VARIANCE = {"image": np.linspace(0.1, 1, 20), "text": np.linspace(0.2, 1, 20)}
TOKENS = NearestTokens(("one", FORMULA), np.array([["one"], [FORMULA]]), np.array([[1.0], [0.4]]))
FIGURES = {
    "attention": lambda: plots.attention_overlay(IMAGE, {FORMULA: np.full((2, 2), 0.1), "after": np.eye(2) / 4}),
    "histogram": lambda: plots.pair_similarity_histogram({FORMULA: np.eye(9), "after": np.eye(9) / 2}),
    "hardest": lambda: plots.hardest_pairs(np.eye(3), [IMAGE] * 3, [FORMULA, LONG, LONG]),
    "inputs": lambda: plots.input_sequences({"image": [Piece(FORMULA, "prompt"), Piece("<image>", "image", 65)]}),
    "losses": lambda: plots.loss_curves(CURVES, FORMULA),
    "map": lambda: plots.embedding_maps({FORMULA: Projection(*POINTS, ("x", "y"))}, [IMAGE] * 12, [FORMULA, "b"] * 6),
    "margins": lambda: plots.margins_by_category({FORMULA: CASES, "b": CASES}),
    "memory": lambda: plots.memory_bars({FORMULA: Memory(4 * GIB, GIB, GIB)}, {"T4": 15, "A100": 80}),
    "models": lambda: plots.model_comparison({LONG: MODELS, "Winoground\ngroup": MODELS | {FORMULA: None}}),
    "next tokens": lambda: plots.top_next_tokens([["a", FORMULA]] * 2, [[0.9, 0.1]] * 2, [LONG, FORMULA]),
    "parts": lambda: plots.trainable_parts([ParameterCount("vision", 9), ParameterCount("llm", 9)]),
    "tokens": lambda: plots.nearest_token_bars(TOKENS),
    "training": lambda: plots.training_curve(HISTORY),
    "training, one panel": lambda: plots.training_curve([{"step": 1, "seconds": 2, "loss": 1.0}] * 60),
    "two matrices": lambda: plots.similarity_before_after(np.eye(8), np.eye(8), [IMAGE] * 8, [LONG] * 8),
    "matrix, 2": lambda: plots.similarity_matrix(np.eye(2), [IMAGE] * 2, [LONG] * 2),
    "matrix, 10": lambda: plots.similarity_matrix(-np.eye(10), [IMAGE] * 10, [LONG, FORMULA] * 5),
    "matrix, 40": lambda: plots.similarity_matrix(np.eye(40)),
    "variance": lambda: plots.variance_before_after(VARIANCE, VARIANCE),
    "words": lambda: plots.word_importance_bars(
        IMAGE, {FORMULA: WordImportance(("a", FORMULA), 0.5, np.array([0, 1]))}
    ),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_no_text_is_cut_off_or_overlaps_another(draw, monkeypatch):
    assert_text_is_readable(draw, monkeypatch)


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_every_figure_has_a_title_and_renders_outside_its_style(draw):
    figure = draw()
    assert figure.get_suptitle()
    figure.savefig(io.BytesIO(), dpi=30)  # as a notebook does, without the kit's rcParams


def test_a_figure_states_its_result_below_the_title():
    assert new_figure(6, 4, "Training", "loss 3 → 1 nats").get_suptitle() == "Training\nLoss 3 → 1 nats"
    assert new_figure(2, 2, "word " * 10).get_suptitle().count("\n") == 2


def test_the_formula_of_these_tests_fails_if_it_is_parsed():
    figure = Figure()
    figure.text(0, 0, FORMULA, parse_math=True)
    with pytest.raises(ValueError, match="Unknown symbol"):
        figure.draw_without_rendering()


def test_text_is_wrapped_and_truncated():
    assert wrap_text("one two\nthree", 20) == "one two\nthree"
    assert wrap_text("one two three four five", 9, 2) == "one two\nthree …"


def test_decimals_tell_different_values_apart():
    assert plots.decimals_needed([0.3121, 0.3118]) == 4
    assert plots.decimals_needed([0.5, 0.5]) == 2
    assert plots.decimals_needed([0.1, 0.1 + 1e-12]) == 6


def test_invalid_matrices_raise_errors():
    for scores in (np.zeros(3), np.zeros((0, 2))):
        with pytest.raises(ValueError, match="2 dimensions are needed"):
            check_matrix(scores)
    with pytest.raises(ValueError, match="NaN"):
        check_matrix(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match=r"1 images for scores of shape \(2, 3\)"):
        check_matrix(np.zeros((2, 3)), images=[IMAGE])
    with pytest.raises(ValueError, match="2 texts for scores"):
        check_matrix(np.zeros((2, 3)), texts=["a", "b"])
    with pytest.raises(ValueError, match="image i must belong to caption i"):
        check_matrix(np.zeros((2, 3)), square=True)


def test_a_figure_is_saved_as_png_and_svg_with_the_same_bytes_each_time(tmp_path):
    first = plots.save(plots.similarity_matrix(np.eye(2)), tmp_path / "v0.1")
    assert [path.name for path in first] == ["v0.1.png", "v0.1.svg"]
    assert Image.open(first[0]).format == "PNG"
    assert ElementTree.parse(first[1]).getroot().tag.endswith("svg")
    second = plots.save(plots.similarity_matrix(np.eye(2)), tmp_path / "again")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_figure_that_fails_to_render_leaves_no_file(tmp_path, monkeypatch):
    savefig = Figure.savefig

    def fail_for_svg(figure, target, format, **options):
        if format == "svg":
            raise MemoryError
        savefig(figure, target, format=format, **options)

    monkeypatch.setattr(Figure, "savefig", fail_for_svg)
    with pytest.raises(MemoryError):
        plots.save(plots.similarity_matrix(np.eye(2)), tmp_path / "figure")
    assert not os.listdir(tmp_path)


def test_control_characters_are_shown_as_escapes_and_the_svg_is_valid_xml(tmp_path):
    figure = new_figure(4, 3, "bell \x07, escape \x1b[31m", "half \ud800")
    axes = figure.subplots()
    axes.set_yticks([0], ["back\x08space"])
    axes.text(0.5, 0.5, "tab\x0b\ufffe", gid="text")
    _, svg = plots.save(figure, tmp_path / "figure")
    ElementTree.parse(svg)
    shown = " ".join(text.get_text() for text in figure.findobj(Text))
    for escape in (r"\x07", r"\x1b[31m", r"\ud800", r"back\x08space", r"tab\x0b\ufffe"):
        assert escape in shown

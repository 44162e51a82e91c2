"""Training curves and memory bars show the numbers that they are given."""

import numpy as np
import pytest

from vladva_kit import plots
from vladva_kit.training.memory import GIB, Memory


def history(n=60):
    return [
        {
            "step": step,
            "seconds": 0.5 * step,
            "loss": 5 / step,
            "contrastive": 4 / step,
            "next_token": 1 / step,
            "accuracy": 1 - 1 / step,
            "temperature": 0.07,
            **({"eval_text_to_image_r1": 40.0} if step % 20 == 0 else {}),
        }
        for step in range(1, n + 1)
    ]


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_steps_have_integer_ticks():
    for axes in plots.training_curve(history(2)).axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_panels_are_labeled_and_the_duration_is_given():
    figure = plots.training_curve(history())
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss (nats)", "top-1 accuracy (%)", "temperature"]
    assert "training step (30 s in total)" in figure.get_supxlabel()
    assert list(lines(figure.axes[0])) == ["contrastive", "next token"]


def test_the_title_states_the_change_of_loss_and_recall():
    first, last = (np.mean([4 / step for step in steps]) for steps in (range(1, 5), range(57, 61)))
    title = plots.training_curve(history(), title="60 steps").get_suptitle()
    assert title == f"60 steps\nContrastive loss {first:.3g} → {last:.3g} nats, validation recall 40 %"
    assert plots.training_curve([{"step": 1, "temperature": 0.07}]).get_suptitle() == "Training"


def test_accuracy_is_in_percent_and_validation_appears_only_where_measured():
    axes = plots.training_curve(history(5) + [{"step": 6, "eval_text_to_image_r1": 40.0}]).axes[1]
    curves = lines(axes)
    np.testing.assert_allclose(curves["in batch"].get_ydata(), 100 * (1 - 1 / np.arange(1, 6)))
    assert [*curves["validation"].get_xdata(), *curves["validation"].get_ydata()] == [6, 40]


def test_a_noisy_curve_is_drawn_with_its_running_mean():
    entries = history(60)
    axes = plots.training_curve(entries).axes[0]
    raw, mean = axes.lines[0].get_ydata(), axes.lines[1].get_ydata()
    np.testing.assert_allclose(raw, [entry["contrastive"] for entry in entries])
    assert len(mean) == len(raw)
    np.testing.assert_allclose(mean[30], raw[28:32].mean())  # 60 // 15 = 4 steps, two of them earlier


def test_the_total_loss_is_drawn_if_its_parts_are_missing():
    figure = plots.training_curve([{"step": step, "loss": 1.0} for step in range(3)])
    assert [list(lines(axes)) for axes in figure.axes] == [["total"]]


@pytest.mark.parametrize("empty", [[], [{"step": 1}], [{"loss": 1.0}]])
def test_a_history_without_values_raises_an_error(empty):
    with pytest.raises(ValueError, match="give what vk.fit returns"):
        plots.training_curve(empty)


def test_loss_curves_have_a_line_per_seed_and_state_the_final_loss():
    runs = [{"step": [1, 2], "contrastive": [3.0, last]} for last in (1.0, 2.0)]
    figure = plots.loss_curves({"+ both": runs, "base": runs[:1]}, "Loss")
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[3, 1], [3, 2], [3, 1]]
    assert list(lines(figure.axes[0])) == ["+ both", "base"]
    assert figure.get_suptitle() == "Loss\nFinal loss in nats: + both 1.5, base 1"


def test_memory_bars_are_stacked_up_to_the_total_with_overhead():
    memory = Memory(4 * GIB, GIB, 2 * GIB)
    figure = plots.memory_bars({"a": memory, "b": memory}, {"T4": 15, "small": 5})
    axes = figure.axes[0]
    ends = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches[::2]]
    assert ends[:3] == [(0, 4), (4, 5), (5, 7)]
    assert ends[3] == pytest.approx((7, 7 * 1.1 + 0.6))  # the overheads of the allocator and of CUDA
    assert axes.lines[0].get_xdata() == [15, 15] and axes.get_xlim()[1] > 15
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    assert figure.get_suptitle().endswith("T4: 2 of 2 fit; small: 0 of 2 fit")
    with pytest.raises(ValueError, match="no memory"):
        plots.memory_bars({}, {})


def test_validation_curves_show_each_run_and_the_reference_lines(texts_of):
    twins = [{"step": 0, "eval_group": 10.0}, {"step": 1, "loss": 1.0}, {"step": 5, "eval_group": 80.0}]
    random = [{"step": 0, "eval_group": 10.0}, {"step": 5, "eval_group": 20.0}]
    figure = plots.validation_curves(
        {"twins": twins, "random": random}, {"group": "group score (%)"}, {"group": {"chance": 16.7}}
    )
    (axes,) = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["twins"] == [[0, 10], [5, 80]] and drawn["random"] == [[0, 10], [5, 20]]
    assert any(list(line.get_ydata()) == [16.7, 16.7] for line in axes.lines)
    assert "Group score (%) at the end: twins 80, random 20" in " ".join(texts_of(figure))


def test_a_validation_metric_that_no_run_has_is_an_error():
    with pytest.raises(ValueError, match="'recall'"):
        plots.validation_curves({"a": [{"step": 1, "eval_group": 3.0}]}, {"recall": "R@1"})


def test_validation_curves_also_show_metrics_of_the_steps_and_wrap_four_panels_into_two_rows():
    run = [{"step": 1, "accuracy": 0.5}, {"step": 2, "accuracy": 1.0, "eval_group": 3.0}]
    names = {"accuracy": "in batch (%)", "group": "group (%)"}
    accuracy, group = plots.validation_curves({"a": run}, names).axes
    assert accuracy.lines[0].get_xydata().tolist() == [[1, 50], [2, 100]]
    assert group.lines[0].get_xydata().tolist() == [[2, 3]]
    rows = [{"step": 1, **{f"eval_{name}": 1.0 for name in "abcd"}}]
    figure = plots.validation_curves({"a": rows}, dict(zip("abcd", "abcd", strict=True)))
    assert {axes.get_subplotspec().get_gridspec().get_geometry() for axes in figure.axes} == {(2, 2)}


def test_the_recorded_collapse_has_both_runs_and_draws():
    recorded = plots.recorded_collapse()
    assert list(recorded.curves) == list(recorded.recall) == ["short captions", "long captions"]
    assert len(plots.loss_curves(recorded.curves).axes[0].lines) == sum(map(len, recorded.curves.values()))


def test_a_missing_recording_names_the_file_and_the_fix(monkeypatch):
    monkeypatch.setattr("vladva_kit.plots.recorded.COLLAPSE", "elsewhere.json")
    with pytest.raises(FileNotFoundError, match="elsewhere.json is missing: reinstall vladva_kit"):
        plots.recorded_collapse()


def test_the_base_is_a_dashed_line_in_the_panel_of_its_metric():
    steps = [{"step": step, "loss": 1.0, "accuracy": 0.5} for step in (1, 2)]
    recall = [{"step": 2, "eval_text_to_image_r1": 90.0, "eval_mean_r1": 80.0}]
    axes = plots.training_curve(steps + recall, base={"mean_r1": 70.0, "text_to_image_r1": 72.0}).axes[1]
    curve, line = axes.lines[1:]
    assert (line.get_linestyle(), list(line.get_ydata())) == ("--", [72.0, 72.0]) and curve.get_linestyle() == "-"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["in batch", "validation", "base"]
    before = plots.training_curve(steps, base={"text_to_image_r1": 72.0}).axes[1]  # not validated yet
    assert [list(line.get_ydata()) for line in before.lines[1:]] == [[72.0, 72.0]]
    score = [{"step": 2, "eval_score": 5.0}]
    panel = plots.training_curve(steps + score, base={"score": 4.0, "other": 1.0}).axes[-1]
    assert panel.get_ylabel() == "validation: score"
    assert [list(line.get_ydata()) for line in panel.lines] == [[5.0], [4.0, 4.0]]

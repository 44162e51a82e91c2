"""Measures reproduce the scores and intervals of the evaluations they come from."""

import pytest

import vladva_kit as vk
from experiments.paper.measures import measures_of
from experiments.paper.statistics import estimate
from vladva_kit.cli.demo import evaluate_all


def test_measures_give_the_scores_of_the_evaluations(small_world):
    results = evaluate_all(vk.ClipEmbedder("emoji-clip"), generation=False, log=lambda _: None)
    record = {"measures": {name: vars(measure) for name, measure in measures_of(results).items()}}
    for style in ("seen", "unseen style"):
        retrieval, sugarcrepe, winoground = (
            results[f"{name}/{style}"] for name in ("retrieval", "sugarcrepe", "winoground")
        )
        scores = {
            f"retrieval/{style}/image_to_text": retrieval.image_to_text[1],
            f"retrieval/{style}/text_to_image": retrieval.text_to_image[1],
            f"winoground/{style}/group": winoground.group,
            f"sugarcrepe/{style}/swap_obj": sugarcrepe.categories["swap_obj"],
        }
        for name, score in scores.items():
            estimated = estimate([record], (name,))
            assert (estimated.percent, estimated.chance, estimated.n, estimated.ties) == pytest.approx(
                (score.percent, score.chance, score.n, score.ties)
            )
        estimated = estimate([record], (f"retrieval/{style}/text_to_image",))
        assert (estimated.low, estimated.high) == (retrieval.text_to_image[1].low, retrieval.text_to_image[1].high)
        swaps = estimate([record], tuple(f"sugarcrepe/{style}/swap_{kind}" for kind in ("obj", "att")))
        swap = sugarcrepe.groups["swap"]
        assert (swaps.percent, swaps.low, swaps.high) == pytest.approx((swap.percent, swap.low, swap.high))


def test_unknown_result_is_an_error():
    with pytest.raises(TypeError, match="winoground/seen is of type dict"):
        measures_of({"winoground/seen": {}})

"""The bits are the evaluations' own: their means are the percentages."""

import pytest

import vladva_kit as vk
from experiments.paper import estimate, measures_of
from vladva_kit.cli.demo import judge


def test_bits_give_the_evaluations_figures_and_intervals(small_world):
    clip = vk.ClipEmbedder("emoji-clip")
    judged = judge(clip, talk=False, say=lambda _: None)
    cell = {"measures": {name: vars(measure) for name, measure in measures_of(judged).items()}}
    for style in ("seen", "unseen style"):
        retrieval, crepe, ground = (judged[f"{kind}/{style}"] for kind in ("retrieval", "sugarcrepe", "winoground"))
        scores = {
            f"retrieval/{style}/image_to_text": retrieval.image_to_text[1],
            f"retrieval/{style}/text_to_image": retrieval.text_to_image[1],
            f"winoground/{style}/group": ground.group,
            f"sugarcrepe/{style}/swap_obj": crepe.categories["swap_obj"],
        }
        for name, score in scores.items():
            found = estimate([cell], (name,))
            assert (found.mean, found.chance, found.n, found.ties) == pytest.approx(
                (score.percent, score.chance, score.n, score.ties)
            )
        found = estimate([cell], (f"retrieval/{style}/text_to_image",))
        assert (found.low, found.high) == (retrieval.text_to_image[1].low, retrieval.text_to_image[1].high)
        swaps = estimate([cell], tuple(f"sugarcrepe/{style}/swap_{kind}" for kind in ("obj", "att")))
        assert swaps.mean == pytest.approx(crepe.groups["swap"].percent)


def test_a_result_that_is_none_is_refused():
    with pytest.raises(TypeError, match="winoground/seen is of type dict"):
        measures_of({"winoground/seen": {}})

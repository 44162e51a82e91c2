"""Static views of benchmark cases: two images and two captions, or an image with a true and a false caption."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vladva_kit.models.images import ImageLike
from vladva_kit.plots.evaluation import check_case, winoground_correct
from vladva_kit.widgets.page import View, page

WORDS = {"obj": "object", "att": "attribute", "rel": "relation"}  # abbreviations in SugarCrepe's categories
Grid = Sequence[Sequence[float]]  # similarities [image][caption]


@dataclass(frozen=True)
class ProbeCase:
    """A case of the playground's probe: its captions, and one image for the first of them, or one for each."""

    id: str
    category: str
    captions: tuple[str, str]
    images: tuple[Any, ...]


def category_label(category: str) -> str:
    """Spell out a category of SugarCrepe: `category_label("replace_obj") == "replace object"`."""
    return " ".join(WORDS.get(word, word) for word in category.split("_"))


def is_right(grid: Grid) -> bool:
    """Apply Winoground's group rule, or SugarCrepe's rule to a single image: `is_right([[0.9, 0.1]])`."""
    return bool(winoground_correct(np.asarray(grid))["group"] if len(grid) == 2 else grid[0][0] > grid[0][1])


def case_view(images: Sequence[ImageLike], captions: Sequence[str], scores: Mapping[str, Grid], *texts: Any) -> View:
    """Show a case of two images or of one: `case_view(case.images, case.captions, {"base": grid})`."""
    if len(images) == 2:
        return winoground_view(images, captions, scores, *texts)
    return sugarcrepe_view(images[0], captions, {name: grid[0] for name, grid in scores.items()}, *texts)


def winoground_view(
    images: Sequence[ImageLike],
    captions: Sequence[str],
    scores: Mapping[str, Grid],
    heading: str = "",
    unseen: Collection[str] = (),
) -> View:
    """Show one case with each model's scores: `winoground_view(case.images, case.captions, {"base": grid})`.

    `scores[model][i][c]` is the similarity of image i with caption c; without scores, only the case is shown.
    Raises ValueError unless there are two images, two captions and a (2, 2) grid for each model.
    """
    # captions as rows, images as columns
    grids = [
        {"model": model, "rows": grid.T.tolist(), "verdict": winoground_correct(grid)}
        for model, grid in check_case(images, captions, scores).items()
    ]
    return page("winoground_view", heading=heading, images=images, captions=captions, grids=grids, unseen=unseen)


def sugarcrepe_view(
    image: ImageLike,
    captions: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    heading: str = "",
    unseen: Collection[str] = (),
) -> View:
    """Show one case with each model's scores: `sugarcrepe_view(case.image, (true, false), {"base": (0.71, 0.69)})`.

    `scores[model]` is the similarity of the image with the true and with the false caption; without scores, only the
    case is shown. Raises ValueError unless there are two captions and two scores for each model.
    """
    if len(captions) != 2 or any(len(pair) != 2 for pair in scores.values()):
        raise ValueError(
            f"{len(captions)} captions, scores {dict(scores)}; a case is a true and a false caption, and each model's "
            "similarity with both"
        )
    rows = [
        # the difference of the numbers as shown, so that the table adds up
        {"model": model, "pair": (true, false), "margin": round(true, 2) - round(false, 2), "right": true > false}
        for model, (true, false) in scores.items()
    ]
    return page("sugarcrepe_view", heading=heading, image=image, captions=captions, rows=rows, unseen=unseen)

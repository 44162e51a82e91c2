"""Re-rank the best hits of a search by likelihood: embed millions of images, and ask the LVLM about ten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.likelihood import LikelihoodScorer
from vladva_kit.evaluation.encoding import PairScorer
from vladva_kit.models.images import ImageLike
from vladva_kit.models.load import LVLM

if TYPE_CHECKING:
    from PIL import Image

Hits = Sequence[tuple[float, str]]  # (score, image name), best first, as `search` returns them


def rerank(
    embedder: Embedder | LVLM,
    query: str,
    hits: Hits,
    images: Mapping[str, ImageLike] | None = None,
    scorer: PairScorer | None = None,
) -> list[tuple[float, str]]:
    """Order hits by the query's likelihood given each image: [(log-probability, name), …], best first.

        hits = search("runs/photos", embedder.encode_text(["a dog left of a cat"]), k=10)[0]
        rerank(embedder, "a dog left of a cat", hits)

    images: the image of each name; without it, names are paths. scorer: by default the likelihood under the base model,
    with the adapter off. A score that is NaN ranks last, in the order of the hits (LamRA: Liu et al. 2024, 2412.01720).
    Raises ValueError for an empty query, BadInput for an unreadable image, KeyError for a name that `images` lacks.
    """
    if not hits:
        return []
    scorer = scorer or LikelihoodScorer(embedder.lvlm if isinstance(embedder, Embedder) else embedder)
    names = [name for _, name in hits]
    missing = [name for name in names if images is not None and name not in images]
    if missing:
        raise KeyError(f"images lack {missing[0]!r}, which is a hit: pass the images that were embedded")
    opened = [name if images is None else images[name] for name in names]
    scores = [float(score) for score in scorer.score_pairs(cast("list[Image.Image]", opened), [query] * len(opened))]
    scored = zip(scores, names, strict=True)
    return sorted(scored, key=lambda hit: (math.isnan(hit[0]), -hit[0] if hit[0] == hit[0] else 0.0))

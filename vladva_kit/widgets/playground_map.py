"""The playground's map: embeddings of several models in two dimensions, turned onto each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vladva_kit.analysis.space import Projection, project_2d
from vladva_kit.data.pairs import Pair
from vladva_kit.models.images import BadInput
from vladva_kit.widgets.cached_embedder import Cached, CachedEmbedder
from vladva_kit.widgets.playground_answers import ask_each, packed

STEP = 64  # pairs that one message encodes, so that others are answered meanwhile
Vectors = tuple[np.ndarray, np.ndarray]  # embeddings (n, dim) of images and of their captions


def project_models(vectors: Sequence[Vectors], method: str = "PCA", gap: bool = False) -> list[Projection]:
    """Project each model's embeddings, and rotate each map onto the first: `project_models([before, after])`.

    Without `gap`, the mean of the images and that of the captions are subtracted first. That offset is the same for all
    images, so it changes no ranking, and it fills the map's first axis (Liang et al. 2022, arXiv 2203.02053).
    Raises what `project_2d` raises.
    """
    maps: list[Projection] = []
    for images, texts in vectors:
        if not gap:
            images, texts = images - images.mean(0), texts - texts.mean(0)
        found = project_2d(images, texts, method)
        maps.append(align(found, maps[0]) if maps else found)
    return maps


def align(projection: Projection, reference: Projection) -> Projection:
    """Rotate or mirror a map so that its points lie close to a reference's: `align(after, before).images`.

    Distances within the map do not change (orthogonal Procrustes: Schönemann 1966). The axes lose their meaning.
    """
    points, wanted = (np.concatenate([one.images, one.texts]) for one in (projection, reference))
    center = points.mean(0)
    left, _, right = np.linalg.svd((points - center).T @ (wanted - wanted.mean(0)))
    turned = (points - center) @ left @ right + wanted.mean(0)
    n = len(projection.images)
    return Projection(turned[:n], turned[n:], (f"{projection.axes[0]}, rotated", f"{projection.axes[1]}, rotated"))


class PairMap:
    """The maps of several models of one list of pairs, computed when the page asks: `PairMap(models, pairs)`."""

    def __init__(self, models: Mapping[str, Cached], pairs: Sequence[Pair]) -> None:
        self.models, self.pairs = models, pairs
        self.maps: dict[str, list[Projection | None]] = {}  # method and gap -> the last maps

    def answer(self, start: int, method: str, gap: bool) -> dict[str, Any]:
        """Encode the next pairs, or return all maps once these are encoded: `answer(0, "PCA", False)["next"]`."""
        end = start + STEP
        if end < len(self.pairs):
            _, notes = ask_each(self.models, lambda model: _vectors(model, self.pairs[start:end]))
            return {"next": end, "notes": notes}
        found, notes = ask_each(self.models, lambda model: _vectors(model, self.pairs))
        made = iter(project_models([one for one in found if one is not None], method, gap))
        key = f"{method} {json.dumps(gap)}"
        self.maps[key] = [None if one is None else next(made) for one in found]
        return {"maps": self.packed()[key], "notes": notes}

    def packed(self) -> dict[str, list[dict[str, str] | None]]:
        """Return the computed maps as JSON values: `packed()["PCA false"][0]["images"]`."""
        return {
            key: [{"images": packed(one.images), "texts": packed(one.texts)} if one else None for one in maps]
            for key, maps in self.maps.items()
        }

    def frame(self, name: str, selection: Sequence[int]) -> Any:
        """Return a model's map as a DataFrame with a row per point: `frame("base", [0, 2])`.

        Columns: pair, kind ("image" or "caption"), caption, x, y, selected. Raises KeyError for an unknown model,
        ValueError if it fails, and ImportError if pandas is not installed.
        """
        if name not in self.models:
            raise KeyError(f"{name!r} is no model of this page; choose from {', '.join(self.models)}")
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_frame() needs pandas: pip install pandas") from error
        notes = self.answer(len(self.pairs), "PCA", False)["notes"]
        points = self.maps["PCA false"][list(self.models).index(name)]
        if points is None:
            raise ValueError(f"{name} has no map: {' '.join(notes)}")
        captions, both = [str(pair.short) for pair in self.pairs], np.concatenate([points.images, points.texts])
        pairs = np.tile(np.arange(len(captions)), 2)
        columns = {"pair": pairs, "kind": ["image"] * len(captions) + ["caption"] * len(captions)}
        columns |= {"caption": captions * 2, "x": both[:, 0], "y": both[:, 1]}
        return pandas.DataFrame(columns | {"selected": np.isin(pairs, list(selection))})


def _vectors(model: CachedEmbedder, pairs: Sequence[Pair]) -> Vectors:
    found = model.encode_image([pair.image for pair in pairs]), model.encode_text([str(pair.short) for pair in pairs])
    if not all(np.isfinite(one).all() for one in found):
        raise BadInput("an embedding is not a number; look for NaN in its weights or use float32")
    return found

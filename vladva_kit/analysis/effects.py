"""Split Winoground's four similarities into main effects and an interaction, which shows why a model fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class WinogroundEffects:
    """Effects of each case, (n,) each, in units of similarity. A case is right if interaction > |image| and |caption|.

    image: half the difference between the images, averaged over the captions; caption: the same between the captions;
    interaction: half the difference between the mean of the two true pairs and that of the two false ones. A model
    that ignores word order gives both captions the same embedding, so its interaction is 0 whatever the images are.
    """

    image: np.ndarray
    caption: np.ndarray
    interaction: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Which cases the group score counts as right: (n,) bool."""
        return self.interaction > np.maximum(abs(self.image), abs(self.caption))

    def means(self) -> dict[str, float]:
        """Return the mean absolute main effects and the mean interaction: `effects.means()["interaction"]`."""
        return {
            "image": float(abs(self.image).mean()),
            "caption": float(abs(self.caption).mean()),
            "interaction": float(self.interaction.mean()),
        }


def winoground_effects(similarities: Sequence[Any] | np.ndarray) -> WinogroundEffects:
    """Split similarities (n, 2 images, 2 captions) into main effects and interaction, as in a two-way design.

        result = vk.evaluate_winoground(embedder, vk.sample("winoground_mini"))
        winoground_effects([case.similarities for case in result.cases]).means()

    similarity[i, c] = mean ± image ± caption ± interaction. Raises ValueError for another shape.
    """
    scores = np.asarray(similarities, dtype=float)
    if scores.ndim != 3 or scores.shape[1:] != (2, 2):
        raise ValueError(f"similarities have shape {scores.shape}; give (cases, 2 images, 2 captions)")
    (s00, s01), (s10, s11) = scores[:, 0].T, scores[:, 1].T
    return WinogroundEffects(
        image=(s00 + s01 - s10 - s11) / 4,
        caption=(s00 + s10 - s01 - s11) / 4,
        interaction=(s00 + s11 - s01 - s10) / 4,
    )


def twin_loss(similarities: Sequence[Any] | np.ndarray, temperature: float = 0.07) -> np.ndarray:
    """Compute the contrastive loss of each case as a batch of two pairs, in nats: (n,).

        twin_loss([case.similarities for case in result.cases]).mean()

    A model that embeds both captions alike cannot go below ln 2 = 0.69, however long it is trained: its loss is
    ln 2 from image to text and at least ln 2 from text to image.
    """
    logits = np.asarray(similarities, dtype=float) / temperature
    own = logits[:, [0, 1], [0, 1]]  # (n, 2)
    by_image, by_text = (np.logaddexp.reduce(logits, axis=axis) for axis in (2, 1))
    return (by_image + by_text - 2 * own).mean(axis=1) / 2

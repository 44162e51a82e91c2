"""What happens inside a cell's model: its summary tokens and the space that they make, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vladva_kit.analysis import modality_gap, nearest_words, read_images, read_texts, spectrum
from vladva_kit.data.pairs import Pair
from vladva_kit.embedder.embedder import Embedder

COMPONENTS = 64  # of the cumulative variance that are kept


def inside(embedder: Embedder, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Entropy, likeliest words, attention, spectrum, modality gap and soft prompt on these pairs, for JSON.

        inside(embedder, load_pairs(sample("emoji_pairs"), "test")[:200])["entropy"]["image"]

    One forward a picture and one a caption give all of it; attention is averaged over the pictures.
    """
    images = read_images(embedder, [pair.load_image() for pair in pairs], attention=True)
    texts = read_texts(embedder, [pair.short for pair in pairs])
    sides = {"image": images, "text": texts}
    spectra = {side: spectrum(reading.embeddings) for side, reading in sides.items()}
    return {
        "n": len(pairs),
        "entropy": {side: reading.entropy for side, reading in sides.items()},
        "words": {side: _commonest(reading.words) for side, reading in sides.items()},
        "mass": images.mass.mean(0),
        "density": images.density.mean(0),
        "density_by_picture": images.density.mean((1, 2)),
        "maps": images.maps.mean((0, 2)),  # (layers, side, side)
        "effective_rank": {side: found.effective_rank for side, found in spectra.items()},
        "cumulative": {side: found.cumulative[:COMPONENTS] for side, found in spectra.items()},
        "modality_gap": modality_gap(images.embeddings, texts.embeddings).distance,
        "prompt": {side: _read_prompt(embedder, side) for side in sides},
    }


def _commonest(words: np.ndarray, k: int = 10) -> dict[str, int]:
    """How many rows of (n, 10) words hold each of the `k` commonest among the ten that they would say."""
    return dict(Counter(words.ravel().tolist()).most_common(k))


def _read_prompt(embedder: Embedder, side: str) -> dict[str, Any]:
    found = nearest_words(embedder, side, k=1)
    return {
        "hand_written": list(found.hand_written),
        "nearest": found.words[:, 0].tolist(),
        "cosine": found.cosines[:, 0],
        "unchanged": found.unchanged,
    }

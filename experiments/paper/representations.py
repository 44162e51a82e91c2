"""Probe a model's summary tokens and embedding space; the values are plain, for a run's record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from vladva_kit.analysis import modality_gap, nearest_tokens, probe_images, probe_texts, spectrum
from vladva_kit.data.pairs import Pair
from vladva_kit.embedder.embedder import Embedder

N_COMPONENTS = 64  # principal components whose cumulative variance is stored
N_WORDS = 10


def probe_representations(embedder: Embedder, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return entropy, likeliest words, attention, spectrum, modality gap and soft prompt, measured on these pairs.

        probe_representations(embedder, load_pairs(sample("emoji_pairs"), "test")[:200])["entropy"]["image"]

    Takes one forward pass per image and one per caption. `attention_mass` and `attention_density` are (layers, heads),
    `attention_maps` (layers, side, side), all averaged over the images.
    """
    images = probe_images(embedder, [pair.load_image() for pair in pairs], attention=True)
    texts = probe_texts(embedder, [pair.short for pair in pairs])
    probes = {"image": images, "text": texts}
    spectra = {side: spectrum(probe.embeddings) for side, probe in probes.items()}
    words = {side: Counter(probe.tokens.ravel().tolist()).most_common(N_WORDS) for side, probe in probes.items()}
    prompts = {side: nearest_tokens(embedder, side, k=1) for side in probes}
    return {
        "n": len(pairs),
        "entropy": {side: probe.entropy for side, probe in probes.items()},
        "top_words": {side: dict(counts) for side, counts in words.items()},
        "attention_mass": images.mass.mean(0),
        "attention_density": images.density.mean(0),
        "density_per_image": images.density.mean((1, 2)),
        "attention_maps": images.maps.mean((0, 2)),
        "effective_rank": {side: values.effective_rank for side, values in spectra.items()},
        "cumulative": {side: values.cumulative[:N_COMPONENTS] for side, values in spectra.items()},
        "modality_gap": modality_gap(images.embeddings, texts.embeddings).distance,
        "prompt": {
            side: {
                "hand_written": list(nearest.hand_written),
                "nearest": nearest.tokens[:, 0].tolist(),
                "cosine": nearest.cosines[:, 0],
                "unchanged": nearest.unchanged,
            }
            for side, nearest in prompts.items()
        },
    }

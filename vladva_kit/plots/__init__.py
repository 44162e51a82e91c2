"""Figures: arrays in, a matplotlib Figure out. None is registered with pyplot, so none leaks or pops up."""

from vladva_kit.plots.attention import attention_overlay
from vladva_kit.plots.cases import hardest_pairs, margins_by_category, sugarcrepe_case, word_weights
from vladva_kit.plots.encoders import input_sequences, prompt_rows, top_next_tokens, trainable_summary
from vladva_kit.plots.figures import model_comparison, similarity_before_after, similarity_matrix, training_curve
from vladva_kit.plots.memory import memory_bars
from vladva_kit.plots.space import embedding_maps, pair_similarity_histogram
from vladva_kit.plots.style import as_png, save
from vladva_kit.plots.winoground import decimals, verdict, winoground_case

__all__ = [
    "as_png",
    "attention_overlay",
    "decimals",
    "embedding_maps",
    "hardest_pairs",
    "top_next_tokens",
    "margins_by_category",
    "memory_bars",
    "model_comparison",
    "pair_similarity_histogram",
    "prompt_rows",
    "save",
    "similarity_before_after",
    "similarity_matrix",
    "sugarcrepe_case",
    "input_sequences",
    "training_curve",
    "verdict",
    "trainable_summary",
    "winoground_case",
    "word_weights",
]

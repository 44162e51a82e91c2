"""Figures: arrays in, a matplotlib Figure out, titled with a sentence that states the result."""

from vladva_kit.plots.anatomy import input_sequences, nearest_token_bars, trainable_parts
from vladva_kit.plots.evaluation import (
    margins_by_category,
    model_comparison,
    winoground_case,
    winoground_correct,
    word_importance_bars,
)
from vladva_kit.plots.similarity import (
    hardest_pairs,
    pair_similarity_histogram,
    similarity_before_after,
    similarity_matrix,
)
from vladva_kit.plots.space import embedding_maps, variance_before_after
from vladva_kit.plots.style import as_png, decimals_needed, save
from vladva_kit.plots.summary import attention_overlay, prompt_scatter, top_next_tokens
from vladva_kit.plots.training import loss_curves, memory_bars, training_curve

__all__ = [
    "as_png",
    "attention_overlay",
    "decimals_needed",
    "embedding_maps",
    "hardest_pairs",
    "input_sequences",
    "loss_curves",
    "margins_by_category",
    "memory_bars",
    "model_comparison",
    "nearest_token_bars",
    "pair_similarity_histogram",
    "prompt_scatter",
    "save",
    "similarity_before_after",
    "similarity_matrix",
    "top_next_tokens",
    "trainable_parts",
    "training_curve",
    "variance_before_after",
    "winoground_case",
    "winoground_correct",
    "word_importance_bars",
]

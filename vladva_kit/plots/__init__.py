"""Figures: arrays in, a matplotlib Figure out, titled with a sentence that states the result."""

# ruff: noqa: F401  the imports are the public names
from vladva_kit.plots.anatomy import input_sequences, nearest_token_bars, trainable_parts
from vladva_kit.plots.evaluation import (
    margins_by_category,
    model_comparison,
    winoground_correct,
    word_importance_bars,
)
from vladva_kit.plots.recorded import recorded_collapse
from vladva_kit.plots.similarity import (
    hardest_pairs,
    pair_similarity_histogram,
    similarity_before_after,
    similarity_matrix,
)
from vladva_kit.plots.space import embedding_maps, variance_before_after
from vladva_kit.plots.style import as_png, decimals_needed, save, show_image, wrap_text
from vladva_kit.plots.summary import attention_overlay, top_next_tokens
from vladva_kit.plots.training import loss_curves, memory_bars, training_curve, validation_curves

"""Measurements inside the model, as arrays: summary-token probes, the embedding space, prompts and parameters.

probe = probe_images(embedder, images, attention=True)     # embeddings, entropy, next tokens, attention
spectrum(probe.embeddings).effective_rank
with embedder.base(): before = probe_images(embedder, images)
"""

from vladva_kit.analysis.anatomy import ParameterCount, Piece, input_pieces, parameter_counts
from vladva_kit.analysis.effects import WinogroundEffects, twin_loss, winoground_effects
from vladva_kit.analysis.order import OrderLoss, linear_map, linear_probe, order_loss
from vladva_kit.analysis.space import ModalityGap, Projection, Spectrum, modality_gap, project_2d, spectrum
from vladva_kit.analysis.summary import SummaryProbe, encoder_crop, probe_images, probe_texts
from vladva_kit.analysis.words import NearestTokens, WordImportance, nearest_tokens, word_importance

__all__ = [
    "ModalityGap",
    "NearestTokens",
    "OrderLoss",
    "ParameterCount",
    "Piece",
    "Projection",
    "Spectrum",
    "SummaryProbe",
    "WinogroundEffects",
    "WordImportance",
    "encoder_crop",
    "input_pieces",
    "linear_map",
    "linear_probe",
    "modality_gap",
    "nearest_tokens",
    "order_loss",
    "parameter_counts",
    "probe_images",
    "probe_texts",
    "project_2d",
    "spectrum",
    "twin_loss",
    "winoground_effects",
    "word_importance",
]

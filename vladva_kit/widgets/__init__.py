"""Widgets for notebooks, and for each a plain function, ending in _view, that shows the same without a front end."""

from vladva_kit.analysis.flat_map import FlatMap, flat_map
from vladva_kit.widgets.attention_view import AttentionView, attention_view
from vladva_kit.widgets.cached_embedder import CachedEmbedder, ModelBusy
from vladva_kit.widgets.chat_box import ChatBox, chat_view
from vladva_kit.widgets.embedding_map import EmbeddingMap, map_view
from vladva_kit.widgets.page import View
from vladva_kit.widgets.retrieval_box import RetrievalBox, found_captions_view, found_pictures_view
from vladva_kit.widgets.scene_composer import SceneComposer, scene_view
from vladva_kit.widgets.similarity_explorer import SimilarityExplorer, similarity_view
from vladva_kit.widgets.sugarcrepe_probe import SugarCrepeProbe, sugarcrepe_view
from vladva_kit.widgets.training_dashboard import TrainingDashboard, training_view
from vladva_kit.widgets.winoground_probe import WinogroundProbe, winoground_view

__all__ = [
    "AttentionView",
    "ChatBox",
    "EmbeddingMap",
    "FlatMap",
    "ModelBusy",
    "CachedEmbedder",
    "RetrievalBox",
    "SceneComposer",
    "SimilarityExplorer",
    "SugarCrepeProbe",
    "TrainingDashboard",
    "View",
    "WinogroundProbe",
    "attention_view",
    "chat_view",
    "flat_map",
    "found_captions_view",
    "found_pictures_view",
    "map_view",
    "scene_view",
    "similarity_view",
    "sugarcrepe_view",
    "training_view",
    "winoground_view",
]

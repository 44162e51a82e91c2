"""Notebook widgets; for each, a function whose name ends in _view returns the same view as static HTML."""

# ruff: noqa: F401  the imports are the public names
from vladva_kit.widgets.attention_view import AttentionView, attention_view
from vladva_kit.widgets.cached_embedder import CachedEmbedder, ModelBusy
from vladva_kit.widgets.case_views import sugarcrepe_view, winoground_view
from vladva_kit.widgets.chat_box import ChatBox, chat_view
from vladva_kit.widgets.embedding_map import EmbeddingMap, map_view
from vladva_kit.widgets.page import View
from vladva_kit.widgets.playground import Playground
from vladva_kit.widgets.retrieval_box import RetrievalBox, found_captions_view, found_images_view
from vladva_kit.widgets.scene_composer import SceneComposer, scene_view
from vladva_kit.widgets.similarity_explorer import SimilarityExplorer, similarity_view
from vladva_kit.widgets.single_tabs import SugarCrepeProbe, WinogroundProbe
from vladva_kit.widgets.training_dashboard import TrainingDashboard, training_view

"""Benchmarks by their authors' rules, and how far their figures can be trusted."""

from vladva_kit.evaluation.bootstrap import McNemar, Score, bootstrap_interval, mcnemar
from vladva_kit.evaluation.classification import ClassificationCase, ClassificationResult, evaluate_classification
from vladva_kit.evaluation.encoding import ImageTextEncoder
from vladva_kit.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from vladva_kit.evaluation.sugarcrepe import SugarCrepeCase, SugarCrepeResult, evaluate_sugarcrepe
from vladva_kit.evaluation.sugarcrepe_pp import SugarCrepePPCase, SugarCrepePPResult, evaluate_sugarcrepe_pp
from vladva_kit.evaluation.winoground import WinogroundCase, WinogroundResult, evaluate_winoground
from vladva_kit.evaluation.word_order import WordOrderCase, WordOrderResult, evaluate_word_order

__all__ = [
    "ClassificationCase",
    "ClassificationResult",
    "ImageTextEncoder",
    "McNemar",
    "RetrievalResult",
    "Score",
    "SugarCrepeCase",
    "SugarCrepePPCase",
    "SugarCrepePPResult",
    "SugarCrepeResult",
    "WinogroundCase",
    "WinogroundResult",
    "WordOrderCase",
    "WordOrderResult",
    "bootstrap_interval",
    "evaluate_classification",
    "evaluate_retrieval",
    "evaluate_sugarcrepe",
    "evaluate_sugarcrepe_pp",
    "evaluate_winoground",
    "evaluate_word_order",
    "mcnemar",
]

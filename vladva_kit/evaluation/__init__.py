"""Benchmarks by their official rules: Winoground, SugarCrepe, retrieval; and how far their figures can be trusted."""

from vladva_kit.evaluation.encoding import EncodesPairs
from vladva_kit.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from vladva_kit.evaluation.significance import McNemar, Score, bootstrap_interval, mcnemar
from vladva_kit.evaluation.sugarcrepe import SugarCrepeCase, SugarCrepeResult, evaluate_sugarcrepe
from vladva_kit.evaluation.winoground import WinogroundCase, WinogroundResult, evaluate_winoground

__all__ = [
    "EncodesPairs",
    "McNemar",
    "RetrievalResult",
    "Score",
    "SugarCrepeCase",
    "SugarCrepeResult",
    "WinogroundCase",
    "WinogroundResult",
    "bootstrap_interval",
    "evaluate_retrieval",
    "evaluate_sugarcrepe",
    "evaluate_winoground",
    "mcnemar",
]

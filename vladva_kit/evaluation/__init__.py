"""Evaluate encoders, scorers and generators on benchmarks, by their official rules, with confidence intervals.

An encoder has `encode_image` and `encode_text`, a scorer `score_pairs`, such as `LikelihoodScorer`; most benchmarks
take either. In every benchmark each image and caption is encoded once, comparisons are strict (a tie is wrong, and
counted), intervals are 95 % bootstrap intervals, and nothing is scored before all cases were read and checked.

The benchmarks share these options: `batch_size` inputs are processed at a time, `seed` is that of the bootstrap,
`cache` is a folder for embeddings (see `encode_once`), and `on_error="skip"` leaves bad cases out and lists them in the
result's `skipped` instead of raising BadInput. A `load_…` function appends those messages to the list `skipped`.
"""

from vladva_kit.evaluation.bootstrap import Score, bootstrap_interval, mcnemar
from vladva_kit.evaluation.classification import ClassificationResult, evaluate_classification
from vladva_kit.evaluation.encoding import ImageTextEncoder, PairScorer
from vladva_kit.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from vladva_kit.evaluation.sugarcrepe import SugarCrepeCase, SugarCrepeResult, evaluate_sugarcrepe
from vladva_kit.evaluation.sugarcrepe_pp import SugarCrepePPResult, evaluate_sugarcrepe_pp
from vladva_kit.evaluation.winoground import WinogroundCase, WinogroundResult, evaluate_winoground
from vladva_kit.evaluation.word_order import WordOrderResult, evaluate_word_order

__all__ = [
    "ClassificationResult",
    "ImageTextEncoder",
    "PairScorer",
    "RetrievalResult",
    "Score",
    "SugarCrepeCase",
    "SugarCrepePPResult",
    "SugarCrepeResult",
    "WinogroundCase",
    "WinogroundResult",
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

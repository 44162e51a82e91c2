"""What changes inside: the summary token's words and attention, the space of the embeddings, the words that count.

reading = read_images(embedder, pictures, attention=True)     # one forward: embeddings, entropy, words, attention
spectrum(reading.embeddings).effective_rank
with embedder.base(): before = read_images(embedder, pictures)
"""

from vladva_kit.analysis.anatomy import PartWeights, Piece, input_pieces, part_weights
from vladva_kit.analysis.attention import seen_part
from vladva_kit.analysis.flat_map import FlatMap, flat_map
from vladva_kit.analysis.space import ModalityGap, Spectrum, modality_gap, spectrum
from vladva_kit.analysis.summary import SummaryReading, read_images, read_texts
from vladva_kit.analysis.wording import NearestWords, WordWeights, leave_one_word_out, nearest_words

__all__ = [
    "FlatMap",
    "ModalityGap",
    "NearestWords",
    "PartWeights",
    "Piece",
    "Spectrum",
    "SummaryReading",
    "WordWeights",
    "flat_map",
    "leave_one_word_out",
    "modality_gap",
    "nearest_words",
    "part_weights",
    "read_images",
    "read_texts",
    "seen_part",
    "spectrum",
    "input_pieces",
]

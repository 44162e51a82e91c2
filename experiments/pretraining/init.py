"""Structured random initialization, so that training starts with useful attention patterns.

This follows "mimetic initialization" (arXiv 2305.09828): random weights with the structure of trained ones. After 900
steps of 16 images with oracle patches, an LLM without the heads of `init_recency_head` answered left/right questions at
chance, and 250 more steps did not help. With these heads added, 175 more steps gave 84 %.
"""

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from experiments.pretraining.tokenizer import token_ids
from vladva_kit.emoji_world.nouns import COLORS, COUNTS, GROUNDS, NOUNS, SIZES

# Initialized close to a word for the same direction in the image: what is in front is lower in the image.
NEAR_SYNONYMS = {"above": "top", "below": "bottom", "front": "bottom", "behind": "top"}
ANSWER_WORDS = (
    *("left", "right", "top", "bottom", *NEAR_SYNONYMS),
    *("natural", *COLORS, *SIZES, *COUNTS[1:], *GROUNDS, "yes", "no"),
)
RECENCY_BIAS = 2.45  # query and key bias in each of six RoPE pairs: a token scores 4.5 with itself
COPY_GAIN = 0.7  # of values and outputs each, so the square of it is copied
POSITION_AXES = (("left", "right"), ("top", "bottom"))  # the words at both ends of the columns and of the rows
POSITION_GAIN = 1.5  # magnitude of the outermost rows and columns along their axis


@torch.no_grad()
def init_word_embeddings(table: Tensor) -> None:
    """Initialize word embeddings in place, plurals close to singulars and NEAR_SYNONYMS to each other.

    table: (vocabulary, width).
    """
    width = table.shape[1]
    nn.init.normal_(table, std=width**-0.5)
    plural = torch.randn(width) * width**-0.5 / 2
    for noun in NOUNS:
        if noun.plural != noun.word:
            table[token_ids()[noun.plural]] = table[token_ids()[noun.word]] + plural
    for word, synonym in NEAR_SYNONYMS.items():
        table[token_ids()[word]] = table[token_ids()[synonym]] + torch.randn(width) * width**-0.5 / 2


@torch.no_grad()
def init_llm(llava: LlavaForConditionalGeneration) -> None:
    """Initialize the LLM's attention: half of the heads match similar tokens, a quarter attend to recent ones.

    To answer a question, its noun must attend to the patches with that noun. Similarity heads therefore have keys equal
    to queries, and copy what they attend to (outputs are the transposed values). In the fast RoPE pairs their keys are
    the negated queries, so that a token does not attend to itself. A recency head then carries the result from the noun
    to the start of the answer, a few tokens later.
    """
    table = llava.get_input_embeddings().weight
    init_word_embeddings(table)
    for layer in llava.model.language_model.layers:
        attention = layer.self_attn
        width, size = attention.q_proj.in_features, attention.head_dim
        half = attention.q_proj.out_features // 2
        for part in (attention.q_proj, attention.k_proj):
            nn.init.normal_(part.weight, std=1.25 * width**-0.5)
        # RoPE rotates dimension i together with i + size / 2; low i rotate fastest.
        fast = torch.arange(half) % (size // 2) < size // 8
        attention.k_proj.weight[:half] = attention.q_proj.weight[:half] * torch.where(fast, -1.0, 1.0)[:, None]
        nn.init.normal_(attention.v_proj.weight[:half], std=width**-0.5 / 2)
        attention.o_proj.weight[:, :half] = attention.v_proj.weight[:half].T
        init_recency_head(attention, slice(half, half + size), table)


@torch.no_grad()
def init_recency_head(attention: nn.Module, head: slice, table: Tensor) -> None:
    """Make one head attend to the last few tokens, whatever they are, and copy the ANSWER_WORDS among them."""
    pairs = slice(head.start + 2, head.start + 8)  # 0.42 to 0.05 rad per position: scores halve in about five positions
    for part in (attention.q_proj, attention.k_proj):
        part.weight[head] *= 0.2
        part.weight[pairs] = 0
        part.bias[pairs] = RECENCY_BIAS
    size = head.stop - head.start
    copied = torch.linalg.qr(table[[token_ids()[word] for word in ANSWER_WORDS]].T)[0].T  # (words, width), orthonormal
    others = torch.randn(size - len(copied), table.shape[1]) * table.shape[1] ** -0.5
    attention.v_proj.weight[head] = COPY_GAIN * torch.cat([copied, others])
    attention.o_proj.weight[:, head] = attention.v_proj.weight[head].T


def position_axes(table: Tensor) -> Tensor:
    """Return the directions from "left" to "right" and from "top" to "bottom" in word embedding space: (2, width)."""
    return torch.stack([table[token_ids()[last]] - table[token_ids()[first]] for first, last in POSITION_AXES])


@torch.no_grad()
def init_patch_positions(positions: nn.Embedding, table: Tensor) -> None:
    """Initialize rows along top–bottom and columns along left–right, plus a random part for each.

    A patch then states its position in the words of the answers.
    positions: rows, then columns.
    """
    half, width = len(positions.weight) // 2, positions.weight.shape[1]
    along = torch.linspace(-POSITION_GAIN, POSITION_GAIN, half)[:, None]
    for part, direction in zip(positions.weight.split(half), position_axes(table).flip(0), strict=True):
        part.copy_(along * direction + torch.randn(half, width) * width**-0.5 / 4)


@torch.no_grad()
def init_image_encoder(encoder: nn.Module) -> None:
    """Initialize sinusoidal positions, and attention to patches that are nearby or similar.

    Keys equal queries and outputs are the negated transposed values, so each layer first sharpens local contrast.
    """
    table = encoder.embeddings.position_embedding.weight
    grid, width = int((len(table) - 1) ** 0.5), table.shape[1]
    frequencies = 10 ** torch.linspace(0, -1.3, width // 4)
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = torch.cat([columns.reshape(-1, 1) * frequencies, rows.reshape(-1, 1) * frequencies], 1)
    table.zero_()
    table[1:] = 0.3 * torch.cat([angles.sin(), angles.cos()], 1)
    for layer in encoder.encoder.layers:
        attention = layer.self_attn
        nn.init.normal_(attention.q_proj.weight, std=width**-0.5)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        nn.init.normal_(attention.v_proj.weight, std=width**-0.5 / 2)
        attention.out_proj.weight.copy_(-attention.v_proj.weight.T)

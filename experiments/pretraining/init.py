"""Where pretraining begins: weights that already look in the right places, so that steps are spent on what to see.

After "mimetic initialization" (arXiv 2305.09828): not pretrained weights, but random ones with the structure that
trained ones have. After 900 steps of 16 told pictures without `begin_recent`'s heads the LLM was at chance on whether
one thing is to the left of another, and 250 more did not help; with them put in, 175 more took it to 84 %.
"""

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from vladva_kit.emoji_world.nouns import COLORS, COUNTS, GROUNDS, NOUNS, SIZES
from vladva_kit.emoji_world.words import ids

BESIDE = {"above": "top", "below": "bottom", "front": "bottom", "behind": "top"}  # what is in front is drawn lower
SIDES = ("left", "right", "top", "bottom", *BESIDE)
ANSWER_WORDS = (*SIDES, "natural", *COLORS, *SIZES, *COUNTS[1:], *GROUNDS, "yes", "no")
RECENT = 2.45  # bias of a query and a key in each of six turns: a score of 4.5 for the token itself
COPIED = 0.7  # its square is the part of a word that is copied
PLACE_AXES = (("left", "right"), ("top", "bottom"))  # the words from which to which columns and rows speak
PLACED = 1.5  # how loudly the outermost rows and columns say where they are


@torch.no_grad()
def begin_words(table: Tensor) -> None:
    """The LLM's words: a plural beside its singular, "above" beside "top".

    table: (vocabulary, width), written over.
    """
    width = table.shape[1]
    nn.init.normal_(table, std=width**-0.5)
    plural = torch.randn(width) * width**-0.5 / 2
    for noun in NOUNS:
        if noun.plural != noun.word:
            table[ids()[noun.plural]] = table[ids()[noun.word]] + plural
    for near, word in BESIDE.items():
        table[ids()[near]] = table[ids()[word]] + torch.randn(width) * width**-0.5 / 2


@torch.no_grad()
def begin_llm(llava: LlavaForConditionalGeneration) -> None:
    """Heads of the LLM: half look for what is like them, a quarter at the last few words; both copy what they find.

    To answer a question its noun must find the patches that say the same: keys equal queries, outputs are values'
    transposes. Its own place it should pass over: in the turns of RoPE that tell near places apart, keys are the
    queries' negatives. What the noun found is a few words back when the answer begins: a head that asks for nearness
    alone (by its biases) brings it there, and carries of it just the words that answers are made of.
    """
    table = llava.get_input_embeddings().weight
    begin_words(table)
    for layer in llava.model.language_model.layers:
        attention = layer.self_attn
        width, size = attention.q_proj.in_features, attention.head_dim
        alike = attention.q_proj.out_features // 2
        for part in (attention.q_proj, attention.k_proj):
            nn.init.normal_(part.weight, std=1.25 * width**-0.5)
        near = torch.arange(alike) % (size // 2) < size // 8  # RoPE turns row i with row i + size / 2, the first most
        attention.k_proj.weight[:alike] = attention.q_proj.weight[:alike] * torch.where(near, -1.0, 1.0)[:, None]
        nn.init.normal_(attention.v_proj.weight[:alike], std=width**-0.5 / 2)
        attention.o_proj.weight[:, :alike] = attention.v_proj.weight[:alike].T
        begin_recent(attention, slice(alike, alike + size), table)


@torch.no_grad()
def begin_recent(attention: nn.Module, head: slice, table: Tensor) -> None:
    """One head that looks at the last few tokens, whatever they are, and copies the ANSWER_WORDS in them."""
    near = slice(head.start + 2, head.start + 8)  # turns of 0.42 to 0.05 a place: the score halves in about five places
    for part in (attention.q_proj, attention.k_proj):
        part.weight[head] *= 0.2
        part.weight[near] = 0
        part.bias[near] = RECENT
    size = head.stop - head.start
    carried = torch.linalg.qr(table[[ids()[word] for word in ANSWER_WORDS]].T)[0].T  # (words, width), orthonormal
    more = torch.randn(size - len(carried), table.shape[1]) * table.shape[1] ** -0.5
    attention.v_proj.weight[head] = COPIED * torch.cat([carried, more])
    attention.o_proj.weight[:, head] = attention.v_proj.weight[head].T


def place_axes(table: Tensor) -> Tensor:
    """(2, width): from "left" to "right" and from "top" to "bottom", in the LLM's words: place_axes(table)."""
    return torch.stack([table[ids()[last]] - table[ids()[first]] for first, last in PLACE_AXES])


@torch.no_grad()
def begin_places(places: nn.Embedding, table: Tensor) -> None:
    """Rows speak from "top" to "bottom", columns from "left" to "right", and each has its own mark.

    places: rows, then columns. A thing's patches then say where it lies in the words that answers use.
    """
    half, width = len(places.weight) // 2, places.weight.shape[1]
    along = torch.linspace(-PLACED, PLACED, half)[:, None]
    for part, direction in zip(places.weight.split(half), place_axes(table).flip(0), strict=True):
        part.copy_(along * direction + torch.randn(half, width) * width**-0.5 / 4)


@torch.no_grad()
def begin_tower(tower: nn.Module) -> None:
    """The vision tower: places in sines, and patches look first at those near and like them.

    Keys equal queries, outputs are values' negative transposes: each layer begins by sharpening what stands out.
    """
    table = tower.embeddings.position_embedding.weight
    grid, width = int((len(table) - 1) ** 0.5), table.shape[1]
    turns = 10 ** torch.linspace(0, -1.3, width // 4)
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = torch.cat([columns.reshape(-1, 1) * turns, rows.reshape(-1, 1) * turns], 1)
    table.zero_()
    table[1:] = 0.3 * torch.cat([angles.sin(), angles.cos()], 1)
    for layer in tower.encoder.layers:
        attention = layer.self_attn
        nn.init.normal_(attention.q_proj.weight, std=width**-0.5)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        nn.init.normal_(attention.v_proj.weight, std=width**-0.5 / 2)
        attention.out_proj.weight.copy_(-attention.v_proj.weight.T)

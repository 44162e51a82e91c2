"""The pictures and sentences that emoji-clip and emoji-llava learn from: batch `step` of a seed is always the same."""

import itertools
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from vladva_kit.emoji_world.captions import PLURALS, long_caption, pair_caption, short_caption
from vladva_kit.emoji_world.nouns import COUNTS
from vladva_kit.emoji_world.questions import questions, sample_chat, sample_reading
from vladva_kit.emoji_world.render import place, render
from vladva_kit.emoji_world.scenes import Scene, sample_scene
from vladva_kit.emoji_world.words import (
    ASSISTANT,
    BOS,
    EOS,
    IMAGE,
    IMAGE_PROMPT,
    IMAGE_SIZE,
    IMAGE_TOKENS,
    LONG_PROMPT,
    PAD,
    PATCH_SIZE,
    PIXEL_MEAN,
    PIXEL_STD,
    REPHRASE_PROMPT,
    SHORT_PROMPT,
    TEXT_PROMPT,
    USER,
    encode,
)

GRID = IMAGE_SIZE // PATCH_SIZE
PATCH_GROUPS = ("noun", "color", "size", "count", "ground")  # what a patch learns to name
IGNORE_INDEX = -100
TEXTS = 3  # texts without a picture, for each picture: they are short

Turn = tuple[list[int], list[int]]  # what is asked and what is learned


def pixels(pictures: list[Image.Image]) -> torch.Tensor:
    """(n, 3, 128, 128) float32, as the shipped image processor gives them."""
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return (stacked.permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def training_picture(scene: Scene, rng: random.Random, wobble: float) -> Image.Image:
    """A scene at the tower's size, its drawings mostly bent; a quarter is drawn larger and shrunk, as users' are."""
    hand = rng if rng.random() < wobble else None
    if rng.random() < 0.75:
        return render(scene, IMAGE_SIZE, hand)
    return render(scene, 2 * IMAGE_SIZE, hand).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def padded(sequences: list[list], fill: float = PAD) -> torch.Tensor:
    """(n, longest), right-padded; int64, or float32 where numbers are fractions."""
    longest = max(map(len, sequences))
    return torch.tensor([sequence + [fill] * (longest - len(sequence)) for sequence in sequences])


def patch_words(scene: Scene) -> np.ndarray:
    """(64, 5) token ids: what each patch shows, by PATCH_GROUPS; IGNORE_INDEX where it shows no such thing.

    A patch belongs to the frontmost drawing that covers over a third of it; the bare ground names only itself.
    """
    words = np.full((GRID, GRID, len(PATCH_GROUPS)), IGNORE_INDEX)
    words[..., 4] = encode(scene.ground)[0]
    edges = np.arange(GRID) / GRID
    for device_choice in place(scene):
        thing = scene.things[device_choice.thing]
        half = 0.44 * device_choice.side  # drawings seldom fill the corners of their square

        def covered(center: float, half: float = half) -> np.ndarray:
            overlap = np.minimum(edges + 1 / GRID, center + half) - np.maximum(edges, center - half)
            return np.clip(overlap, 0, None) * GRID

        inside = np.outer(covered(device_choice.y), covered(device_choice.x)) > 0.35
        named = (thing.noun, thing.color or "natural", thing.size, COUNTS[thing.count])
        words[inside] = [*(encode(word)[0] for word in named), IGNORE_INDEX]
    return words.reshape(GRID * GRID, len(PATCH_GROUPS))


def answered(question: str, answer: str) -> Turn:
    """A turn: the question up to where the answer begins, and the answer with its end.

    answered("how big is it?", "small")    # ([…, ASSISTANT], [id of "small", EOS])
    """
    return [*encode(question), ASSISTANT], [*encode(answer), EOS]


# How many questions of each kind a picture gets on average: those that take finding two things, or none, take longest.
KIND_SHARES = {
    "what": 1.0, "color": 1.3, "size": 0.8, "count": 0.6, "ground": 0.3, "exists": 1.0, "lies": 1.0, "where": 2.0,
    "whether": 2.0, "ends": 1.0, "side": 1.0,
}  # fmt: skip


def picture_turns(scene: Scene, rng: random.Random) -> list[list[Turn]]:
    """The conversations about one picture; each is a list of turns and sees only the picture and itself.

    Two short captions, questions of each kind by KIND_SHARES and a two-turn chat; a long caption for every other
    picture, since it has as many words as all the others together, and one word for every fourth.
    """
    conversations = [[answered(SHORT_PROMPT, short_caption(scene, rng))] for _ in range(2)]
    if rng.random() < 0.5:
        conversations.append([answered(LONG_PROMPT, long_caption(scene, rng))])
    if rng.random() < 0.25:
        conversations.append([answered(IMAGE_PROMPT, rng.choice(scene.things).noun)])
    for kind, share in KIND_SHARES.items():
        asked = questions(scene, kind)
        number = int(share) + (rng.random() < share % 1)
        for question in rng.sample(asked, min(number, len(asked))):
            conversations.append([answered(question.text, question.answer)])
    conversations.append([answered(question.text, question.answer) for question in sample_chat(scene, rng)])
    return conversations


def text_turns(scene: Scene, rng: random.Random) -> list[Turn]:
    """One conversation without a picture: a caption, then a word for it, other words, or a question about it."""
    chance = rng.random()
    if len(scene.things) == 1:
        return [answered(f"{short_caption(scene, rng)} {TEXT_PROMPT}", scene.things[0].noun)]
    if chance < 0.2:
        caption = pair_caption(scene, 0, 1, rng.random() < 0.5)
        return [answered(f"{caption} {TEXT_PROMPT}", rng.choice(scene.things[:2]).noun)]
    if chance < 0.5:
        sized = rng.random() < 0.5
        return [answered(f"{pair_caption(scene, 0, 1, sized)} {REPHRASE_PROMPT}", pair_caption(scene, 1, 0, sized))]
    caption, question = sample_reading(scene, rng)
    return [answered(f"{caption}. {question.text}", question.answer)]


def joined(turns: list[Turn]) -> Turn:
    """A conversation's ids and labels: what is asked is not learned."""
    ids, labels = [], []
    for number, (asked, answer) in enumerate(turns):
        opening = [USER] if number else []  # the first turn's <user> stands before the picture
        ids += [*opening, *asked, *answer]
        labels += [IGNORE_INDEX] * (len(opening) + len(asked)) + answer
    return ids, labels


def word_weights(labels: list[int], noun_weight: float = 1.0) -> list[float]:
    """How much each word to be learned counts: 1/√n in an answer of n tokens, a noun `noun_weight` times that.

    By words alone, two captions would outweigh a "yes" fifty to one, and it is the "yes" that takes seeing. In a
    caption the nouns take most: the second is the first again where they count no more than "to the left of".
    """
    weights: list[float] = []
    for learned, run in itertools.groupby(labels, lambda label: label != IGNORE_INDEX):
        words = list(run)
        for word in words:
            weights.append(len(words) ** -0.5 * (noun_weight if word in noun_ids() else 1.0) if learned else 0.0)
    return weights


@lru_cache(maxsize=1)
def noun_ids() -> frozenset[int]:
    """The tokens that name a thing, in either number."""
    return frozenset(encode(" ".join([*PLURALS, *PLURALS.values()])))


PICTURE_IDS = [BOS, USER] + [IMAGE] * IMAGE_TOKENS


def packed(conversations: list[list[Turn]], noun_weight: float = 1.0) -> dict[str, list]:
    """One picture's conversations in one sequence; `segments` says who may see whom (0: the picture, −1: padding)."""
    ids, labels, segments = list(PICTURE_IDS), [IGNORE_INDEX] * len(PICTURE_IDS), [0] * len(PICTURE_IDS)
    positions = list(range(len(PICTURE_IDS)))
    for number, turns in enumerate(conversations, 1):
        more, learned = joined(turns)
        ids, labels, segments = ids + more, labels + learned, segments + [number] * len(more)
        positions += range(len(PICTURE_IDS), len(PICTURE_IDS) + len(more))
    row = {"input_ids": ids, "labels": labels, "segments": segments, "position_ids": positions}
    return row | {"weights": word_weights(labels, noun_weight)}


def collate_packed(rows: list[dict[str, list]]) -> dict[str, torch.Tensor]:
    """Pads packed rows and writes the mask: each token sees the picture and its own conversation's past."""
    fills = {"input_ids": PAD, "labels": IGNORE_INDEX, "segments": -1, "position_ids": 0, "weights": 0.0}
    batch = {key: padded([row[key] for row in rows], fill) for key, fill in fills.items()}
    segments = batch.pop("segments")
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    seen = (same | (segments[:, None, :] == 0)) & torch.ones(length, length, dtype=torch.bool).tril()
    added = torch.where(seen, 0.0, -1e9)  # to the attention scores
    batch["attention_mask"] = added[:, None]  # (n, 1, length, length)
    return batch


@dataclass(frozen=True)
class PretrainDataset(torch.utils.data.Dataset):
    """Batches of one stage; item `step` is drawn from seed, stage and step alone.

    PretrainDataset(seed=0, name="clip", learns="clip", batch_size=64, steps=6000, styles=(0, 1), wobble=0.5)[17]
    """

    seed: int
    name: str  # of the stage
    learns: str  # "read", "clip" or "llava"
    batch_size: int
    steps: int
    styles: tuple[int, ...]
    wobble: float
    single: int = 0  # the first steps, whose pictures show one thing in its own colors
    noun_weight: float = 1.0  # of a noun to be learned, where other words weigh 1

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, dict[str, torch.Tensor]]:
        rng = random.Random(f"{self.seed} {self.name} {step}")
        shown = {"n_things": 1, "colored": 0.0} if step < self.single else {}
        scenes = [sample_scene(rng, styles=self.styles, **shown) for _ in range(self.batch_size)]
        pictured = {"patch_words": torch.from_numpy(np.stack([patch_words(scene) for scene in scenes]))}
        if self.learns != "read":
            pictured["pixel_values"] = pixels([training_picture(scene, rng, self.wobble) for scene in scenes])
        if self.learns == "clip":
            captions = padded([[BOS, *encode(short_caption(scene, rng)), EOS] for scene in scenes])
            return {"pictured": pictured, "written": {"input_ids": captions}}
        pictured |= collate_packed([packed(picture_turns(scene, rng), self.noun_weight) for scene in scenes])
        texts = [joined(text_turns(sample_scene(rng), rng)) for _ in range(TEXTS * self.batch_size)]
        written = {
            "input_ids": padded([[BOS, USER, *ids] for ids, _ in texts]),
            "labels": padded([[IGNORE_INDEX, IGNORE_INDEX, *labels] for _, labels in texts], IGNORE_INDEX),
            "weights": padded([[0.0, 0.0, *word_weights(labels, self.noun_weight)] for _, labels in texts], 0.0),
        }
        return {"pictured": pictured, "written": written}

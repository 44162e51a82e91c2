"""Training data of emoji-clip and emoji-llava, generated on the fly; batch `step` of a seed is always the same."""

import itertools
import random
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from PIL import Image

from experiments.pretraining.augment import augmented_drawing
from experiments.pretraining.questions import sample_caption_question, training_questions
from experiments.pretraining.tokenizer import (
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
from vladva_kit.emoji_world.captions import PLURALS, long_caption, pair_caption, short_caption
from vladva_kit.emoji_world.drawings import drawing
from vladva_kit.emoji_world.nouns import COUNTS
from vladva_kit.emoji_world.questions import sample_chat
from vladva_kit.emoji_world.render import placements, render
from vladva_kit.emoji_world.scenes import Scene, sample_scene

GRID = IMAGE_SIZE // PATCH_SIZE
PATCH_ATTRIBUTES = ("noun", "color", "size", "count", "ground")  # the labels of a patch
IGNORE_INDEX = -100
TEXTS_PER_IMAGE = 3  # text-only conversations, which are short
IMAGE_PREFIX = [BOS, USER] + [IMAGE] * IMAGE_TOKENS

Turn = tuple[list[int], list[int]]  # token ids of the question and of the answer; only the answer is trained on


def to_pixel_values(images: list[Image.Image]) -> torch.Tensor:
    """Normalize images to (n, 3, 128, 128) float32, exactly as the shipped image processor does."""
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return (stacked.permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def training_image(scene: Scene, rng: random.Random, augment_prob: float) -> Image.Image:
    """Render a scene at the model's size, with augmented sprites with probability `augment_prob`.

    A quarter of the images are rendered at twice the size and downsampled, as larger images of users will be.
    """
    draw = partial(augmented_drawing, rng=rng) if rng.random() < augment_prob else drawing
    if rng.random() < 0.75:
        return render(scene, IMAGE_SIZE, draw)
    return render(scene, 2 * IMAGE_SIZE, draw).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)


def pad(sequences: list[list], fill: float = PAD) -> torch.Tensor:
    """Right-pad to (n, longest); int64, or float32 for fractions."""
    longest = max(map(len, sequences))
    return torch.tensor([sequence + [fill] * (longest - len(sequence)) for sequence in sequences])


def patch_labels(scene: Scene) -> np.ndarray:
    """Label each patch with token ids by PATCH_ATTRIBUTES: (64, 5), IGNORE_INDEX where an attribute does not apply.

    A patch belongs to the frontmost drawing that covers over a third of it. A patch of bare ground has only the ground
    as its label.
    """
    labels = np.full((GRID, GRID, len(PATCH_ATTRIBUTES)), IGNORE_INDEX)
    labels[..., 4] = encode(scene.ground)[0]
    edges = np.arange(GRID) / GRID
    for placement in placements(scene):
        thing = scene.things[placement.thing]
        half = 0.44 * placement.side  # drawings rarely fill the corners of their square

        def coverage(center: float, half: float = half) -> np.ndarray:
            overlap = np.minimum(edges + 1 / GRID, center + half) - np.maximum(edges, center - half)
            return np.clip(overlap, 0, None) * GRID

        inside = np.outer(coverage(placement.y), coverage(placement.x)) > 0.35
        words = (thing.noun, thing.color or "natural", thing.size, COUNTS[thing.count])
        labels[inside] = [*(encode(word)[0] for word in words), IGNORE_INDEX]
    return labels.reshape(GRID * GRID, len(PATCH_ATTRIBUTES))


def make_turn(question: str, answer: str) -> Turn:
    """Tokenize a question, up to where the answer starts, and the answer with its end token.

    make_turn("how big is it?", "small")    # ([…, ASSISTANT], [id of "small", EOS])
    """
    return [*encode(question), ASSISTANT], [*encode(answer), EOS]


# Average number of questions per image by kind. Kinds that involve two things take longest to train.
QUESTIONS_PER_KIND = {
    "what": 1.0, "color": 1.3, "size": 0.8, "count": 0.6, "ground": 0.3, "exists": 1.0, "lies": 1.0, "where": 2.0,
    "whether": 2.0, "ends": 1.0, "side": 1.0,
}  # fmt: skip


def image_conversations(scene: Scene, rng: random.Random) -> list[list[Turn]]:
    """Sample the conversations about one image; each is a list of turns, independent of the others.

    Two short captions, questions by QUESTIONS_PER_KIND and a two-turn chat. Half of the images also get a long caption,
    which has as many words as all the rest together. A quarter get the embedding prompt IMAGE_PROMPT with the noun of
    one thing as the answer, so emoji-llava's base embedding is not strictly zero-shot (see also `text_conversation`).
    """
    conversations = [[make_turn(SHORT_PROMPT, short_caption(scene, rng))] for _ in range(2)]
    if rng.random() < 0.5:
        conversations.append([make_turn(LONG_PROMPT, long_caption(scene, rng))])
    if rng.random() < 0.25:
        conversations.append([make_turn(IMAGE_PROMPT, rng.choice(scene.things).noun)])
    for kind, average in QUESTIONS_PER_KIND.items():
        candidates = training_questions(scene, kind)
        number = int(average) + (rng.random() < average % 1)
        for question in rng.sample(candidates, min(number, len(candidates))):
            conversations.append([make_turn(question.text, question.answer)])
    conversations.append([make_turn(question.text, question.answer) for question in sample_chat(scene, rng)])
    return conversations


def text_conversation(scene: Scene, rng: random.Random) -> list[Turn]:
    """Sample a conversation about a caption without its image.

    The answer is a noun (for the embedding prompt TEXT_PROMPT), a rewording, or the answer to a question.
    """
    form = rng.random()
    if len(scene.things) == 1:
        return [make_turn(f"{short_caption(scene, rng)} {TEXT_PROMPT}", scene.things[0].noun)]
    if form < 0.2:
        caption = pair_caption(scene, 0, 1, rng.random() < 0.5)
        return [make_turn(f"{caption} {TEXT_PROMPT}", rng.choice(scene.things[:2]).noun)]
    if form < 0.5:
        sized = rng.random() < 0.5
        return [make_turn(f"{pair_caption(scene, 0, 1, sized)} {REPHRASE_PROMPT}", pair_caption(scene, 1, 0, sized))]
    caption, question = sample_caption_question(scene, rng)
    return [make_turn(f"{caption}. {question.text}", question.answer)]


def ids_and_labels(turns: list[Turn]) -> tuple[list[int], list[int]]:
    """Concatenate the turns of a conversation; the labels of questions are IGNORE_INDEX."""
    ids, labels = [], []
    for number, (question, answer) in enumerate(turns):
        opening = [USER] if number else []  # the first turn's <user> precedes the image
        ids += [*opening, *question, *answer]
        labels += [IGNORE_INDEX] * (len(opening) + len(question)) + answer
    return ids, labels


def loss_weights(labels: list[int], noun_weight: float = 1.0) -> list[float]:
    """Weight each label token: 1/√n in an answer of n tokens, times `noun_weight` for a noun.

    Unweighted, two captions would outweigh a "yes" fifty to one, although the "yes" requires more visual
    understanding. Without extra weight on nouns, captions tend to name the same thing twice.
    """
    weights: list[float] = []
    for is_label, run in itertools.groupby(labels, lambda label: label != IGNORE_INDEX):
        tokens = list(run)
        for token in tokens:
            weight = len(tokens) ** -0.5 * (noun_weight if token in noun_ids() else 1.0)
            weights.append(weight if is_label else 0.0)
    return weights


@lru_cache(maxsize=1)
def noun_ids() -> frozenset[int]:
    """Return the token ids of all nouns, singular and plural."""
    return frozenset(encode(" ".join([*PLURALS, *PLURALS.values()])))


def pack(conversations: list[list[Turn]], noun_weight: float = 1.0) -> dict[str, list]:
    """Pack one image's conversations into one sequence.

    `segments` numbers the conversations for the attention mask (0: the image, −1: padding). Each conversation's
    positions start right after the image.
    """
    start = len(IMAGE_PREFIX)
    ids, labels, segments, positions = list(IMAGE_PREFIX), [IGNORE_INDEX] * start, [0] * start, list(range(start))
    for number, turns in enumerate(conversations, 1):
        new_ids, new_labels = ids_and_labels(turns)
        ids, labels, segments = ids + new_ids, labels + new_labels, segments + [number] * len(new_ids)
        positions += range(start, start + len(new_ids))
    row = {"input_ids": ids, "labels": labels, "segments": segments, "position_ids": positions}
    return row | {"weights": loss_weights(labels, noun_weight)}


def collate_packed(rows: list[dict[str, list]]) -> dict[str, torch.Tensor]:
    """Pad packed rows and build the mask: each token attends to the image and to its conversation's earlier tokens."""
    fills = {"input_ids": PAD, "labels": IGNORE_INDEX, "segments": -1, "position_ids": 0, "weights": 0.0}
    batch = {key: pad([row[key] for row in rows], fill) for key, fill in fills.items()}
    segments = batch.pop("segments")
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    visible = (same | (segments[:, None, :] == 0)) & torch.ones(length, length, dtype=torch.bool).tril()
    batch["attention_mask"] = torch.where(visible, 0.0, -1e9)[:, None]  # added to the scores, (n, 1, length, length)
    return batch


@dataclass(frozen=True)
class PretrainDataset(torch.utils.data.Dataset):
    """The batches of one stage; item `step` depends on seed, stage and step alone.

    PretrainDataset(seed=0, stage="clip", batch_size=64, steps=6000, styles=(0, 1), augment_prob=0.5)[17]
    # {"image": {"pixel_values": …, "patch_labels": …}, "text": {"input_ids": …}}
    """

    seed: int
    stage: str  # "read", "clip" or "llava"
    batch_size: int  # images
    steps: int
    styles: tuple[int, ...]
    augment_prob: float  # share of images with augmented sprites
    single_steps: int = 0  # the first steps, whose images show one thing in its native colors
    noun_weight: float = 1.0  # loss weight of a noun relative to other words

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, dict[str, torch.Tensor]]:
        rng = random.Random(f"{self.seed} {self.stage} {step}")
        easy = {"n_things": 1, "colored": 0.0} if step < self.single_steps else {}
        scenes = [sample_scene(rng, styles=self.styles, **easy) for _ in range(self.batch_size)]
        image = {"patch_labels": torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes]))}
        if self.stage != "read":
            image["pixel_values"] = to_pixel_values([training_image(s, rng, self.augment_prob) for s in scenes])
        if self.stage == "clip":
            captions = pad([[BOS, *encode(short_caption(scene, rng)), EOS] for scene in scenes])
            return {"image": image, "text": {"input_ids": captions}}
        image |= collate_packed([pack(image_conversations(scene, rng), self.noun_weight) for scene in scenes])
        n_texts = TEXTS_PER_IMAGE * self.batch_size
        texts = [ids_and_labels(text_conversation(sample_scene(rng), rng)) for _ in range(n_texts)]
        text = {
            "input_ids": pad([[BOS, USER, *ids] for ids, _ in texts]),
            "labels": pad([[IGNORE_INDEX, IGNORE_INDEX, *labels] for _, labels in texts], IGNORE_INDEX),
            "weights": pad([[0.0, 0.0, *loss_weights(labels, self.noun_weight)] for _, labels in texts], 0.0),
        }
        return {"image": image, "text": text}

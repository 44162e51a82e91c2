"""Evaluate text generation: questions answered, true captions and second turns, on scenes with known content."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from vladva_kit.data.captioning import LONG_REQUEST, SHORT_REQUEST
from vladva_kit.emoji_world.captions import long_caption
from vladva_kit.emoji_world.questions import KINDS, Question, questions, sample_chat, sample_question
from vladva_kit.emoji_world.scenes import Scene
from vladva_kit.emoji_world.truth import fact_score, is_true, words_of
from vladva_kit.evaluation.bootstrap import Score, score
from vladva_kit.evaluation.cases import CaseScore, Result, plain
from vladva_kit.evaluation.encoding import data_fingerprint


class Generator(Protocol):
    """A model that answers prompts about images, such as an Embedder."""

    def generate_batch(
        self, images: Sequence, prompts: Sequence[str], histories: Sequence | None = None, max_new_tokens: int = 128
    ) -> list[str]: ...


@dataclass(frozen=True)
class GenerationResult(Result):
    """Percentages of right answers, with 95 % intervals that resample images.

    Chance is that of always giving the most common answer to each kind of question, and 50 % for kinds that are
    answered by yes or no; a caption has no chance level.
    questions: answers that match word for word; by_kind: the same by kind of question; second_turn: follow-up
    questions of a chat, with a pronoun; caption_truth: short captions whose every stated fact is true;
    long_caption_f1: F1 over stated facts, 0 to 1; cases: each question, second turn and short caption.
    """

    questions: Score
    by_kind: dict[str, Score]
    second_turn: Score
    caption_truth: Score
    long_caption_f1: float
    false_captions: tuple[tuple[int, str], ...]  # (image index, caption)
    right: dict[str, tuple[bool, ...]] = field(default_factory=dict, repr=False)  # by case, for paired tests

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        values = plain(self)
        del values["false_captions"]
        return {"question_accuracy": values.pop("questions")} | values


def load_scenes(folder: str | Path, split: str = "test", limit: int | None = None) -> tuple[list[Path], list[Scene]]:
    """Load the images and scenes of a sample's split: `load_scenes(sample("emoji_pairs"), "test")`.

    Raises ValueError if the scenes are unknown, as for photos.
    """
    folder = Path(folder) / split
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()][:limit]
    if not rows or any("scene" not in row for row in rows):
        raise ValueError(f"{folder}/metadata.jsonl has no 'scene'; only answers about rendered scenes can be checked")
    return [folder / row["file_name"] for row in rows], [Scene.from_dict(row["scene"]) for row in rows]


def evaluate_generation(
    embedder: Generator,
    images: Sequence[Image.Image | Path],
    scenes: Sequence[Scene],
    every_kind: bool = False,
    long_captions: bool = True,
    batch_size: int = 100,
    seed: int = 0,
) -> GenerationResult:
    """Ask about each image, with greedy decoding, and check the answers against its scene.

        evaluate_generation(embedder, *load_scenes(sample("emoji_pairs"), "test")).questions.percent

    `every_kind` asks one question of each kind per image, instead of one of a random kind. Answers must match word for
    word. `long_captions=False` skips the long captions; their F1 is then NaN.
    """
    rng = random.Random(seed)
    asked = [(index, question) for index, scene in enumerate(scenes) for question in _sample(scene, rng, every_kind)]
    chats = [sample_chat(scene, rng) for scene in scenes]
    texts, turns = [question.text for _, question in asked], [second.text for _, second in chats]
    answers = generate(embedder, [images[index] for index, _ in asked], texts, None, 12, batch_size)
    first = generate(embedder, images, [question.text for question, _ in chats], None, 12, batch_size)
    histories = [[(question.text, answer)] for (question, _), answer in zip(chats, first, strict=True)]
    second = generate(embedder, images, turns, histories, 12, batch_size)
    captions = generate(embedder, images, [SHORT_REQUEST] * len(images), None, 30, batch_size)

    kinds = np.array([question.kind for _, question in asked])
    chance = {
        "questions": guess_rates(kinds.tolist(), [question.answer for _, question in asked]),
        "second_turn": guess_rates([q.kind for _, q in chats], [q.answer for _, q in chats]),
    }

    def case(name: str, number: int, image: int, prompt: str, answer: str, right: bool, kind: str = "") -> CaseScore:
        return CaseScore(name, str(number), kind, str(image), prompt, answer, float(right), right)

    def score_of(name: str, chosen: Any = slice(None)) -> Score:
        kept = np.array(cases[name], dtype=object)[chosen]
        level = 100.0 * float(np.mean(chance[name][chosen])) if name in chance else None
        return score([one.correct for one in kept], level, groups=[one.image for one in kept], seed=seed)

    cases = {
        "questions": [
            case("question accuracy", number, image, q.text, answer, words_of(answer) == words_of(q.answer), q.kind)
            for number, (answer, (image, q)) in enumerate(zip(answers, asked, strict=True))
        ],
        "second_turn": [
            case("second turn", image, image, q.text, answer, words_of(answer) == words_of(q.answer))
            for image, (answer, (_, q)) in enumerate(zip(second, chats, strict=True))
        ],
        "caption_truth": [
            case("caption truth", image, image, SHORT_REQUEST, caption, is_true(caption, scene))
            for image, (caption, scene) in enumerate(zip(captions, scenes, strict=True))
        ],
    }
    contents = [json.dumps(asdict(scene), sort_keys=True, default=str) for scene in scenes]
    return GenerationResult(
        **cast(dict[str, Any], {name: score_of(name) for name in cases}),
        by_kind={kind: score_of("questions", kinds == kind) for kind in KINDS if kind in kinds},
        long_caption_f1=_long_caption_f1(embedder, images, scenes, batch_size) if long_captions else float("nan"),
        false_captions=tuple((index, one.other) for index, one in enumerate(cases["caption_truth"]) if not one.correct),
        right={name: tuple(bool(one.correct) for one in each) for name, each in cases.items()},
        n=len(scenes),
        cases=tuple(one for each in cases.values() for one in each),
        data=data_fingerprint(["generation", *contents, *texts, *turns]),
    )


def guess_rates(kinds: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Return the chance (n,), 0 to 1, of each question: `guess_rates(["color"] * 3, ["red", "red", "blue"])[0]` is 2/3.

    It is the share of the most common answer among the questions of the kind, or 0.5 if all answers are yes or no.
    """
    of_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, answer in zip(kinds, answers, strict=True):
        of_kind[kind][answer] += 1
    rates = {
        kind: 0.5 if counts.keys() <= {"yes", "no"} else max(counts.values()) / counts.total()
        for kind, counts in of_kind.items()
    }
    return np.array([rates[kind] for kind in kinds])


def _sample(scene: Scene, rng: random.Random, every_kind: bool) -> list[Question]:
    if every_kind:
        return [rng.choice(questions(scene, kind)) for kind in KINDS if questions(scene, kind)]
    return [sample_question(scene, rng)]


def generate(
    embedder: Generator,
    images: Sequence,
    prompts: Sequence[str],
    histories: Sequence | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 32,
) -> list[str]:
    """Answer one prompt per image, `batch_size` at a time: `generate(embedder, images, ["what is it?"] * len(images))`.

    `histories` as in `Embedder.generate_batch`.
    """
    answers: list[str] = []
    with tqdm(total=len(prompts), desc="answers", delay=10, leave=False) as bar:
        for start in range(0, len(prompts), batch_size):
            batch = slice(start, start + batch_size)
            earlier = histories[batch] if histories else None
            answers += embedder.generate_batch(images[batch], prompts[batch], earlier, max_new_tokens)
            bar.update(len(prompts[batch]))
    return answers


def _long_caption_f1(embedder: Generator, images: Sequence, scenes: Sequence[Scene], batch_size: int) -> float:
    """Compute F1 over all images' facts: precision of the stated facts, recall of those in a complete description."""
    captions = generate(embedder, images, [LONG_REQUEST] * len(images), None, 100, batch_size)
    counts = [
        fact_score(caption, long_caption(scene, random.Random(0)), scene)
        for caption, scene in zip(captions, scenes, strict=True)
    ]
    true, stated, found, reference = np.array(counts).sum(0)
    precision, recall = true / max(stated, 1), found / reference
    return float(2 * precision * recall / max(precision + recall, 1e-9))

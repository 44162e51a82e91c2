"""Whether the LVLM still talks: questions answered exactly, captions that are true, second turns; before and after."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from vladva_kit.emoji_world.captions import long_caption
from vladva_kit.emoji_world.questions import KINDS, Question, questions, sample_chat, sample_question
from vladva_kit.emoji_world.scenes import Scene
from vladva_kit.emoji_world.truth import fact_score, is_true, words_of
from vladva_kit.evaluation.significance import Score, score

if TYPE_CHECKING:
    from PIL import Image

SHORT_REQUEST = "provide a short caption:"
LONG_REQUEST = "describe the picture in detail:"


class Talks(Protocol):
    """What can be asked: an Embedder."""

    def generate_batch(
        self, images: Sequence, prompts: Sequence[str], histories: Sequence | None = None, max_new_tokens: int = 128
    ) -> list[str]: ...


@dataclass(frozen=True)
class GenerationResult:
    """How well an LVLM talks about scenes whose truth is known. Percentages with 95 % intervals.

    questions: answered word for word; by_kind: the same, by kind of question; second_turn: of a chat, by pronoun;
    caption_truth: short captions of which every stated fact holds; long_caption_f1: 0–1, over stated facts.
    """

    questions: Score
    by_kind: dict[str, Score]
    second_turn: Score
    caption_truth: Score
    long_caption_f1: float
    n: int
    false_captions: tuple[tuple[int, str], ...]  # (picture, caption) that say something untrue
    right: dict[str, tuple[bool, ...]] = field(default_factory=dict, repr=False)  # by case, for paired tests

    def as_dict(self) -> dict:
        """Plain values, for results.json."""
        return {
            "question_accuracy": asdict(self.questions),
            "by_kind": {kind: asdict(value) for kind, value in self.by_kind.items()},
            "second_turn": asdict(self.second_turn),
            "caption_truth": asdict(self.caption_truth),
            "long_caption_f1": self.long_caption_f1,
            "n": self.n,
        }


def load_scenes(folder: str | Path, split: str = "test", limit: int | None = None) -> tuple[list[Path], list[Scene]]:
    """The pictures and scenes of a drawn sample's split: load_scenes(sample("emoji_pairs"), "test").

    Raises ValueError when the pictures' truth is not known, as for photographs.
    """
    folder = Path(folder) / split
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()][:limit]
    if not rows or any("scene" not in row for row in rows):
        raise ValueError(
            f"{folder}/metadata.jsonl has no 'scene': only drawn scenes' captions and answers can be judged"
        )
    return [folder / row["file_name"] for row in rows], [Scene.from_dict(row["scene"]) for row in rows]


def evaluate_generation(
    embedder: Talks,
    images: Sequence[Image.Image | Path],
    scenes: Sequence[Scene],
    every_kind: bool = False,
    long_captions: bool = True,
    batch_size: int = 100,
    seed: int = 0,
) -> GenerationResult:
    """Asks about each picture and judges the answers by its scene; greedy decoding.

        evaluate_generation(embedder, *load_scenes(sample("emoji_pairs"), "test")).questions.percent

    every_kind: one question of each kind a picture, instead of one of any kind. Answers are compared word for word.
    """
    rng = random.Random(seed)
    asked = [(row, question) for row, scene in enumerate(scenes) for question in _asked(scene, rng, every_kind)]
    answers = _ask(embedder, [images[row] for row, _ in asked], [q.text for _, q in asked], None, 12, batch_size)
    right = np.array([words_of(given) == words_of(q.answer) for given, (_, q) in zip(answers, asked, strict=True)])
    chats = [sample_chat(scene, rng) for scene in scenes]
    firsts = _ask(embedder, images, [first.text for first, _ in chats], None, 12, batch_size)
    histories = [[(first.text, given)] for (first, _), given in zip(chats, firsts, strict=True)]
    seconds = _ask(embedder, images, [second.text for _, second in chats], histories, 12, batch_size)
    second_right = [
        words_of(given) == words_of(second.answer) for given, (_, second) in zip(seconds, chats, strict=True)
    ]
    captions = _ask(embedder, images, [SHORT_REQUEST] * len(images), None, 30, batch_size)
    true = [is_true(caption, scene) for caption, scene in zip(captions, scenes, strict=True)]
    kinds = np.array([question.kind for _, question in asked])
    return GenerationResult(
        questions=_score(right, seed),
        by_kind={kind: _score(right[kinds == kind], seed) for kind in KINDS if (kinds == kind).any()},
        second_turn=_score(second_right, seed),
        caption_truth=_score(true, seed),
        long_caption_f1=_long_f1(embedder, images, scenes, batch_size) if long_captions else float("nan"),
        n=len(scenes),
        false_captions=tuple((row, caption) for row, caption in enumerate(captions) if not true[row]),
        right={
            "questions": tuple(right.tolist()),
            "second_turn": tuple(second_right),
            "caption_truth": tuple(true),
        },
    )


def _asked(scene: Scene, rng: random.Random, every_kind: bool) -> list[Question]:
    if every_kind:
        return [rng.choice(questions(scene, kind)) for kind in KINDS if questions(scene, kind)]
    return [sample_question(scene, rng)]


def _ask(
    embedder: Talks, images: Sequence, prompts: list[str], histories: list | None, max_new_tokens: int, batch_size: int
) -> list[str]:
    answers: list[str] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        answers += embedder.generate_batch(
            images[part], prompts[part], histories[part] if histories else None, max_new_tokens
        )
    return answers


def _long_f1(embedder: Talks, images: Sequence, scenes: Sequence[Scene], batch_size: int) -> float:
    """F1 over the facts of all pictures together: stated and true, against what a full description states."""
    captions = _ask(embedder, images, [LONG_REQUEST] * len(images), None, 100, batch_size)
    counted = np.array([
        fact_score(caption, long_caption(scene, random.Random(0)), scene)
        for caption, scene in zip(captions, scenes, strict=True)
    ])  # fmt: skip
    true, stated, found, wanted = counted.sum(0)
    precision, recall = true / max(stated, 1), found / wanted
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _score(correct: Sequence[bool] | np.ndarray, seed: int) -> Score:
    return score(np.asarray(correct, dtype=bool), chance=0.0, seed=seed)

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
from vladva_kit.evaluation.bootstrap import Score, score
from vladva_kit.evaluation.encoding import data_fingerprint
from vladva_kit.evaluation.per_case import CaseScore

if TYPE_CHECKING:
    from PIL import Image

SHORT_REQUEST = "provide a short caption:"
LONG_REQUEST = "describe the picture in detail:"


class Generator(Protocol):
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
    cases: tuple[CaseScore, ...] = field(default=(), repr=False)  # each question with what was answered
    data: str = ""  # fingerprint of the scenes and of what was asked about them

    def margins(self) -> tuple[CaseScore, ...]:
        """Each question by its kind, each second turn, each short caption; with what was asked and answered."""
        return self.cases

    def as_dict(self) -> dict:
        """Plain values, for results.json."""
        return {
            "question_accuracy": asdict(self.questions),
            "by_kind": {kind: asdict(value) for kind, value in self.by_kind.items()},
            "second_turn": asdict(self.second_turn),
            "caption_truth": asdict(self.caption_truth),
            "long_caption_f1": self.long_caption_f1,
            "n": self.n,
            "data": self.data,
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
    embedder: Generator,
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
    chats = [sample_chat(scene, rng) for scene in scenes]
    texts = [q.text for _, q in asked]
    answers = ask(embedder, [images[row] for row, _ in asked], texts, None, 12, batch_size)
    questions = [
        _case("question accuracy", number, row, q.kind, q.text, given, words_of(given) == words_of(q.answer))
        for number, (given, (row, q)) in enumerate(zip(answers, asked, strict=True))
    ]
    firsts = ask(embedder, images, [first.text for first, _ in chats], None, 12, batch_size)
    histories = [[(first.text, given)] for (first, _), given in zip(chats, firsts, strict=True)]
    seconds = ask(embedder, images, [second.text for _, second in chats], histories, 12, batch_size)
    turns = [
        _case("second turn", row, row, "", second.text, given, words_of(given) == words_of(second.answer))
        for row, (given, (_, second)) in enumerate(zip(seconds, chats, strict=True))
    ]
    captions = ask(embedder, images, [SHORT_REQUEST] * len(images), None, 30, batch_size)
    told = [
        _case("caption truth", row, row, "", SHORT_REQUEST, caption, is_true(caption, scene))
        for row, (caption, scene) in enumerate(zip(captions, scenes, strict=True))
    ]
    long_f1 = _long_f1(embedder, images, scenes, batch_size) if long_captions else float("nan")
    known = [json.dumps(asdict(scene), sort_keys=True, default=str) for scene in scenes]
    data = data_fingerprint(["generation", *known, *texts, *(second.text for _, second in chats)])
    return _result(questions, turns, told, long_f1, len(scenes), seed, data)


def _case(score: str, number: int, row: int, kind: str, asked: str, given: str, right: bool) -> CaseScore:
    return CaseScore(score, str(number), kind, str(row), asked, given, float(right), right)


def _result(
    questions: list[CaseScore],
    turns: list[CaseScore],
    told: list[CaseScore],
    long_caption_f1: float,
    n: int,
    seed: int,
    data: str,
) -> GenerationResult:
    right = {
        name: tuple(bool(case.correct) for case in cases)
        for name, cases in (("questions", questions), ("second_turn", turns), ("caption_truth", told))
    }
    of_kind = {kind: [case.correct for case in questions if case.category == kind] for kind in KINDS}
    return GenerationResult(
        questions=_score(right["questions"], seed),
        by_kind={kind: _score(cases, seed) for kind, cases in of_kind.items() if cases},
        second_turn=_score(right["second_turn"], seed),
        caption_truth=_score(right["caption_truth"], seed),
        long_caption_f1=long_caption_f1,
        n=n,
        false_captions=tuple((row, case.other) for row, case in enumerate(told) if not case.correct),
        right=right,
        cases=(*questions, *turns, *told),
        data=data,
    )


def _asked(scene: Scene, rng: random.Random, every_kind: bool) -> list[Question]:
    if every_kind:
        return [rng.choice(questions(scene, kind)) for kind in KINDS if questions(scene, kind)]
    return [sample_question(scene, rng)]


def ask(
    embedder: Generator,
    images: Sequence,
    prompts: Sequence[str],
    histories: Sequence | None = None,
    max_new_tokens: int = 128,
    batch_size: int = 32,
) -> list[str]:
    """Answers to one prompt a picture, `batch_size` at a time: `ask(embedder, images, ["what is it?"] * len(images))`.

    `histories` as `Embedder.generate_batch` takes them. A bar shows how far it is, where it takes longer.
    """
    from tqdm.auto import tqdm

    answers: list[str] = []
    with tqdm(total=len(prompts), desc="answers", delay=10, leave=False) as bar:
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            earlier = histories[part] if histories else None
            answers += embedder.generate_batch(images[part], prompts[part], earlier, max_new_tokens)
            bar.update(len(prompts[part]))
    return answers


def _long_f1(embedder: Generator, images: Sequence, scenes: Sequence[Scene], batch_size: int) -> float:
    """F1 over the facts of all pictures together: stated and true, against what a full description states."""
    captions = ask(embedder, images, [LONG_REQUEST] * len(images), None, 100, batch_size)
    counted = np.array([
        fact_score(caption, long_caption(scene, random.Random(0)), scene)
        for caption, scene in zip(captions, scenes, strict=True)
    ])  # fmt: skip
    true, stated, found, wanted = counted.sum(0)
    precision, recall = true / max(stated, 1), found / wanted
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _score(correct: Sequence[bool] | np.ndarray, seed: int) -> Score:
    return score(np.asarray(correct, dtype=bool), chance=0.0, seed=seed)

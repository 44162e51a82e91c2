"""VQA accuracy by the official rule: normalized answers, scored by how many people gave them (VQA v2)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vladva_kit.data.validation import (
    clean_caption,
    error_list,
    is_hidden,
    read_json,
    require_id,
    require_keys,
    resolve_image_folder,
    visible_files,
)
from vladva_kit.embedder.identity import image_key
from vladva_kit.evaluation.bootstrap import Score, score
from vladva_kit.evaluation.cases import CaseScore, Result, read_cases, result_fields
from vladva_kit.evaluation.generation import Generator, generate
from vladva_kit.models.images import IMAGE_SUFFIXES, BadInput

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBERS)}
ARTICLES = ("a", "an", "the")
YES_NO = "yes/no"  # an answer type
SHORTENED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# any one apostrophe may be missing; "somebodyd" is what the official table gives for "somebody'd"
CONTRACTIONS = {
    word[:index] + word[index + 1 :]: word
    for word in SHORTENED.split()
    for index, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


@dataclass(frozen=True)
class VQACase:
    """A question about an image, the answers of ten people, and the model's answer with its accuracy, 0 to 1."""

    id: str
    image: Path
    question: str
    answers: tuple[str, ...]
    answer_type: str = ""
    answer: str = ""
    accuracy: float = 0.0

    @property
    def margin(self) -> float:
        return self.accuracy


@dataclass(frozen=True)
class VQAResult(Result):
    """VQA accuracy over all questions and by answer type; `fully_right` counts answers with an accuracy of 1."""

    accuracy: Score
    fully_right: Score
    by_answer_type: dict[str, Score]

    def per_case(self) -> Iterator[CaseScore]:
        """Yield each question twice: with its accuracy, and as right if that is 1."""
        for case in self.cases:
            columns = case.id, case.answer_type, case.image.name, case.question, case.answer, case.accuracy
            yield CaseScore("accuracy", *columns, correct=None, value=case.accuracy)
            yield CaseScore("fully right", *columns, correct=case.accuracy == 1)


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """Score an answer by people's agreement with it, 0 to 1: `vqa_accuracy("Two.", ["2"] * 2 + ["3"] * 8)` -> 0.6.

    The mean, over each person left out in turn, of min(1, number of others with this answer / 3). The answer is
    normalized by `normalize_answer`; people's answers only lose their punctuation, and only if they differ.
    Raises ValueError for no answers. Rule: `vqaEval.py` of GT-Vision-Lab/VQA (Antol et al. 2015, Goyal et al. 2017).
    """
    if not answers:
        raise ValueError("no answers to compare with; VQA v2 has ten per question")
    normalized = normalize_answer(answer)
    if len(set(answers)) > 1:
        answers = [remove_punctuation(text) for text in answers]
    same = [text == normalized for text in answers]
    return float(np.mean([min(1.0, (sum(same) - own) / 3) for own in same]))


def normalize_answer(answer: str) -> str:
    """Normalize an answer as VQA does: `normalize_answer("The two dogs!") == "2 dogs"`.

    Lower case, no punctuation and articles, numbers to ten as digits, apostrophes restored.
    """
    words = remove_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    digits = [DIGITS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in digits if word not in ARTICLES)


def remove_punctuation(text: str) -> str:
    """Remove punctuation next to a space or in texts with a number like 1,000; replace other punctuation by a space."""
    has_number = re.search(r"\d,\d", text) is not None
    result = text
    for mark in PUNCTUATION:
        next_to_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if next_to_space or has_number else " ")
    return re.sub(r"\.(?!\d)", "", result, count=32)  # the official script passes its flags as this count


def evaluate_vqa(
    embedder: Generator,
    source: str | Path,
    image_folder: str | Path | None = None,
    request: str = "{}",
    max_new_tokens: int = 12,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    on_error: str = "raise",
) -> VQAResult:
    """Evaluate VQA by its official rule, greedy decoding: `evaluate_vqa(embedder, "vqa", "val2014").accuracy.percent`.

    `source` is a folder with the official `…_questions.json` and `…_annotations.json`; an image is the file in
    `image_folder` (or `<source>/images`) whose name ends in its number. `request` is the prompt around a question, as
    "{}\\nAnswer the question using a single word or phrase."; `limit` keeps the first questions. Inside
    `with embedder.base():` the base model answers, for a comparison before and after training. Chance is that of always
    giving the most common answer of each answer type, and 50 % for type yes/no. Intervals resample the questions about
    one image together.
    Raises BadInput for missing files or images, other keys, a question without answers or a repeated id.
    """
    if request.count("{}") != 1:
        raise ValueError(f"request is {request!r}; it must contain {{}} once, for the question")
    skipped = error_list(on_error)
    cases = load_vqa(source, image_folder, skipped)[:limit]
    prompts = [request.replace("{}", case.question) for case in cases]
    answers = generate(embedder, [case.image for case in cases], prompts, None, max_new_tokens, batch_size)
    accuracy = np.array([vqa_accuracy(answer, case.answers) for case, answer in zip(cases, answers, strict=True)])
    types, images = (np.array([str(getattr(case, key)) for case in cases]) for key in ("answer_type", "image"))
    digests = {case.image: image_key(case.image) for case in cases}
    contents = (text for case in cases for text in (digests[case.image], case.question, *case.answers))

    guessed = guessed_accuracy(cases)

    def mean(values: np.ndarray, guesses: np.ndarray, chosen: Any = slice(None)) -> Score:
        chance = 100.0 * float(np.mean(guesses[chosen]))
        return score(values[chosen], chance, groups=images[chosen].tolist(), seed=seed)

    fully_guessed = np.where(types == YES_NO, guessed, guessed == 1)
    return VQAResult(
        accuracy=mean(accuracy, guessed),
        fully_right=mean(accuracy == 1, fully_guessed),
        by_answer_type={name: mean(accuracy, guessed, types == name) for name in sorted(set(types.tolist()) - {""})},
        **result_fields("vqa", cases, contents, skipped, (), answer=answers, accuracy=accuracy),
    )


def guessed_accuracy(cases: Sequence[VQACase]) -> np.ndarray:
    """Return the accuracy (n,), 0 to 1, of always giving the most common answer of each question's type.

    Answers of people are counted after `normalize_answer`. Questions of type yes/no count 0.5.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        counts[case.answer_type].update(map(normalize_answer, case.answers))
    guess = {kind: of_kind.most_common(1)[0][0] for kind, of_kind in counts.items()}
    return np.array([0.5 if c.answer_type == YES_NO else vqa_accuracy(guess[c.answer_type], c.answers) for c in cases])


def load_vqa(
    source: str | Path, image_folder: str | Path | None = None, skipped: list[str] | None = None
) -> list[VQACase]:
    """Read and check all questions, as `evaluate_vqa` does."""
    source = Path(source)
    folder = resolve_image_folder(source, image_folder, "which is COCO's val2014 for the official files")
    numbers = ((re.search(r"(\d+)$", path.stem), path) for path in visible_files(folder, IMAGE_SUFFIXES))
    images = {int(number[1]): path for number, path in numbers if number}  # COCO_val2014_000000000042.jpg is 42
    annotations: dict[Any, dict[str, Any]] = {}
    for location, entry in _official_entries(source, "annotations"):
        entry = require_keys(entry, ("question_id", "answers"), location)
        annotations[require_id(entry["question_id"], "question_id", location)] = entry

    def read(entry: Any, location: str) -> VQACase:
        entry = require_keys(entry, ("question_id", "image_id", "question"), location)
        if (number := require_id(entry["image_id"], "image_id", location)) not in images:
            raise BadInput(f"{location}: {folder} holds no image whose name ends in {number!r}; put it there")
        question_id = require_id(entry["question_id"], "question_id", location)
        question = clean_caption(entry["question"], "question", location)
        annotation = annotations.get(question_id)
        if annotation is None or not isinstance(annotation["answers"], list) or not annotation["answers"]:
            raise BadInput(f"{location}: no answers to question {question_id!r}; give the matching annotations")
        answers = tuple(str(require_keys(one, ("answer",), location)["answer"]) for one in annotation["answers"])
        answer_type = str(annotation.get("answer_type") or "")
        return VQACase(str(question_id), images[entry["image_id"]], question, answers, answer_type)

    return read_cases(_official_entries(source, "questions"), read, source, skipped)


def _official_entries(source: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the entries of the official file of questions or annotations, with their locations."""
    found = [path for path in sorted(source.glob(f"*{kind}.json")) if not is_hidden(path.name)]
    if len(found) != 1:
        raise BadInput(f"{source} holds {len(found)} files named …{kind}.json; VQA needs exactly one of each kind")
    content = read_json(found[0])
    if not isinstance(content, dict) or not isinstance(content.get(kind), list):
        raise BadInput(f"{found[0]}: no list '{kind}' in it; give the official file")
    for index, entry in enumerate(content[kind]):
        yield f"{found[0].name}, {kind.removesuffix('s')} {index}", entry

"""VQA accuracy by the official rule: answers made comparable, and right as far as other people agree (VQA v2)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vladva_kit.data.validation import (
    check_image,
    clean_caption,
    collect_errors,
    entry_with,
    error_list,
    images_of,
    read_json,
)
from vladva_kit.evaluation.bootstrap import Score, score
from vladva_kit.evaluation.encoding import content_digest, data_fingerprint
from vladva_kit.evaluation.generation import Generator, ask
from vladva_kit.evaluation.per_case import CaseScore
from vladva_kit.models.images import BadInput

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBERS)}
ARTICLES = ("a", "an", "the")
SHORTENED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# any one apostrophe may be missing; "somebodyd" is what the official table makes of "somebody'd"
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in SHORTENED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}


@dataclass(frozen=True)
class VQACase:
    """A question about a picture, what ten people answered, and what the LVLM did; `accuracy` is 0–1."""

    id: str
    image: Path
    question: str
    answers: tuple[str, ...]
    answer_type: str = ""
    answer: str = ""
    accuracy: float = 0.0


@dataclass(frozen=True)
class VQAResult:
    """VQA accuracy over all questions and by type of answer; `fully_right` counts answers with an accuracy of 1."""

    accuracy: Score
    by_answer_type: dict[str, Score]
    fully_right: Score
    n: int
    cases: tuple[VQACase, ...] = field(repr=False)
    data: str = ""  # fingerprint of the questions, answers and pictures
    skipped: tuple[str, ...] = ()  # why a question was left out, where that was asked for

    def margins(self) -> Iterator[CaseScore]:
        """Each question twice: by its accuracy, and right where that is 1."""
        for case in self.cases:
            told = case.id, case.answer_type, case.image.name, case.question, case.answer, case.accuracy
            yield CaseScore("accuracy", *told, correct=None, value=case.accuracy)
            yield CaseScore("fully right", *told, correct=case.accuracy == 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts for JSON; a picture is its file's name."""
        return {
            "accuracy": asdict(self.accuracy),
            "fully_right": asdict(self.fully_right),
            "by_answer_type": {name: asdict(one) for name, one in self.by_answer_type.items()},
            "n": self.n,
            "data": self.data,
            "skipped": list(self.skipped),
            "cases": [asdict(case) | {"image": case.image.name} for case in self.cases],
        }


def vqa_accuracy(answer: str, answers: Sequence[str]) -> float:
    """How far people agree with an answer, 0–1: `vqa_accuracy("Two.", ["2"] * 2 + ["3"] * 8)` -> 0.6.

    The mean, over each person left out in turn, of min(1, others who gave this answer / 3). The answer is made
    comparable by `comparable`; people's answers only have their punctuation taken out, and only where they differ.
    Raises ValueError for no answers. Rule: `vqaEval.py` of GT-Vision-Lab/VQA (Antol et al. 2015, Goyal et al. 2017).
    """
    if not answers:
        raise ValueError("no answers to compare with; VQA v2 has ten a question")
    given = comparable(answer)
    if len(set(answers)) > 1:
        answers = [without_punctuation(text) for text in answers]
    same = [text == given for text in answers]
    return float(np.mean([min(1.0, (sum(same) - mine) / 3) for mine in same]))


def comparable(answer: str) -> str:
    """An answer as VQA compares it: `comparable("The two dogs!") == "2 dogs"`.

    In small letters, without punctuation and articles, numbers to ten as digits, apostrophes put back.
    """
    words = without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    counted = [DIGITS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in counted if word not in ARTICLES)


def without_punctuation(text: str) -> str:
    """Punctuation taken out where it stands beside a blank or with a number like 1,000, else made a blank."""
    numbered = re.search(r"\d,\d", text) is not None
    bare = text
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_blank or numbered else " ")
    return re.sub(r"\.(?!\d)", "", bare, count=32)  # the official script hands its flags over as this count


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
    """VQA accuracy by the official rule, greedy decoding: `evaluate_vqa(embedder, "vqa", "val2014").accuracy.percent`.

    `source` is a folder with the official `…_questions.json` and `…_annotations.json`; a picture is the file in
    `image_folder` (or `<source>/images`) whose name ends in its number. `request` says how a question is put, as
    "{}\\nAnswer the question using a single word or phrase."; `limit` keeps the first questions. With
    `with embedder.base():` around it, the untouched LVLM answers: before and after. Chance is given as 0: nothing is
    guessed. Intervals draw the questions about one picture together.
    Raises BadInput for missing files or pictures, other keys, a question without answers or with an id that occurs
    twice: nothing is asked, unless `on_error="skip"` leaves such questions out and counts them in `skipped`.
    """
    if request.count("{}") != 1:
        raise ValueError(f"request is {request!r}; it must hold one {{}} for the question")
    skipped = error_list(on_error)
    cases = load_vqa(source, image_folder, skipped)[:limit]
    asked = [request.replace("{}", case.question) for case in cases]
    answers = ask(embedder, [case.image for case in cases], asked, None, max_new_tokens, batch_size)
    scored = tuple(
        replace(case, answer=answer, accuracy=vqa_accuracy(answer, case.answers))
        for case, answer in zip(cases, answers, strict=True)
    )
    return _result(scored, seed, tuple(skipped or ()))


def _result(cases: tuple[VQACase, ...], seed: int, skipped: tuple[str, ...]) -> VQAResult:
    right = np.array([case.accuracy for case in cases])
    images, kinds = [str(case.image) for case in cases], np.array([case.answer_type for case in cases])
    parts = {kind: np.flatnonzero(kinds == kind) for kind in sorted(set(kinds.tolist())) if kind}
    digests = {image: content_digest(Path(image)) for image in dict.fromkeys(images)}
    told = (text for case in cases for text in (case.id, digests[str(case.image)], case.question, *case.answers))
    return VQAResult(
        accuracy=score(right, 0.0, groups=images, seed=seed),
        by_answer_type={
            kind: score(right[places], 0.0, groups=[images[place] for place in places], seed=seed)
            for kind, places in parts.items()
        },
        fully_right=score(right == 1, 0.0, groups=images, seed=seed),
        n=len(cases),
        cases=cases,
        data=data_fingerprint(["vqa", *told]),
        skipped=skipped,
    )


def load_vqa(
    source: str | Path, image_folder: str | Path | None = None, skipped: list[str] | None = None
) -> list[VQACase]:
    """Read and check all questions, as `evaluate_vqa` takes them; none is asked yet.

    With a list `skipped`, refused questions are noted there and the others returned.
    """
    source = Path(source)
    images = images_of(source, image_folder, "which is COCO's val2014 for the official files")
    numbered = _by_number(images)
    annotations = _listed(_one_file(source, "annotations"), "annotations")
    people: dict[Any, dict[str, Any]] = {}
    for index, entry in enumerate(annotations):
        entry = entry_with(entry, ("question_id", "answers"), f"annotation {index}")
        people[entry["question_id"]] = entry
    path = _one_file(source, "questions")
    cases: list[VQACase] = []
    seen: set[str] = set()
    for index, entry in enumerate(_listed(path, "questions")):
        where = f"{path.name}, question {index}"
        with collect_errors(skipped):
            case = _case(entry, where, people, numbered, images)
            if case.id in seen:
                raise BadInput(f"{where}: the id {case.id} stands in this file already; ids must differ")
            seen.add(case.id)
            check_image(case.image, where)
            cases.append(case)
    if not cases:
        raise BadInput(f"{source}: no question in it can be used{': ' + skipped[0] if skipped else ''}")
    return cases


def _case(
    entry: Any, where: str, people: dict[Any, dict[str, Any]], numbered: dict[int, Path], images: Path
) -> VQACase:
    entry = entry_with(entry, ("question_id", "image_id", "question"), where)
    if entry["image_id"] not in numbered:
        raise BadInput(f"{where}: {images} holds no picture whose name ends in {entry['image_id']!r}; put it there")
    given = people.get(entry["question_id"])
    if given is None or not isinstance(given["answers"], list) or not given["answers"]:
        raise BadInput(f"{where}: no answers to question {entry['question_id']!r}; give its own annotations")
    answers = tuple(str(entry_with(one, ("answer",), where)["answer"]) for one in given["answers"])
    question = clean_caption(entry["question"], "question", where)
    kind = str(given.get("answer_type") or "")
    return VQACase(str(entry["question_id"]), numbered[entry["image_id"]], question, answers, kind)


def _one_file(source: Path, kind: str) -> Path:
    found = sorted(source.glob(f"*{kind}.json"))
    if len(found) != 1:
        raise BadInput(f"{source} holds {len(found)} files named …{kind}.json; VQA needs one, beside the other kind")
    return found[0]


def _listed(path: Path, key: str) -> list[Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise BadInput(f"{path}: no list '{key}' in it; give the official file")
    return content[key]


def _by_number(images: Path) -> dict[int, Path]:
    """Pictures by the number that their names end in: COCO_val2014_000000000042.jpg -> 42."""
    found = ((re.search(r"(\d+)$", path.stem), path) for path in sorted(images.iterdir()))
    return {int(number.group(1)): path for number, path in found if number}

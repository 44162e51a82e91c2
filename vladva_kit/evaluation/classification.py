"""Zero-shot classification: a picture against the names of all classes, each in several sentences (CLIP)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladva_kit.data.validation import (
    check_image,
    clean_caption,
    collect_errors,
    error_list,
    pick_split,
    rows_undecoded,
)
from vladva_kit.evaluation.bootstrap import Score, category_scores, score
from vladva_kit.evaluation.encoding import ImageTextEncoder, all_dots, data_fingerprint, encode_once
from vladva_kit.evaluation.hub_data import hub_dataset, is_hub_id
from vladva_kit.evaluation.metrics import ChoiceScores, Ranks, joined, ranks
from vladva_kit.evaluation.per_case import CaseScore
from vladva_kit.models.images import BadInput

if TYPE_CHECKING:
    import datasets

TEMPLATES = ("a photo of a {}.",)
ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
IMAGE_COLUMNS = ("image", "img", "images")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
BLOCK = 4096  # pictures scored at a time


@dataclass(frozen=True)
class ClassificationCase:
    """A picture, the number of its class, and the wrong class that scores highest; right where `margin` is above 0."""

    image: Any = field(repr=False)
    label: int
    key: str
    rival: int = 0
    margin: float = 0.0


@dataclass(frozen=True)
class ClassificationResult:
    """Top-k accuracy over all pictures, the mean over classes, and each class's own: `result.top[1].percent`."""

    top: dict[int, Score]
    mean_per_class: Score
    per_class: dict[str, Score]
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    n: int
    ties: int
    cases: tuple[ClassificationCase, ...] = field(repr=False)
    data: str = ""  # fingerprint of the pictures, classes and templates
    skipped: tuple[str, ...] = ()  # why a picture was left out, where that was asked for

    def margins(self) -> Iterator[CaseScore]:
        """Each picture once, by its class, with the class that it is told from."""
        for case in self.cases:
            own, rival = self.classes[case.label], self.classes[case.rival]
            yield CaseScore("top-1", case.key, own, case.key, own, rival, case.margin, case.margin > 0)

    def worst(self, k: int = 5) -> list[ClassificationCase]:
        """The `k` pictures with the lowest margin, worst first."""
        return sorted(self.cases, key=lambda case: case.margin)[:k]

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts for JSON; the pictures themselves are left out."""
        return {
            "accuracy": {f"top-{k}": asdict(one) for k, one in self.top.items()},
            "mean_per_class": asdict(self.mean_per_class),
            "per_class": {name: asdict(one) for name, one in self.per_class.items()},
            "classes": list(self.classes),
            "templates": list(self.templates),
            "n": self.n,
            "ties": self.ties,
            "data": self.data,
            "skipped": list(self.skipped),
            "cases": [{"key": c.key, "label": c.label, "rival": c.rival, "margin": c.margin} for c in self.cases],
        }


def evaluate_classification(
    embedder: ImageTextEncoder,
    source: str | Path | datasets.Dataset,
    templates: Sequence[str] = TEMPLATES,
    class_names: Mapping[str, str] | Sequence[str] | None = None,
    split: str = "test",
    ks: Sequence[int] = (1, 5),
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> ClassificationResult:
    """Zero-shot classification as CLIP does it: `evaluate_classification(embedder, "imagenet/val").top[1].percent`.

    `source` is an ImageFolder (`<source>/<split>/<class>/*.jpg`, or `<source>/<class>/*.jpg`), a `datasets.Dataset` or
    a hub id with the columns image and label. `class_names` says the classes in words: a mapping from their own names,
    or a list in the labels' order; otherwise folders and labels are taken, `_` read as a blank. A class is the mean of
    its sentences' embeddings, one for each of `templates`, made unit length again (Radford et al. 2021, arXiv
    2103.00020, section 3.1.4). `cache` is a folder that keeps embeddings, see `encode_once`.
    A wrong class that ties is ranked before the right one, and counted; chance is k / classes.
    Raises BadInput for a picture that cannot be read, a label without a class, a template without its one {}: nothing
    is scored, unless `on_error="skip"` leaves such pictures out and counts them in `skipped`.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; each k must be at least 1")
    skipped = error_list(on_error)
    cases, classes = load_classification(source, class_names, split, skipped)
    sentences = [sentence for name in classes for sentence in _sentences(templates, name)]
    encoded = encode_once(embedder, [case.image for case in cases], sentences, batch_size, cache)
    of_class = encoded.texts.astype(np.float64).reshape(len(classes), len(templates), -1).mean(axis=1)
    length = np.linalg.norm(of_class, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(
            f"the sentences of {classes[int(np.argmin(length))]!r} cancel each other; give other templates"
        )
    of_class = (of_class / length).astype(np.float32)
    found = _ranked(encoded.images, of_class, np.array([case.label for case in cases]))
    data = data_fingerprint(["classification", encoded.data, *(str(case.label) for case in cases)])
    scored = tuple(
        ClassificationCase(case.image, case.label, case.key, int(rival), float(margin))
        for case, rival, margin in zip(cases, found.rival, found.margin, strict=True)
    )
    return _result(scored, found, tuple(classes), tuple(templates), ks, seed, data, tuple(skipped or ()))


def _sentences(templates: Sequence[str], name: str) -> list[str]:
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates or isinstance(templates, str):
        given = repr(wrong[0]) if wrong else repr(templates)
        raise BadInput(f"templates hold {given}; each is a text with one {{}} for the class, as 'a photo of a {{}}.'")
    return [template.replace("{}", name) for template in templates]


def _ranked(images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> Ranks:
    """Where the right class stands for each picture, and which wrong one scores highest."""
    blocks = [slice(start, start + BLOCK) for start in range(0, len(images), BLOCK)]
    numbers = np.arange(len(classes))
    return joined([ranks(all_dots(images[at], classes), labels[at, None] == numbers) for at in blocks])


def _result(
    cases: tuple[ClassificationCase, ...],
    found: Ranks,
    classes: tuple[str, ...],
    templates: tuple[str, ...],
    ks: Sequence[int],
    seed: int,
    data: str,
    skipped: tuple[str, ...],
) -> ClassificationResult:
    names = [classes[case.label] for case in cases]
    seen = [name for name in classes if name in set(names)]
    chance = 100 / len(classes)
    margins = ChoiceScores(margin=found.margin)
    per_class = category_scores(
        margins, names, range(len(cases)), dict.fromkeys(seen, chance), {"mean per class": seen}, seed
    )
    return ClassificationResult(
        top={k: score(found.rank < k, min(100.0, k * chance), found.tied, seed=seed) for k in ks},
        mean_per_class=per_class.pop("mean per class"),
        per_class=per_class,
        classes=classes,
        templates=templates,
        n=len(cases),
        ties=found.ties,
        cases=cases,
        data=data,
        skipped=skipped,
    )


def load_classification(
    source: str | Path | datasets.Dataset,
    class_names: Mapping[str, str] | Sequence[str] | None = None,
    split: str = "test",
    skipped: list[str] | None = None,
) -> tuple[list[ClassificationCase], list[str]]:
    """Read and check the pictures and the classes' names, as `evaluate_classification` takes them.

    With a list `skipped`, refused pictures are noted there and the others returned.
    """
    if is_hub_id(source):
        classes, readers = _from_dataset(hub_dataset(str(source), split))
    elif isinstance(source, str | Path):
        classes, readers = _from_folder(Path(source), split)
    else:
        classes, readers = _from_dataset(pick_split(source, split))
    named = _in_words(classes, class_names)
    cases: list[ClassificationCase] = []
    for where, read in readers:
        with collect_errors(skipped):
            case = read()
            if not isinstance(case.label, int) or not 0 <= case.label < len(named):
                raise BadInput(f"{where}: the label is {case.label!r}; it must be a number from 0 to {len(named) - 1}")
            check_image(case.image, where)
            cases.append(case)
    if not cases:
        raise BadInput(f"{source}: no picture in it can be used{': ' + skipped[0] if skipped else ''}")
    return cases, named


def _in_words(classes: list[str], class_names: Mapping[str, str] | Sequence[str] | None) -> list[str]:
    if isinstance(class_names, Mapping):
        missing = [name for name in classes if name not in class_names]
        if missing:
            raise BadInput(f"class_names has nothing for {', '.join(missing[:5])}; name every class")
        named = [class_names[name] for name in classes]
    else:
        named = list(class_names) if class_names is not None else [name.replace("_", " ") for name in classes]
    if len(named) < 2 or (classes and len(named) != len(classes)):
        raise BadInput(f"{len(named)} class names for {len(classes)} classes; give one for each, and at least two")
    named = [clean_caption(name, "class name", f"class {place}") for place, name in enumerate(named)]
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise BadInput(f"the class name {twice[0]!r} stands for several classes; no picture could be told apart by it")
    return named


Readers = Iterator[tuple[str, Callable[[], ClassificationCase]]]


def _from_folder(source: Path, split: str) -> tuple[list[str], Readers]:
    folder = source / split if (source / split).is_dir() else source
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; give an ImageFolder, with one folder of pictures for each class")
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise BadInput(f"{folder} holds no folders; an ImageFolder has one folder of pictures for each class")

    def readers() -> Readers:
        for label, name in enumerate(classes):
            for path in sorted((folder / name).iterdir()):
                if path.suffix.lower() in ENDINGS:
                    key = f"{name}/{path.name}"
                    yield key, partial(ClassificationCase, path, label, key)

    return classes, readers()


def _from_dataset(dataset: datasets.Dataset) -> tuple[list[str], Readers]:
    image = next((name for name in IMAGE_COLUMNS if name in dataset.column_names), None)
    column = next((name for name in LABEL_COLUMNS if name in dataset.column_names), None)
    if image is None or column is None:
        raise BadInput(
            f"the dataset has the columns {', '.join(dataset.column_names)}; needed are image and label: rename them "
            "with dataset.rename_columns({'picture': 'image', 'target': 'label'})"
        )
    classes = list(getattr(dataset.features[column], "names", None) or [])

    def readers() -> Readers:
        for index, row in enumerate(rows_undecoded(dataset, [image])):
            yield f"dataset row {index}", partial(ClassificationCase, row[image], row[column], str(index))

    return classes, readers()

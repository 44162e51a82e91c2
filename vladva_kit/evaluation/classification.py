"""Zero-shot classification: an image against the names of all classes, each in several sentences (CLIP)."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vladva_kit.data.validation import clean_caption, error_list, split_names, visible_files
from vladva_kit.embedder.identity import image_key
from vladva_kit.evaluation.bootstrap import Score, category_scores, score
from vladva_kit.evaluation.cases import CaseScore, Result, read_cases, result_fields
from vladva_kit.evaluation.encoding import EncoderOrScorer, Scored, encode_once
from vladva_kit.evaluation.hub_data import DataSource, dataset_entries, find_columns, open_dataset
from vladva_kit.evaluation.metrics import Margins, ranks
from vladva_kit.evaluation.retrieval import ranks_in_blocks
from vladva_kit.models.images import IMAGE_SUFFIXES, BadInput

TEMPLATES = ("a photo of a {}.",)
ClassNames = Mapping[str, str] | Sequence[str] | None


@dataclass(frozen=True)
class ClassificationCase:
    """An image with its class and the wrong class that scores highest; right if `margin` is above zero."""

    image: Any = field(repr=False)
    label: int
    id: str
    hardest_negative: int = 0
    margin: float = 0.0


@dataclass(frozen=True)
class ClassificationResult(Result):
    """Top-k accuracy over all images, the mean over classes, and each class: `result.top[1].percent`."""

    top: dict[int, Score]
    mean_per_class: Score
    per_class: dict[str, Score]
    classes: tuple[str, ...]
    templates: tuple[str, ...]

    def per_case(self) -> Iterator[CaseScore]:
        """Yield each image once, with its class and the hardest wrong class."""
        for case in self.cases:
            true, wrong = self.classes[case.label], self.classes[case.hardest_negative]
            image = image_key(case.image)[:16]
            yield CaseScore("top-1", case.id, true, image, true, wrong, case.margin, case.margin > 0)

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values; the images are left out."""
        values = super().as_dict()
        return {"accuracy": {f"top-{k}": one for k, one in values.pop("top").items()}} | values


def evaluate_classification(
    embedder: EncoderOrScorer,
    source: DataSource,
    templates: Sequence[str] = TEMPLATES,
    class_names: ClassNames = None,
    split: str = "test",
    ks: Sequence[int] = (1, 5),
    batch_size: int = 64,
    seed: int = 0,
    on_error: str = "raise",
    cache: str | Path | None = None,
) -> ClassificationResult:
    """Classify zero-shot as CLIP does: `evaluate_classification(embedder, "imagenet/val").top[1].percent`.

    `source` is an ImageFolder (`<source>/<split>/<class>/*.jpg`, or `<source>/<class>/*.jpg`), a `datasets.Dataset` or
    a hub id with the columns image and label. `class_names` maps folder or label names to words, or lists the words in
    the labels' order; by default they are the names with `_` replaced by a space. A class embedding is the mean of its
    sentences' embeddings, one per template, normalized (Radford et al. 2021, arXiv 2103.00020, section 3.1.4); a
    scorer's score of a class is the mean over its sentences.
    A wrong class with the same score ranks before the right one; chance is k / classes. Classes of one name, as two
    pairs in CLIP's own ImageNet names, tie and count as wrong, which a warning says. Hidden files and folders are left
    out, and images of a class may lie at any depth.
    Raises BadInput for an unreadable image, a label without a class, or a template without exactly one {}.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"ks is {tuple(ks)}; each k must be at least 1")
    skipped = error_list(on_error)
    cases, classes = load_classification(source, class_names, split, skipped)
    sentences = [sentence for name in classes for sentence in _fill(templates, name)]
    classes = _distinct(classes)
    encoded = encode_once(embedder, [case.image for case in cases], sentences, batch_size, cache)
    labels = [{case.label} for case in cases]
    if isinstance(encoded, Scored):
        ranked = ranks(encoded.all_scores().reshape(len(cases), len(classes), -1).mean(axis=2), labels)
    else:
        prototypes = _class_embeddings(encoded.texts.reshape(len(classes), len(templates), -1), classes)
        ranked = ranks_in_blocks(encoded.images, prototypes, labels)
    chance, names = 100 / len(classes), [classes[case.label] for case in cases]
    present = [name for name in classes if name in set(names)]
    margins, images = Margins(ranked.margin, ranked.margin == 0), encoded.image_index.tolist()
    chances = dict.fromkeys(present, chance)
    per_class = category_scores(margins, names, images, chances, {"mean per class": present}, seed)
    contents = [encoded.data, *(str(case.label) for case in cases)]
    per_case = {"hardest_negative": ranked.hardest_negative, "margin": ranked.margin}
    return ClassificationResult(
        top={k: score(ranked.rank < k, min(100.0, k * chance), ranked.tied, images, seed) for k in ks},
        mean_per_class=per_class.pop("mean per class"),
        per_class=per_class,
        classes=tuple(classes),
        templates=tuple(templates),
        **result_fields("classification", cases, contents, skipped, ranked.tied, **per_case),
    )


def _fill(templates: Sequence[str], name: str) -> list[str]:
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates or isinstance(templates, str):
        found = wrong[0] if wrong else templates
        raise BadInput(f"templates hold {found!r}; give a list of texts with one {{}} each, such as {TEMPLATES[0]!r}")
    return [template.replace("{}", name) for template in templates]


def _distinct(names: list[str]) -> list[str]:
    """Tell classes of one name apart by their number, and warn that no image can be told apart by such a name."""
    repeated = {name: count for name, count in Counter(names).items() if count > 1}
    if repeated:
        listed = ", ".join(f"{name!r} ({count} classes)" for name, count in sorted(repeated.items())[:5])
        warnings.warn(f"images of classes that share a name count as wrong: {listed}", stacklevel=3)
    return [f"{name} (class {index})" if name in repeated else name for index, name in enumerate(names)]


def _class_embeddings(texts: np.ndarray, classes: list[str]) -> np.ndarray:
    """Average the templates' embeddings (classes, templates, dim) to unit vectors (classes, dim) float32."""
    means = texts.astype(np.float64).mean(axis=1)
    length = np.linalg.norm(means, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"the sentences of {classes[int(np.argmin(length))]!r} average to zero; give other templates")
    return (means / length).astype(np.float32)


def load_classification(
    source: DataSource, class_names: ClassNames = None, split: str = "test", skipped: list[str] | None = None
) -> tuple[list[ClassificationCase], list[str]]:
    """Read and check images and class names, as `evaluate_classification` does."""
    dataset = open_dataset(source, split)
    classes, entries = _from_folder(Path(source), split) if dataset is None else _from_dataset(dataset)
    names = _class_names(classes, class_names)

    def read(entry: tuple[str, Any, Any], location: str) -> ClassificationCase:
        key, image, label = entry
        if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(names):
            cast = ": dataset.class_encode_column('label') numbers text labels" if isinstance(label, str) else ""
            raise BadInput(
                f"{location}: the label is {label!r}; it must be a number from 0 to {len(names) - 1} (int){cast}"
            )
        return ClassificationCase(image, label, key)

    return read_cases(entries, read, source, skipped), names


def _class_names(classes: list[str], class_names: ClassNames) -> list[str]:
    if isinstance(class_names, str):
        raise BadInput(f"class_names is the text {class_names!r}; give a list of names")
    if isinstance(class_names, Mapping):
        missing = [name for name in classes if name not in class_names]
        if missing:
            raise BadInput(f"class_names lacks {', '.join(missing[:5])}; name every class")
        class_names = [class_names[name] for name in classes]
    if class_names is None and not classes:
        raise BadInput(
            "the labels have no names: give class_names=[…] in the labels' order, or make the column a ClassLabel with "
            "dataset.class_encode_column('label')"
        )
    names = list(class_names) if class_names is not None else [name.replace("_", " ") for name in classes]
    if len(names) < 2 or (classes and len(names) != len(classes)):
        raise BadInput(f"{len(names)} class names for {len(classes)} classes; give one for each, and at least two")
    return [clean_caption(name, "class name", f"class {index}") for index, name in enumerate(names)]


def _from_folder(source: Path, split: str) -> tuple[list[str], Iterator[Any]]:
    """Return the names of the classes, and each location with (key, image, label)."""
    folder = source / split if (source / split).is_dir() else source
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give an ImageFolder, with one folder of images per class")
    splits, others = split_names(folder)
    if splits and not others:
        raise BadInput(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
    classes = sorted([*splits, *others])
    if not classes:
        raise BadInput(f"{folder} holds no folders; an ImageFolder has one folder of images per class")
    files = [visible_files(folder / name, IMAGE_SUFFIXES) for name in classes]
    images = [(path, label) for label, paths in enumerate(files) for path in paths]
    empty = [name for name, paths in zip(classes, files, strict=True) if not paths]
    if empty:
        listed = ", ".join(empty[:5])
        warnings.warn(f"{folder}: no images in the classes {listed}, which are still possible answers", stacklevel=4)
    keys = (path.relative_to(folder).as_posix() for path, _ in images)
    return classes, ((key, (key, *image)) for key, image in zip(keys, images, strict=True))


def _from_dataset(dataset: Any) -> tuple[list[str], Iterator[Any]]:
    labels = ("label", "labels", "fine_label", "class")
    image, label = find_columns(dataset, image=("image", "img", "images"), label=labels)
    rows = dataset_entries(dataset, [image])
    entries = ((location, (key, row[image], row[label])) for location, (key, row) in rows)
    return list(getattr(dataset.features[label], "names", None) or []), entries

"""Evaluate generated captions against human captions: CIDEr and ROUGE-L as computed by COCO's official evaluation."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vladva_kit.data.validation import error_list
from vladva_kit.evaluation.bootstrap import Score, score
from vladva_kit.evaluation.caption_files import load_caption_file
from vladva_kit.evaluation.cases import CaseScore, Result, plain
from vladva_kit.evaluation.encoding import content_digest, data_fingerprint
from vladva_kit.evaluation.generation import SHORT_REQUEST, Generator, generate

METRICS = {"CIDEr": "cider.cider.Cider", "ROUGE-L": "rouge.rouge.Rouge"}  # both are means over images


@dataclass(frozen=True)
class CaptionResult(Result):
    """CIDEr and ROUGE-L times 100, with intervals over images, and every generated caption."""

    scores: dict[str, Score]
    captions: tuple[str, ...] = field(repr=False)
    references: tuple[tuple[str, ...], ...] = field(repr=False)
    per_image: dict[str, tuple[float, ...]] = field(repr=False)  # each metric's value for each caption
    images: tuple[str, ...] = field(repr=False)  # first 16 digits of each image's SHA-256

    def per_case(self) -> Iterator[CaseScore]:
        """Yield each caption once per metric, with the first human caption."""
        for name, values in self.per_image.items():
            for case, value in enumerate(values):
                texts = self.references[case][0], self.captions[case]
                yield CaseScore(name, str(case), "", self.images[case], *texts, value, correct=None, value=value)

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON values."""
        values = plain(self)
        return values.pop("scores") | values | {"captions": list(self.captions)}


def evaluate_captions(
    embedder: Generator,
    source: str | Path,
    image_folder: str | Path | None = None,
    split: str = "test",
    request: str = SHORT_REQUEST,
    max_new_tokens: int = 30,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    on_error: str = "raise",
) -> CaptionResult:
    """Generate captions greedily and score them: `evaluate_captions(embedder, "dataset_coco.json", "coco").scores`.

    `source` and `image_folder` are as in `load_caption_file`; all captions of an image are references. Inside
    `with embedder.base():` the base model generates, for a comparison before and after training. Needs the optional
    extra `vladva-kit[captions]` (pycocoevalcap) and Java, which COCO's tokenizer runs on.
    Raises BadInput as `load_caption_file` does, and ImportError if the extra is not installed.
    """
    metrics = {name: _metric(path) for name, path in METRICS.items()}
    tokenizer = _metric("tokenizer.ptbtokenizer.PTBTokenizer")
    skipped = error_list(on_error)
    cases = load_caption_file(source, image_folder, split, skipped)[:limit]
    images = [case.image for case in cases]
    captions = generate(embedder, images, [request] * len(images), None, max_new_tokens, batch_size)
    references = tokenizer.tokenize({i: [{"caption": text} for text in case.captions] for i, case in enumerate(cases)})
    generated = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(captions)})
    values = {
        name: tuple(map(float, metric.compute_score(references, generated)[1])) for name, metric in metrics.items()
    }
    digests = [content_digest(image) for image in images]
    contents = (text for digest, case in zip(digests, cases, strict=True) for text in (digest, *case.captions))
    return CaptionResult(
        scores={name: score(each, 0.0, seed=seed) for name, each in values.items()},
        captions=tuple(captions),
        references=tuple(case.captions for case in cases),
        per_image=values,
        images=tuple(digest[:16] for digest in digests),
        n=len(cases),
        data=data_fingerprint(["captions", *contents]),
        skipped=tuple(skipped or ()),
    )


def _metric(path: str) -> Any:
    """Create an object of pycocoevalcap from the path of its class."""
    module, _, name = f"pycocoevalcap.{path}".rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)()
    except ImportError as error:
        raise ImportError(
            f"caption quality is computed by pycocoevalcap, which is not installed ({error}); "
            "run pip install 'vladva-kit[captions]'"
        ) from error

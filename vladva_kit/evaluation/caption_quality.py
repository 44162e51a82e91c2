"""Caption quality against people's captions: CIDEr and ROUGE-L as COCO's own evaluation computes them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vladva_kit.data.validation import error_list
from vladva_kit.evaluation.bootstrap import Score, score
from vladva_kit.evaluation.caption_files import load_caption_file
from vladva_kit.evaluation.encoding import content_digest, data_fingerprint
from vladva_kit.evaluation.generation import SHORT_REQUEST, Generator, ask
from vladva_kit.evaluation.per_case import CaseScore

METRICS = {"CIDEr": "cider.cider.Cider", "ROUGE-L": "rouge.rouge.Rouge"}  # both are means over pictures


@dataclass(frozen=True)
class CaptionResult:
    """CIDEr and ROUGE-L times 100, with intervals over pictures, and every caption given; 0 is what silence has."""

    scores: dict[str, Score]
    n: int
    captions: tuple[str, ...] = field(repr=False)
    references: tuple[tuple[str, ...], ...] = field(repr=False)
    per_picture: dict[str, tuple[float, ...]] = field(repr=False)  # each metric's value of each caption
    pictures: tuple[str, ...] = field(repr=False)  # the start of each one's SHA-256
    data: str = ""  # fingerprint of the pictures and people's captions
    skipped: tuple[str, ...] = ()  # why a picture was left out, where that was asked for

    def margins(self) -> Iterator[CaseScore]:
        """Each caption once by each metric, beside the first of people's."""
        for name, values in self.per_picture.items():
            for case, value in enumerate(values):
                told = name, str(case), "", self.pictures[case], self.references[case][0], self.captions[case]
                yield CaseScore(*told, value, correct=None, value=value)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and texts for JSON."""
        return {
            **{name: asdict(one) for name, one in self.scores.items()},
            "n": self.n,
            "data": self.data,
            "skipped": list(self.skipped),
            "captions": list(self.captions),
        }


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
    """Captions by greedy decoding, judged by pycocoevalcap: `evaluate_captions(embedder, "dataset_coco.json", "coco")`.

    `source` and `image_folder` are as `load_caption_file` takes them; all of a picture's captions are references. With
    `with embedder.base():` around it, the untouched LVLM speaks: before and after. Needs the optional extra
    `vladva-kit[captions]` and Java, which COCO's tokenizer runs on.
    Raises BadInput as `load_caption_file` does, and ImportError with the way out where the extra is not installed.
    """
    metrics = {name: _metric(place) for name, place in METRICS.items()}
    tokenizer = _metric("tokenizer.ptbtokenizer.PTBTokenizer")
    skipped = error_list(on_error)
    gallery = load_caption_file(source, image_folder, split, skipped)[:limit]
    images = [one.image for one in gallery]
    captions = ask(embedder, images, [request] * len(images), None, max_new_tokens, batch_size)
    people = tokenizer.tokenize({at: [{"caption": text} for text in one.captions] for at, one in enumerate(gallery)})
    said = tokenizer.tokenize({at: [{"caption": text}] for at, text in enumerate(captions)})
    values = {name: tuple(map(float, metric.compute_score(people, said)[1])) for name, metric in metrics.items()}
    digests = [content_digest(image) for image in images]
    contents = (text for digest, one in zip(digests, gallery, strict=True) for text in (digest, *one.captions))
    return CaptionResult(
        scores={name: score(each, 0.0, seed=seed) for name, each in values.items()},
        n=len(gallery),
        captions=tuple(captions),
        references=tuple(one.captions for one in gallery),
        per_picture=values,
        pictures=tuple(digest[:16] for digest in digests),
        data=data_fingerprint(["captions", *contents]),
        skipped=tuple(skipped or ()),
    )


def _metric(place: str) -> Any:
    module, _, name = f"pycocoevalcap.{place}".rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)()
    except ImportError as error:
        raise ImportError(
            f"caption quality is computed by pycocoevalcap, which is not installed ({error}); "
            "run pip install 'vladva-kit[captions]'"
        ) from error

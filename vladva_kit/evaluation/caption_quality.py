"""Evaluate generated captions against human captions: CIDEr and ROUGE-L as computed by COCO's official evaluation."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vladva_kit.data.validation import error_list
from vladva_kit.embedder.identity import image_key
from vladva_kit.evaluation.bootstrap import Score, score
from vladva_kit.evaluation.caption_files import load_caption_file
from vladva_kit.evaluation.cases import CaseScore, Result, plain
from vladva_kit.evaluation.encoding import data_fingerprint
from vladva_kit.evaluation.generation import SHORT_REQUEST, Generator, generate


@dataclass(frozen=True)
class CaptionResult(Result):
    """CIDEr and ROUGE-L times 100, with intervals over images, and every generated caption.

    `cases` has each caption once per metric, with the first human caption.
    """

    scores: dict[str, Score]
    captions: tuple[str, ...] = field(repr=False)

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
    Raises BadInput as `load_caption_file` does, and ImportError if the extra or Java is not installed.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        raise ImportError(
            f"pycocoevalcap is not installed ({error}); run pip install 'vladva-kit[captions]'"
        ) from error
    if shutil.which("java") is None:
        raise ImportError("java is not on the PATH; install a Java runtime, which the tokenizer of pycocoevalcap needs")
    skipped, tokenizer = error_list(on_error), PTBTokenizer()
    gallery = load_caption_file(source, image_folder, split, skipped)[:limit]
    images, human = [one.image for one in gallery], [one.captions for one in gallery]
    captions = generate(embedder, images, [request] * len(images), None, max_new_tokens, batch_size)
    references = tokenizer.tokenize({i: [{"caption": text} for text in texts] for i, texts in enumerate(human)})
    generated = tokenizer.tokenize({i: [{"caption": text}] for i, text in enumerate(captions)})
    digests = [image_key(image) for image in images]
    contents = (text for digest, texts in zip(digests, human, strict=True) for text in (digest, *texts))
    scores, cases = {}, []
    for name, metric in (("CIDEr", Cider()), ("ROUGE-L", Rouge())):  # both are means over images
        values = [float(value) for value in metric.compute_score(references, generated)[1]]
        scores[name] = score(values, None, groups=digests, seed=seed)
        for i, value in enumerate(values):
            texts = human[i][0], captions[i]
            cases.append(CaseScore(name, str(i), "", digests[i][:16], *texts, value, correct=None, value=value))
    return CaptionResult(
        scores=scores,
        captions=tuple(captions),
        n=len(gallery),
        cases=tuple(cases),
        data=data_fingerprint(["captions", *contents]),
        skipped=tuple(skipped or ()),
    )

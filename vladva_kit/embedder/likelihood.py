"""Score captions by their likelihood given an image: the LVLM's own answer, where an embedding is a summary of it.

Each caption is the answer to a request, as the chat template writes it. The image and the request are the same for all
captions, so their keys and values are computed once per image; each caption then costs only its own tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.embedder.activations import MAX_LOGITS_PER_CHUNK
from vladva_kit.embedder.continuation import Pairs, Task, collect_pairs, score_all, score_without_image
from vladva_kit.embedder.embedder import Embedder
from vladva_kit.embedder.identity import model_fingerprint
from vladva_kit.embedder.prompts import (
    SHORT_REQUEST,
    encode_captions,
    image_prompt,
    question_prompt,
    space_before_answer,
    token_limit,
)
from vladva_kit.models.device import memory_advice
from vladva_kit.models.images import ImageLike
from vladva_kit.models.load import LVLM

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'  # VQAScore's (Lin et al. 2024, section 3)
LARGE = 10_000  # scores from which the duration is estimated and printed first
Model = LVLM | Embedder  # an LVLM is scored without its adapter, an Embedder as it embeds


@dataclass(frozen=True)
class Cost:
    """The cost of a run: `str(cost)` is "2,500 images x 10 captions: 25,000 scores, about 4 minutes"."""

    images: int
    captions: int
    scores: int
    seconds: float  # extrapolated from one batch

    def __str__(self) -> str:
        units = ((3600, "hours"), (60, "minutes"), (1, "seconds"))
        size, unit = next((one for one in units if self.seconds >= 2 * one[0]), units[-1])
        return (
            f"{self.images:,} images x {self.captions:,} captions: {self.scores:,} scores, "
            f"about {self.seconds / size:.0f} {unit}"
        )


def likelihood(
    model: Model,
    images: Sequence[ImageLike],
    captions: Sequence[str],
    *,
    paired: bool = False,
    reduce: Literal["mean", "sum"] = "mean",
    alpha: float = 0.0,
    request: str = SHORT_REQUEST,
    batch_size: int = 64,
    share_prefix: bool | None = None,
    progress: bool = True,
) -> Tensor:
    """Score captions by their log-probability given each image: (n_images, n_captions) float32, or (n,) if `paired`.

        likelihood(lvlm, ["dog.jpg", image], ["a dog", "two cats", "a car"])           # (2, 3)
        likelihood(lvlm, [image, image], ["a dog", "a cat"], paired=True, alpha=0.5)   # (2,)
        with embedder.base(): likelihood(embedder, images, captions)                   # adapter off

    reduce: the mean over the caption's tokens, or their sum. alpha: this share of the same log-probability without the
    image is subtracted, which removes the bias to frequent captions (VisualGPTScore: Lin et al. 2024, 2306.01879).
    request: the user's turn; the caption is the answer. batch_size: captions per forward pass; each holds a copy of its
    image's keys and values. share_prefix: compute these once per image, by default in all verified families. Before a
    run of more than 10,000 scores, its estimated duration is printed. A score is NaN if the model's states are.
    Raises ValueError for an empty caption or if the chat template does not show the request, BadInput for an image that
    cannot be read, TypeError for a single image or caption.
    """
    if reduce not in ("mean", "sum"):
        raise ValueError(f"reduce is {reduce!r}; pass 'mean' or 'sum'")
    if not math.isfinite(alpha):
        raise ValueError(f"alpha is {alpha}; pass a finite number, such as 0.5")
    embedder = _embedder(model)
    pairs = collect_pairs(images, captions, paired)
    task = _caption_task(embedder, pairs.captions, request, reduce)
    _print_cost(embedder, pairs, task, batch_size, share_prefix, progress)
    with embedder.inference(), _advice(batch_size):
        flat = score_all(embedder, pairs, task, batch_size, share_prefix, progress)
        if alpha:
            without = score_without_image(embedder, task, request, batch_size)
            flat = flat - alpha * without[[caption for row in pairs.rows for caption in row]]
    return pairs.arrange(flat)


def yes_probability(
    model: Model,
    images: Sequence[ImageLike],
    captions: Sequence[str],
    *,
    paired: bool = False,
    question: str = QUESTION,
    answers: tuple[str, str] = ("yes", "no"),
    batch_size: int = 64,
    share_prefix: bool | None = None,
    progress: bool = True,
) -> Tensor:
    """Ask whether each image shows each caption: P(yes) / (P(yes) + P(no)), (n_images, n_captions) or (n,) if `paired`.

        yes_probability(lvlm, ["dog.jpg"], ["a dog", "a cat"], question="is there {}?")    # (1, 2), from 0 to 1

    The probabilities of all spellings of an answer that are one token are summed: yes, Yes, YES, each also with a space
    before it (VQAScore: Lin et al. 2024, 2404.01291). `question` contains {} once. Other options as in `likelihood`; in
    families whose prompt attends to the whole question the prefix cannot be shared.
    Raises as `likelihood` does, and ValueError if no spelling of an answer is one token.
    """
    if question.count("{}") != 1:
        raise ValueError(f"question is {question!r}; it must contain {{}} once, for the caption")
    embedder = _embedder(model)
    pairs = collect_pairs(images, captions, paired)
    positive, negative = answer_ids(embedder.lvlm, answers)

    def read(states: Tensor, chosen: list[int]) -> Tensor:
        last = torch.tensor([len(task.fed[caption]) for caption in chosen], device=states.device)
        logits = embedder.logits(states[torch.arange(len(states), device=states.device), last]).float()
        return torch.sigmoid(logits[:, positive].logsumexp(-1) - logits[:, negative].logsumexp(-1))

    lvlm = embedder.lvlm
    family = lvlm.family
    if family.caption_token_type_id:  # the image attends to the question, which differs between captions
        family, share_prefix = replace(family, caption_token_type_id=0), False
    prompt, space, after = _located(lvlm, lambda: question_prompt(lvlm.processor, question, family))
    fed = [[*ids, *after] for ids in _encode(lvlm, [space + caption for caption in pairs.captions])]
    task = Task(prompt, fed, read)
    _print_cost(embedder, pairs, task, batch_size, share_prefix, progress)
    with embedder.inference(), _advice(batch_size):
        return pairs.arrange(score_all(embedder, pairs, task, batch_size, share_prefix, progress))


def _advice(batch_size: int) -> AbstractContextManager[None]:
    smaller = f"pass batch_size={max(1, batch_size // 4)}, or load the model with max_pixels=…"
    return memory_advice(lambda: f"while scoring with batch_size={batch_size}: {smaller}")


def likelihood_cost(
    model: Model, images: Sequence[ImageLike], captions: Sequence[str], request: str = SHORT_REQUEST, probe: int = 32
) -> Cost:
    """Estimate the cost of `likelihood` for all pairs from `probe` captions of the first image.

    print(likelihood_cost(lvlm, images, captions))    # 2,500 images x 10 captions: 25,000 scores, about 4 minutes
    """
    embedder = _embedder(model)
    pairs = collect_pairs(images, captions, paired=False)
    return _cost(embedder, pairs, _caption_task(embedder, pairs.captions, request, "mean"), probe, None)


def answer_ids(lvlm: LVLM, answers: tuple[str, str] = ("yes", "no")) -> tuple[list[int], list[int]]:
    """Return the ids of all spellings of two answers that are one token: `answer_ids(lvlm)[0]`.

    Raises ValueError if none of an answer's spellings is one token, or if both answers share one.
    """
    tokenizer, found = lvlm.processor.tokenizer, []
    if isinstance(answers, str) or len(answers) != 2:
        raise ValueError(f"answers is {answers!r}; pass two words, such as ('yes', 'no')")
    for answer in answers:
        spellings = [space + word for word in (answer, answer.capitalize(), answer.upper()) for space in ("", " ")]
        ids = [tokenizer(spelling, add_special_tokens=False).input_ids for spelling in spellings]
        single = sorted({one[0] for one in ids if len(one) == 1} - {tokenizer.unk_token_id})
        if not single:
            reads = f"splits '{answer}' into {len(ids[0])} tokens" if len(ids[0]) > 1 else f"does not know '{answer}'"
            raise ValueError(
                f"{lvlm.name} {reads}, so its probability is not that of one token: pass answers=(…, …) with two words "
                "that are one token each, or use likelihood"
            )
        found.append(single)
    if set(found[0]) & set(found[1]):
        raise ValueError(f"the answers {answers} have a token in common in {lvlm.name}: pass two different words")
    return found[0], found[1]


@dataclass(frozen=True)
class LikelihoodScorer:
    """Score images with captions by likelihood, wherever a benchmark takes an encoder.

        evaluate_winoground(LikelihoodScorer(load_lvlm("emoji-llava")), sample("winoground_mini")).group
        LikelihoodScorer(embedder, question="is there {}?").similarity(images, captions)    # (n_images, n_captions)

    With `question` the score is `yes_probability`, otherwise `likelihood` with the other options. More than
    `max_scores` scores at once are refused, since each needs a forward pass: embed large galleries, and re-rank the
    best hits.
    """

    model: Model
    reduce: Literal["mean", "sum"] = "mean"
    alpha: float = 0.0
    request: str = SHORT_REQUEST
    question: str | None = None
    batch_size: int = 64
    max_scores: int = 200_000

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of the model and the options that the scores depend on."""
        embedder = _embedder(self.model)
        options = [self.reduce, self.alpha, self.request, self.question]
        return hashlib.sha256(json.dumps([model_fingerprint(embedder), *options]).encode()).hexdigest()

    def similarity(self, images: Sequence[ImageLike], captions: Sequence[str]) -> Tensor:
        """Score each image with each caption: (n_images, n_captions) float32.

        Raises ValueError with the estimated duration for more than `max_scores` scores.
        """
        self.check_size(images, captions)
        return self._score(images, captions, paired=False)

    def score_pairs(self, images: Sequence[ImageLike], captions: Sequence[str]) -> Tensor:
        """Score each image with the caption at the same index: (n,) float32; a repeated image is processed once."""
        return self._score(images, captions, paired=True)

    def check_size(self, images: Sequence[ImageLike], captions: Sequence[str]) -> None:
        """Raise ValueError with the estimated duration if all pairs are more than `max_scores`."""
        if len(images) * len(captions) > self.max_scores:
            raise ValueError(
                f"{likelihood_cost(self.model, images, captions, self.request)}, more than max_scores="
                f"{self.max_scores:,}: embed the images and re-rank the best hits, or raise max_scores"
            )

    def _score(self, images: Sequence[ImageLike], captions: Sequence[str], paired: bool) -> Tensor:
        shared: dict[str, Any] = {"paired": paired, "batch_size": self.batch_size, "progress": False}
        if self.question is not None:
            return yes_probability(self.model, images, captions, question=self.question, **shared)
        options: dict[str, Any] = {"reduce": self.reduce, "alpha": self.alpha, "request": self.request}
        return likelihood(self.model, images, captions, **options, **shared)


def _embedder(model: Model) -> Embedder:
    if not isinstance(model, LVLM | Embedder):
        raise TypeError(f"a {type(model).__name__} has no likelihood: pass an LVLM or an Embedder")
    return _located(model, lambda: Embedder(model)) if isinstance(model, LVLM) else model


def _caption_task(embedder: Embedder, captions: list[str], request: str, reduce: str) -> Task:
    """Feed each caption without its last token; the state before a token gives that token's log-probability."""
    lvlm = embedder.lvlm
    prompt = _located(lvlm, lambda: image_prompt(lvlm.processor, request, lvlm.family))
    space = _located(lvlm, lambda: space_before_answer(lvlm.processor, request))
    ids = _encode(lvlm, [space + caption for caption in captions])

    def read(states: Tensor, chosen: list[int]) -> Tensor:
        return _log_probabilities(embedder, states, [ids[caption] for caption in chosen], reduce)

    return Task(prompt, [one[:-1] for one in ids], read)


def _located(lvlm: LVLM, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except ValueError as error:
        raise ValueError(
            f"the caption's tokens cannot be located for {lvlm.name}, family '{lvlm.family.model_type}' ({error}): "
            "give the processor a chat template that writes the image, the request and the answer in this order"
        ) from error


def _encode(lvlm: LVLM, captions: list[str]) -> list[list[int]]:
    ids = encode_captions(lvlm.processor.tokenizer, captions, token_limit(lvlm.model.config))
    if [] in ids:
        raise ValueError(f"caption {ids.index([])} has no tokens: {captions[ids.index([])]!r}; leave it out")
    return ids


def _log_probabilities(embedder: Embedder, states: Tensor, targets: list[list[int]], reduce: str) -> Tensor:
    """Reduce the targets' log-probabilities to (batch,) float32; logits are computed for their positions only."""
    lengths = torch.tensor([len(ids) for ids in targets], device=states.device)
    is_target = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    chosen = states[is_target]
    wanted = torch.tensor([one for ids in targets for one in ids], device=states.device)
    chunk = max(1, MAX_LOGITS_PER_CHUNK // embedder.logits(chosen[:1]).shape[-1])
    parts = [
        F.cross_entropy(embedder.logits(chosen[start : start + chunk]).float(), wanted[start : start + chunk],
                        reduction="none")
        for start in range(0, len(chosen), chunk)
    ]  # fmt: skip
    by_token = states.new_zeros(is_target.shape, dtype=torch.float32)
    by_token[is_target] = -torch.cat(parts)
    return by_token.sum(1) / (lengths if reduce == "mean" else 1)


def _cost(embedder: Embedder, pairs: Pairs, task: Task, batch_size: int, share: bool | None) -> Cost:
    """Time the first image with one batch of its captions, and extrapolate."""
    row = pairs.rows[0][:batch_size]
    probe = replace(pairs, images=pairs.images[:1], rows=[row])
    start = time.perf_counter()
    with embedder.inference():
        score_all(embedder, probe, task, batch_size, share, progress=False)
    seconds = (time.perf_counter() - start) * pairs.n / len(row)
    return Cost(len(pairs.images), len(pairs.captions), pairs.n, seconds)


def _print_cost(
    embedder: Embedder, pairs: Pairs, task: Task, batch_size: int, share: bool | None, progress: bool
) -> None:
    if progress and pairs.n > LARGE:
        print(_cost(embedder, pairs, task, batch_size, share))

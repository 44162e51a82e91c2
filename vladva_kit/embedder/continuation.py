"""Feed captions to an LVLM after one image and prompt, whose keys and values are computed once per image.

All captions of an image share what stands before them, so each one costs only its own tokens. The states are those of
a forward pass over the complete sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from vladva_kit.embedder.embedder import Embedder, summary_states
from vladva_kit.embedder.prefix import run_after, run_prefix
from vladva_kit.embedder.prompts import (
    ModelInputs,
    Prompt,
    check_texts,
    image_inputs,
    padding_id,
    template_around_caption,
    text_inputs,
)
from vladva_kit.models.images import ImageLike, check_image_list, open_images

StatesOf = Callable[[list[list[int]]], Tensor]  # tokens fed, image by image, to states (batch, 1 + longest, dim)


@dataclass(frozen=True)
class Pairs:
    """Which captions each image is scored with; each different image and caption is in it once."""

    images: list[ImageLike]
    numbers: list[int]  # where each image was first given, for error messages
    captions: list[str]
    rows: list[list[int]]  # for each image, indices of captions
    order: Tensor | None  # (pairs,) where each requested pair is in the rows; None for all pairs

    @property
    def n(self) -> int:
        return sum(map(len, self.rows))

    def arrange(self, flat: Tensor) -> Tensor:
        """Return scores (pairs,), row by row, in the shape that was asked for."""
        return flat.view(len(self.images), len(self.captions)) if self.order is None else flat[self.order]


@dataclass(frozen=True)
class Task:
    """What is fed after the shared prompt for each caption, and how its score is read from the states."""

    prompt: Prompt  # what all captions share
    fed: list[list[int]]  # tokens fed after it, by caption
    read: Callable[[Tensor, list[int]], Tensor]  # states (batch, 1 + fed, dim) and caption indices to scores (batch,)


def collect_pairs(images: Sequence[ImageLike], captions: Sequence[str], paired: bool) -> Pairs:
    """Collect images and captions; paired ones are listed once each: `collect_pairs([a, a], ["b", "c"], True).rows`.

    Raises WrongType for a single image or caption, BadInput for an empty caption, ValueError for lists of different
    lengths.
    """
    check_image_list(images)
    check_texts(captions)
    if not paired:
        rows = [list(range(len(captions))) for _ in images]
        return Pairs(list(images), list(range(len(images))), list(captions), rows, None)
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images for {len(captions)} captions: with paired=True, pass one of each")
    keys = [str(image) if isinstance(image, str | Path) else id(image) for image in images]
    first = dict(reversed(list(zip(keys, range(len(keys)), strict=True))))
    image_of = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    caption_of = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    rows = [[] for _ in image_of]
    owner = torch.tensor([image_of[key] for key in keys], dtype=torch.long)
    for image, caption in zip(owner.tolist(), captions, strict=True):
        rows[image].append(caption_of[caption])
    numbers = [first[key] for key in image_of]
    order = owner.argsort(stable=True).argsort()
    return Pairs([images[number] for number in numbers], numbers, list(caption_of), rows, order)


def score_all(
    embedder: Embedder, pairs: Pairs, task: Task, batch_size: int, share: bool | None, progress: bool
) -> Tensor:
    """Score all pairs, row by row, in `embedder.inference()`: (pairs,) float32 on the CPU.

        score_all(embedder, collect_pairs(images, captions, False), task, 64, None, True)

    share: compute each image's prefix once; None for all verified families. Raises BadInput for an unreadable image.
    """
    share = embedder.lvlm.family.verified if share is None else share
    starts = [0, *accumulate(map(len, pairs.rows))]
    flat = torch.full((pairs.n,), float("nan"))
    with tqdm(total=pairs.n, desc="likelihood", unit="score", delay=2, leave=False, disable=not progress) as bar:
        for group in _image_groups(pairs, batch_size):
            images = [open_images([pairs.images[index]], pairs.numbers[index])[0] for index in group]
            width = len(pairs.rows[group[0]])
            lengths = [[len(task.fed[row]) for row in pairs.rows[index]] for index in group]
            columns = [sorted(range(width), key=of_image.__getitem__) for of_image in lengths]  # for less padding
            for part, states_of in _states(embedder, images, task, share):
                step = max(1, batch_size // len(part))
                for start in range(0, width, step):
                    chosen = [(group[one], column) for one in part for column in columns[one][start : start + step]]
                    captions = [pairs.rows[index][column] for index, column in chosen]
                    scores = task.read(states_of([task.fed[caption] for caption in captions]), captions)
                    flat[[starts[index] + column for index, column in chosen]] = scores.cpu()
                    bar.update(len(chosen))
    return flat


def _image_groups(pairs: Pairs, batch_size: int) -> Iterator[list[int]]:
    """Yield indices of images with the same number of captions, as many as fill a batch."""
    by_width = sorted((index for index, row in enumerate(pairs.rows) if row), key=lambda index: len(pairs.rows[index]))
    for width, same in groupby(by_width, key=lambda index: len(pairs.rows[index])):
        indices, size = list(same), max(1, batch_size // width)
        yield from (indices[start : start + size] for start in range(0, len(indices), size))


def _states(
    embedder: Embedder, images: list[Image.Image], task: Task, share: bool
) -> Iterator[tuple[list[int], StatesOf]]:
    """Yield indices of images, and a function that feeds the same number of captions to each of them.

    State 0 follows the prompt, state k the k-th token fed. With a shared prefix, the images of a part have prompts of
    equal length: without padding, neither sliding windows nor positions need care.
    """
    processor = embedder.lvlm.processor
    if not share:
        yield list(range(len(images))), partial(_states_of_pairs, embedder, images, task.prompt)
        return
    inputs = image_inputs(processor, images, task.prompt)
    lengths = inputs.inputs["attention_mask"].sum(1).tolist()
    for length in dict.fromkeys(lengths):
        part = [index for index, one in enumerate(lengths) if one == length]
        same = inputs if len(part) == len(images) else image_inputs(processor, [images[i] for i in part], task.prompt)
        yield part, _shared_prefix(embedder, same.to(embedder.device))


def _shared_prefix(embedder: Embedder, inputs: ModelInputs) -> StatesOf:
    """Run the images and the prompt once, and return a function that continues from their keys and values."""
    lvlm = embedder.lvlm
    prefix = run_prefix(lvlm, inputs.inputs)
    last = summary_states(prefix.states, inputs)
    prefix = replace(prefix, states=last[:, None])

    def states_of(fed: list[list[int]]) -> Tensor:
        repeats, length = len(fed) // len(last), max(map(len, fed))
        first = last.repeat_interleave(repeats, 0)[:, None]
        if not length:
            return first
        ids = torch.full((len(fed), length), padding_id(lvlm.processor.tokenizer))
        for row, tokens in enumerate(fed):
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        return torch.cat([first, run_after(lvlm, prefix, ids.to(last.device))], 1)

    return states_of


def _states_of_pairs(embedder: Embedder, images: list[Image.Image], prompt: Prompt, fed: list[list[int]]) -> Tensor:
    """Run one full sequence per image and caption."""
    repeats = len(fed) // len(images)
    repeated = [image for image in images for _ in range(repeats)]
    batch = image_inputs(embedder.lvlm.processor, repeated, prompt, fed).to(embedder.device)
    return _states_from(embedder.hidden_states(batch), batch.summary_positions, fed)


def _states_from(hidden: Tensor, positions: Tensor, fed: list[list[int]]) -> Tensor:
    """Select the states at `positions` and after them: (batch, 1 + longest, dim)."""
    columns = positions[:, None] + torch.arange(1 + max(map(len, fed)), device=hidden.device)
    return hidden[torch.arange(len(hidden), device=hidden.device)[:, None], columns.clamp(max=hidden.shape[1] - 1)]


def score_without_image(embedder: Embedder, task: Task, request: str, batch_size: int) -> Tensor:
    """Score the captions after the same request without an image, in `embedder.inference()`: (captions,) float32.

    score_without_image(embedder, task, "provide a short caption:", 64)
    """
    lvlm, scores = embedder.lvlm, torch.empty(len(task.fed))
    prompt = Prompt(request, "".join(template_around_caption(lvlm.processor, request)), (), lvlm.family)
    order = sorted(range(len(task.fed)), key=lambda caption: len(task.fed[caption]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        fed = [task.fed[caption] for caption in chosen]
        batch = text_inputs(lvlm.processor.tokenizer, fed, prompt)
        first = batch.summary_positions - torch.tensor([len(tokens) for tokens in fed])
        if lvlm.family.caption_token_type_id:
            is_caption = torch.arange(batch.inputs["input_ids"].shape[1]) > first[:, None]
            batch.inputs["token_type_ids"][is_caption] = lvlm.family.caption_token_type_id
        hidden = embedder.hidden_states(batch.to(embedder.device))
        scores[chosen] = task.read(_states_from(hidden, first.to(hidden.device), fed), chosen).cpu()
    return scores

"""Pictures and captions to token ids: the hand-written prompts, the chat template, and where the summary token is.

An image sequence is    before + image tokens + prompt (+ long caption)
a text sequence is      before + caption + prompt

and the summary token is the prompt's last one (paper, section 3). Its place is recorded when the prompt is put in:
the prompt's words may occur earlier, and a batch's rows end in padding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vladva_kit.models.families import Family
from vladva_kit.models.resolution import within

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

IMAGE_PROMPT = "Summarize the provided image in one word:"
TEXT_PROMPT = "Summarize the provided text in one word:"
IGNORE_INDEX = -100  # the label of what is not learned
GENERAL = Family("")  # the general path: nothing is special
_CAPTION = "CAPTIONGOESHERE"  # stands for the caption while the chat template is written


@dataclass(frozen=True)
class Prompt:
    """The words around an image or a caption: what stands before it, as text, and the prompt behind it, as ids.

    `appended`: how many tokens the processor writes behind `before` by itself; they are the prompt's last ones."""

    words: str
    before: str
    ids: tuple[int, ...]
    family: Family = GENERAL
    appended: int = 0


@dataclass(frozen=True)
class ModelInputs:
    """A batch for the LVLM. `inputs`: what the model takes; `summary`: (batch,) the summary token's place in each row;
    `labels`: (batch, length) the long captions' ids, IGNORE_INDEX elsewhere, or None."""

    inputs: dict[str, Tensor]
    summary: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device) -> ModelInputs:
        """The same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return ModelInputs({k: v.to(device) for k, v in self.inputs.items()}, self.summary.to(device), labels)


def image_prompt(processor: ProcessorMixin, words: str = IMAGE_PROMPT, family: Family = GENERAL) -> Prompt:
    """The image tower's prompt: all that the chat template writes behind the picture, up to the answer's first token.

    image_prompt(processor).words    # "Summarize the provided image in one word:"
    """
    text = _templated(processor, [{"type": "image"}, {"type": "text", "text": words}])
    before = text[: text.index(words)]
    appended = len(ids_after_prefix(processor.tokenizer, before, before + family.appended))
    return Prompt(
        words, before, ids_after_prefix(processor.tokenizer, before, text + family.appended), family, appended
    )


def text_prompt(processor: ProcessorMixin, words: str = TEXT_PROMPT, family: Family = GENERAL) -> Prompt:
    """The text tower's prompt: what stands before the caption, and all that is written behind it."""
    tokenizer = processor.tokenizer
    text = _templated(processor, [{"type": "text", "text": f"{_CAPTION} {words}"}])
    before, _, after = text.partition(_CAPTION)
    # where the tokenizer writes the space before a caption's first word itself, the template's would be one too many
    if before.endswith(" ") and _ids(tokenizer, before.rstrip(" ") + " " + _CAPTION) == (
        *_ids(tokenizer, before.rstrip(" ")),
        *_ids(tokenizer, _CAPTION),
    ):
        before = before.rstrip(" ")
    return Prompt(words, before, ids_after_prefix(tokenizer, _CAPTION, _CAPTION + after), family)


def ids_after_prefix(tokenizer: PreTrainedTokenizerBase, start: str, text: str) -> tuple[int, ...]:
    """The ids of what stands in `text` behind `start`, as they are in the whole: a tokenizer that puts a space before a
    text's first word would add one in the middle. Where the whole is cut elsewhere, the rest is taken by itself."""
    head, whole = _ids(tokenizer, start), _ids(tokenizer, text)
    return whole[len(head) :] if whole[: len(head)] == head else _ids(tokenizer, text[len(start) :])


def _templated(processor: ProcessorMixin, content: list[dict[str, str]]) -> str:
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def with_rows(prompt: Prompt, first_id: int) -> Prompt:
    """The prompt with soft rows in place of its words: ids from `first_id` on, one for each token."""
    return replace(prompt, ids=tuple(range(first_id, first_id + len(prompt.ids))))


def encode_caption(tokenizer: PreTrainedTokenizerBase, caption: str) -> list[int]:
    """A caption's token ids; a special token written in it, such as "<image>" or "<loc0001>", is read as plain text.

    encode_caption(tokenizer, "a dog")    # [17, 103]
    """
    return encode_captions(tokenizer, [caption])[0]


def encode_captions(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str]) -> list[list[int]]:
    """As `encode_caption`, of many captions in one call of the tokenizer."""
    acting, pieces, owners = _acting_words(tokenizer), [], []
    for owner, caption in enumerate(captions):
        # split_special_tokens is about those that are marked special; any other is cut behind its first character
        cuts = [0, *(match.start() + 1 for match in acting.finditer(caption))] if acting else [0]
        pieces += [caption[start:end] for start, end in zip(cuts, [*cuts[1:], None], strict=True)]
        owners += [owner] * len(cuts)
    ids: list[list[int]] = [[] for _ in captions]
    for start in range(0, len(pieces), 8192):  # what a tokenizer returns of many takes far more memory than their ids
        found = tokenizer(pieces[start : start + 8192], add_special_tokens=False, split_special_tokens=True).input_ids
        for owner, piece in zip(owners[start : start + 8192], found, strict=True):
            ids[owner] += piece
    return ids


@lru_cache(maxsize=4)
def _acting_words(tokenizer: PreTrainedTokenizerBase) -> re.Pattern | None:
    """The added tokens that are not marked special, such as PaliGemma's places and Qwen's tool calls."""
    words = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    words = sorted((word for word in words if len(word) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words))) if words else None


def begins_with_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a chat template has written the first token itself, so that the tokenizer must not add a second."""
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)


def text_inputs(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], prompt: Prompt) -> ModelInputs:
    """Captions to a batch, right-padded.

    text_inputs(tokenizer, ["a dog", "two cats"], prompt).summary    # tensor([12, 12])
    """
    return text_inputs_from_ids(tokenizer, encode_captions(tokenizer, captions), prompt)


def text_inputs_from_ids(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[Sequence[int]], prompt: Prompt
) -> ModelInputs:
    """As `text_inputs`, of what `encode_captions` made of the captions: text_inputs_from_ids(tokenizer, ids, prompt)."""
    before = tokenizer(prompt.before, add_special_tokens=not begins_with_bos(tokenizer, prompt.before)).input_ids
    rows = [[*before, *ids, *prompt.ids] for ids in captions]
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), _pad_id(tokenizer))
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = torch.tensor(ids)
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
    types = {"token_type_ids": torch.zeros_like(padded)} if prompt.family.text_needs_token_type_ids else {}
    return ModelInputs({"input_ids": padded, "attention_mask": mask, **types}, lengths - 1)


def image_inputs(
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    prompt: Prompt,
    captions: Sequence[list[int] | None] | None = None,
) -> ModelInputs:
    """Pictures to a batch, each followed by the prompt and, where given, by a long caption's ids (paper, section 3.2).

        image_inputs(processor, pictures, prompt).summary                  # (batch,)
        image_inputs(processor, pictures, prompt, [ids, None]).labels      # (batch, length)

    Whatever else the family's processor returns beside ids is passed on, prolonged where it runs along the sequence.
    """
    tokenizer, family = processor.tokenizer, prompt.family
    batch = processor(
        images=[[within(image, family.max_pixels)] for image in images],
        text=[prompt.before] * len(images),
        return_tensors="pt",
        padding=True,
        padding_side="right",
        add_special_tokens=not begins_with_bos(tokenizer, prompt.before),
    )
    return append_text_to_images(tokenizer, batch, prompt, captions)


def append_text_to_images(
    tokenizer: PreTrainedTokenizerBase,
    batch: Mapping[str, Tensor],
    prompt: Prompt,
    captions: Sequence[list[int] | None] | None = None,
) -> ModelInputs:
    """What the processor made of pictures, with the prompt and the long captions' ids put behind it, right-padded.

    append_text_to_images(tokenizer, processor(images=…, text=…), prompt, [ids, None]).summary    # (batch,)
    """
    family = prompt.family
    batch = {key: value for key, value in batch.items() if key != "labels"}  # a processor's own idea of what is learned
    starts = batch["attention_mask"].sum(1) - prompt.appended
    tails = [[*prompt.ids, *(captions[row] or [] if captions else [])] for row in range(len(starts))]
    ends = starts + torch.tensor([len(tail) for tail in tails])
    inputs = _prolonged(batch, int(ends.max()), _pad_id(tokenizer))
    labels = torch.full((len(starts), int(ends.max())), IGNORE_INDEX)
    for row, (start, end, tail) in enumerate(zip(starts.tolist(), ends.tolist(), tails, strict=True)):
        inputs["input_ids"][row, start:end] = torch.tensor(tail)
        inputs["attention_mask"][row, start:end] = 1
        answer = start + len(prompt.ids)
        labels[row, answer:end] = torch.tensor(tail[len(prompt.ids) :], dtype=torch.long)
        if family.caption_token_type_id:
            inputs["token_type_ids"][row, answer:end] = family.caption_token_type_id
        for key in family.repeat_last_along_seq:
            inputs[key][row, start:end] = batch[key][row, start - 1]
    return ModelInputs(inputs, starts + len(prompt.ids) - 1, labels if captions else None)


def _prolonged(batch: Mapping[str, Tensor], length: int, pad: int) -> dict[str, Tensor]:
    """The inputs that run along the sequence, made longer; the others as they are."""
    shape = batch["input_ids"].shape
    inputs = {}
    for key, value in batch.items():
        if value.shape[:2] == shape and not key.startswith(("pixel", "image")):
            longer = value.new_full((len(value), length, *value.shape[2:]), pad if key == "input_ids" else 0)
            longer[:, : shape[1]] = value[:, :length]
            value = longer
        inputs[key] = value
    return inputs


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

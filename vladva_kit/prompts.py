"""Pictures and captions to token ids: the hand-written prompts, the chat template, and where the summary token is.

An image sequence is    before + image tokens + prompt (+ long caption)
a text sequence is      before + caption + prompt

and the summary token is the prompt's last one (paper, section 3). Its place is recorded when the prompt is put in:
the prompt's words may occur earlier, and a batch's rows end in padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedTokenizerBase, ProcessorMixin

IMAGE_PROMPT = "Summarize the provided image in one word:"
TEXT_PROMPT = "Summarize the provided text in one word:"
IGNORED = -100  # the label of what is not learnt
_CAPTION = "CAPTIONGOESHERE"  # stands for the caption while the chat template is written


@dataclass(frozen=True)
class Prompt:
    """The words around an image or a caption: what stands before it, as text, and the prompt behind it, as ids."""

    words: str
    before: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Sequences:
    """A batch for the LVLM. `inputs`: what the model takes; `summary`: (batch,) the summary token's place in each row;
    `labels`: (batch, length) the long captions' ids, IGNORED elsewhere, or None."""

    inputs: dict[str, Tensor]
    summary: Tensor
    labels: Tensor | None = None

    def to(self, device: torch.device) -> Sequences:
        """The same batch on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Sequences({k: v.to(device) for k, v in self.inputs.items()}, self.summary.to(device), labels)


def image_prompt(processor: ProcessorMixin, words: str = IMAGE_PROMPT) -> Prompt:
    """The image tower's prompt: all that the chat template writes behind the picture, up to the answer's first token.

    image_prompt(processor).words    # "Summarize the provided image in one word:"
    """
    text = _templated(processor, [{"type": "image"}, {"type": "text", "text": words}])
    start = text.index(words)
    return Prompt(words, text[:start], _ids(processor.tokenizer, text[start:]))


def text_prompt(processor: ProcessorMixin, words: str = TEXT_PROMPT) -> Prompt:
    """The text tower's prompt: what stands before the caption, and all that is written behind it."""
    text = _templated(processor, [{"type": "text", "text": f"{_CAPTION} {words}"}])
    before, _, after = text.partition(_CAPTION)
    return Prompt(words, before, _ids(processor.tokenizer, after))


def _templated(processor: ProcessorMixin, content: list[dict[str, str]]) -> str:
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def with_rows(prompt: Prompt, first_id: int) -> Prompt:
    """The prompt with soft rows in place of its words: ids from `first_id` on, one for each token."""
    return replace(prompt, ids=tuple(range(first_id, first_id + len(prompt.ids))))


def caption_ids(tokenizer: PreTrainedTokenizerBase, caption: str) -> list[int]:
    """A caption's token ids; a special token written in it, such as "<image>", is read as plain text.

    caption_ids(tokenizer, "a dog")    # [17, 103]
    """
    return tokenizer(caption, add_special_tokens=False, split_special_tokens=True).input_ids


def begins_with_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a chat template has written the first token itself, so that the tokenizer must not add a second."""
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)


def text_sequences(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], prompt: Prompt) -> Sequences:
    """Captions to a batch, right-padded.

    text_sequences(tokenizer, ["a dog", "two cats"], prompt).summary    # tensor([12, 12])
    """
    before = tokenizer(prompt.before, add_special_tokens=not begins_with_bos(tokenizer, prompt.before)).input_ids
    rows = [[*before, *caption_ids(tokenizer, caption), *prompt.ids] for caption in captions]
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), _pad_id(tokenizer))
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = torch.tensor(ids)
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
    return Sequences({"input_ids": padded, "attention_mask": mask}, lengths - 1)


def image_sequences(
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    prompt: Prompt,
    captions: Sequence[list[int] | None] | None = None,
) -> Sequences:
    """Pictures to a batch, each followed by the prompt and, where given, by a long caption's ids (paper, section 3.2).

        image_sequences(processor, pictures, prompt).summary                  # (batch,)
        image_sequences(processor, pictures, prompt, [ids, None]).labels      # (batch, length)

    Whatever else the family's processor returns beside ids is passed on, prolonged where it runs along the sequence.
    """
    tokenizer = processor.tokenizer
    batch = processor(
        images=[[image] for image in images],
        text=[prompt.before] * len(images),
        return_tensors="pt",
        padding=True,
        padding_side="right",
        add_special_tokens=not begins_with_bos(tokenizer, prompt.before),
    )
    return behind_pictures(tokenizer, batch, prompt, captions)


def behind_pictures(
    tokenizer: PreTrainedTokenizerBase,
    batch: Mapping[str, Tensor],
    prompt: Prompt,
    captions: Sequence[list[int] | None] | None = None,
) -> Sequences:
    """What the processor made of pictures, with the prompt and the long captions' ids put behind it, right-padded.

    behind_pictures(tokenizer, processor(images=…, text=…), prompt, [ids, None]).summary    # (batch,)
    """
    shape = batch["input_ids"].shape
    lengths = batch["attention_mask"].sum(1)
    tails = [[*prompt.ids, *(captions[row] or [] if captions else [])] for row in range(len(lengths))]
    total = int((lengths + torch.tensor([len(tail) for tail in tails])).max())
    fills = {"input_ids": _pad_id(tokenizer)}
    inputs = {
        key: _prolonged(value, total, fills.get(key, 0)) if value.shape[:2] == shape else value
        for key, value in batch.items()
    }
    labels = torch.full((len(lengths), total), IGNORED)
    for row, (start, tail) in enumerate(zip(lengths.tolist(), tails, strict=True)):
        inputs["input_ids"][row, start : start + len(tail)] = torch.tensor(tail)
        inputs["attention_mask"][row, start : start + len(tail)] = 1
        answer = start + len(prompt.ids)
        labels[row, answer : start + len(tail)] = torch.tensor(tail[len(prompt.ids) :], dtype=torch.long)
    return Sequences(inputs, lengths + len(prompt.ids) - 1, labels if captions else None)


def _prolonged(value: Tensor, length: int, fill: int) -> Tensor:
    longer = value.new_full((value.shape[0], length, *value.shape[2:]), fill)
    longer[:, : value.shape[1]] = value
    return longer


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

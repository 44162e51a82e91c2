"""Build model inputs from images and captions: hand-written prompts, chat template, position of the summary token.

An image sequence is    prefix + image tokens + prompt (+ long caption)
a text sequence is      prefix + caption + prompt

The prompt's last token is the summary token (paper, section 3). Its position is recorded when the sequence is built,
since the prompt's words can also occur in a caption, and sequences end in padding.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from vladva_kit.models.chat import render_chat
from vladva_kit.models.families import Family
from vladva_kit.models.images import BadInput, WrongType, check_list
from vladva_kit.models.resolution import check_resized, shrink_to

if TYPE_CHECKING:
    from PIL import Image
    from transformers import BatchFeature, PreTrainedConfig, PreTrainedTokenizerBase, ProcessorMixin

IMAGE_PROMPT = "Summarize the provided image in one word:"
TEXT_PROMPT = "Summarize the provided text in one word:"
SHORT_REQUEST = "provide a short caption:"
IGNORE_INDEX = -100  # label of tokens without a next-token loss
DEFAULT_FAMILY = Family("")
MAX_TOKENS = 8192  # of a text, even if the model takes more: attention's time grows with its square
MAX_CHARACTERS_PER_TOKEN = 64  # a longer text is refused without tokenizing it
MAX_BATCH_TOKENS = 2**15  # of texts with padding: 256 texts of 128 tokens
_INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}  # Unicode categories
_CAPTION = "CAPTIONGOESHERE"  # placeholder while the chat template is rendered


@dataclass(frozen=True)
class Prompt:
    """The prompt for images or for texts, as the chat template writes it."""

    words: str  # the hand-written request
    prefix: str  # the text before the image or caption
    ids: tuple[int, ...]  # the tokens after it; the last one is the summary token
    family: Family = DEFAULT_FAMILY
    suffix_length: int = 0  # how many of the last ids the processor appends to every prompt


@dataclass(frozen=True)
class ModelInputs:
    """A batch for the LVLM."""

    inputs: dict[str, Tensor]  # the model's keyword arguments
    summary_positions: Tensor  # (batch,) the index of each summary token
    labels: Tensor | None = None  # (batch, length) the long captions' ids, IGNORE_INDEX elsewhere
    prefix_length: int = 0  # of texts: how many tokens all of them start with

    def to(self, device: torch.device) -> ModelInputs:
        """Copy the batch to a device."""
        labels = None if self.labels is None else self.labels.to(device)
        inputs = {name: value.to(device) for name, value in self.inputs.items()}
        return ModelInputs(inputs, self.summary_positions.to(device), labels, self.prefix_length)


def image_prompt(processor: ProcessorMixin, words: str = IMAGE_PROMPT, family: Family = DEFAULT_FAMILY) -> Prompt:
    """Build the image prompt from all that the chat template adds after the image: `image_prompt(processor).ids`.

    Raises ValueError for words that are empty or hold the token of an image, other than a tag before or after them.
    """
    words = _checked_words(processor, words)
    text = _render(processor, [{"type": "image"}, {"type": "text", "text": words}])
    if words not in text:
        raise ValueError(f"the chat template does not write '{words}' after an image: correct processor.chat_template")
    # not by searching the words, which may occur in the template: "user" does in most
    prefix = _render(processor, [{"type": "image"}, {"type": "text", "text": _CAPTION}]).partition(_CAPTION)[0]
    suffix = family.prompt_suffix
    suffix_length = len(ids_after_prefix(processor.tokenizer, prefix, prefix + suffix))
    ids = ids_after_prefix(processor.tokenizer, prefix, text + suffix)
    return Prompt(words, prefix, ids, family, suffix_length)


def question_prompt(
    processor: ProcessorMixin, question: str, family: Family = DEFAULT_FAMILY
) -> tuple[Prompt, str, tuple[int, ...]]:
    """Split a question about a caption, written as {}, into the prompt before it, a space, and the ids after it.

        prompt, space, ids = question_prompt(processor, "is there {}?")    # tokenize space + caption

    The ids end where the answer starts.
    """
    tokenizer = processor.tokenizer
    whole = image_prompt(processor, question.replace("{}", _CAPTION), family)
    text = _render(processor, [{"type": "image"}, {"type": "text", "text": whole.words}])
    before, _, after = text.partition(_CAPTION)
    stripped = before.rstrip(" ")
    after_ids = ids_after_prefix(tokenizer, _CAPTION, _CAPTION + after + family.prompt_suffix)
    prompt = replace(whole, words=question, ids=ids_after_prefix(tokenizer, whole.prefix, stripped))
    return prompt, _own_space(tokenizer, stripped, before[len(stripped) :]), after_ids


def space_before_answer(processor: ProcessorMixin, words: str) -> str:
    """Return the white space that the chat template writes before an answer: `" "` after "Assistant:".

    It is empty where the generation prompt ends in it, or where the tokenizer itself adds a space to a text.
    """
    asked = "".join(template_around_caption(processor, words))
    turns = [("user", words), ("assistant", _CAPTION)]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    before = render_chat(processor, messages).partition(_CAPTION)[0]
    space = before[len(asked) :] if before.startswith(asked) else ""
    return "" if space.strip() else _own_space(processor.tokenizer, asked, space)


def _own_space(tokenizer: PreTrainedTokenizerBase, before: str, space: str) -> str:
    """Return the space between a text and a caption, or none if the tokenizer adds it to a caption by itself."""
    added = _ids(tokenizer, before + space + _CAPTION) == _ids(tokenizer, before) + _ids(tokenizer, _CAPTION)
    return "" if added else space


def text_prompt(processor: ProcessorMixin, words: str = TEXT_PROMPT, family: Family = DEFAULT_FAMILY) -> Prompt:
    """Build the text prompt from the chat template's text around the caption: `text_prompt(processor).ids`.

    Raises ValueError as `image_prompt` does.
    """
    words = _checked_words(processor, words)
    tokenizer = processor.tokenizer
    prefix, after = template_around_caption(processor, f" {words}")
    # if the tokenizer itself adds a space before a caption's first word, the template's space would be a second one
    stripped = prefix.rstrip(" ")
    if _ids(tokenizer, f"{stripped} {_CAPTION}") == _ids(tokenizer, stripped) + _ids(tokenizer, _CAPTION):
        prefix = stripped
    return Prompt(words, prefix, ids_after_prefix(tokenizer, _CAPTION, _CAPTION + after), family)


def _checked_words(processor: ProcessorMixin, words: str) -> str:
    """Return a prompt's words without the tag of an image before or after them."""
    stripped = without_image_tag(processor, words)
    if not stripped.strip():
        raise ValueError(f"the prompt {words!r} has no words: pass some, such as {IMAGE_PROMPT!r}")
    if found := [token for token in _image_tokens(processor) if token in stripped]:
        raise ValueError(
            f"the prompt {words!r} has '{found[0]}' between its words: the kit adds the image itself; leave it out"
        )
    return stripped


def without_image_tag(processor: ProcessorMixin, text: str) -> str:
    """Remove the tag of an image at the start or end of a text, where LLaVA's data and VLM2Vec's prompts have it.

    without_image_tag(processor, "<image> what is it?")    # "what is it?"; likewise the family's own image token
    """
    tags = "|".join(re.escape(tag) for tag in ("<image>", *_image_tokens(processor)))
    return re.sub(rf"^\s*(?:(?:{tags})\s*)+|(?:\s*(?:{tags}))+\s*$", "", text)


def _image_tokens(processor: ProcessorMixin) -> list[str]:
    """Return the tokens that a family's processor and model replace by an image or a video."""
    names = ("image_token", "boi_token", "video_token", "fake_image_token")
    tokens = (getattr(owner, name, None) for owner in (processor, processor.tokenizer) for name in names)
    return [*dict.fromkeys(str(token) for token in tokens if token)]


def plain_text(processor: ProcessorMixin, text: str) -> str:
    """Put a space into special tokens that a text holds, so that they are read as words and do not act.

    plain_text(processor, "what is <eos>?")    # "what is < eos>?"
    """
    return _special_tokens(processor).sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


@lru_cache(maxsize=4)
def _special_tokens(processor: ProcessorMixin) -> re.Pattern:
    """Match images' tokens and those marked special; other added tokens, such as PaliGemma's locations, are words."""
    special = {token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special}
    words = sorted((word for word in {*special, *_image_tokens(processor)} if len(word) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words)) or "(?!)")


def template_around_caption(processor: ProcessorMixin, words: str) -> tuple[str, str]:
    """Return the chat template's text before a caption, and that after it, which starts with `words`."""
    before, _, after = _render(processor, [{"type": "text", "text": _CAPTION + words}]).partition(_CAPTION)
    return before, after


def ids_after_prefix(tokenizer: PreTrainedTokenizerBase, prefix: str, text: str) -> tuple[int, ...]:
    """Return the ids of `text` after `prefix`, as tokenized in context.

    Some tokenizers add a space before the first word of a text, so the rest is not tokenized alone unless a token
    spans the end of the prefix.
    """
    prefix_ids, text_ids = _ids(tokenizer, prefix), _ids(tokenizer, text)
    n = len(prefix_ids)
    return text_ids[n:] if text_ids[:n] == prefix_ids else _ids(tokenizer, text[len(prefix) :])


def _render(processor: ProcessorMixin, content: list[dict[str, str]]) -> str:
    return render_chat(processor, [{"role": "user", "content": content}], add_generation_prompt=True)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False).input_ids)


def encode_caption(tokenizer: PreTrainedTokenizerBase, caption: str) -> list[int]:
    """Tokenize a caption; "<image>" or "<loc0001>" in it is plain text: `encode_caption(tokenizer, "a dog")`."""
    return encode_captions(tokenizer, [caption])[0]


def token_limit(config: PreTrainedConfig) -> int:
    """Return how many tokens a text may have: the model's positions, at most MAX_TOKENS; `token_limit(config)`."""
    return min(getattr(config.get_text_config(), "max_position_embeddings", None) or MAX_TOKENS, MAX_TOKENS)


def check_token_count(count: int, limit: int, name: str) -> None:
    """Raise BadInput for a text longer than the model takes: `check_token_count(len(ids), 2048, "caption 3")`."""
    if count > limit:
        raise BadInput(f"{name} has {count:,} tokens, and the limit is {limit:,}: shorten it or leave it out")


def token_batches(lengths: Sequence[int], batch_size: int) -> Iterator[tuple[int, int]]:
    """Split texts sorted by length into batches of limited size: `list(token_batches([3, 4, 4], 2))`.

    A batch has at most `batch_size` texts and MAX_BATCH_TOKENS tokens with padding, or one text.
    """
    start = 0
    for end, length in enumerate(lengths):
        count = end - start
        if count and (count == batch_size or (count + 1) * length > MAX_BATCH_TOKENS):
            yield start, end
            start = end
    if start < len(lengths):
        yield start, len(lengths)


def encode_captions(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], limit: int | None = None
) -> list[list[int]]:
    """Tokenize many captions as `encode_caption` does, in few calls of the tokenizer.

    Raises BadInput naming the first caption with more than `limit` tokens.
    """
    if limit is not None:
        for number, caption in enumerate(captions):
            if len(caption) > MAX_CHARACTERS_PER_TOKEN * limit:
                raise BadInput(f"caption {number} has {len(caption):,} characters: shorten it or leave it out")
    added_tokens, pieces, owners = _added_tokens(tokenizer), [], []
    for owner, caption in enumerate(captions):
        # split_special_tokens covers tokens marked special; any other added token is cut after its first character
        cuts = [0, *(match.start() + 1 for match in added_tokens.finditer(caption))] if added_tokens else [0]
        pieces += [caption[start:end] for start, end in zip(cuts, [*cuts[1:], None], strict=True)]
        owners += [owner] * len(cuts)
    ids: list[list[int]] = [[] for _ in captions]
    for start in range(0, len(pieces), 8192):  # the tokenizer's output takes far more memory than the ids
        chunk = slice(start, start + 8192)
        piece_ids = tokenizer(pieces[chunk], add_special_tokens=False, split_special_tokens=True).input_ids
        for owner, piece in zip(owners[chunk], piece_ids, strict=True):
            ids[owner] += piece
    if limit is not None:
        for number, caption_ids in enumerate(ids):
            check_token_count(len(caption_ids), limit, f"caption {number}")
    return ids


def count_tokens(tokenizer: PreTrainedTokenizerBase, captions: Iterable[str]) -> dict[str, int]:
    """Count each different caption's tokens, in few tokenizer calls: `count_tokens(tokenizer, ["a dog"])["a dog"]`."""
    different, counts = list(dict.fromkeys(captions)), dict[str, int]()
    for start in range(0, len(different), 8192):  # the ids of all captions may take far more memory than their numbers
        chunk = different[start : start + 8192]
        counts.update(zip(chunk, map(len, encode_captions(tokenizer, chunk)), strict=True))
    return counts


@lru_cache(maxsize=4)
def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern | None:
    """Match the added tokens not marked special, such as PaliGemma's locations and Qwen's tool calls."""
    words = [token.content for token in tokenizer.added_tokens_decoder.values() if not token.special]
    words = sorted((word for word in words if len(word) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, words))) if words else None


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: only spaces, control and zero-width characters: `is_blank("\\u200b ")`."""
    return all(unicodedata.category(character) in _INVISIBLE for character in text)


def check_texts(texts: Sequence[object], name: str = "caption", allow_empty: bool = False) -> None:
    """Check that all texts can be tokenized: `check_texts(["a dog", "two cats"])`.

    Raises WrongType for a single string and for an item that is not text, such as NaN or None; BadInput for an empty
    text, unless `allow_empty`, and for half a character. Errors name the item's number.
    """
    if isinstance(texts, str):
        raise WrongType(f"a list of {name}s is needed; got one string, {texts[:40]!r}: put it in a list")
    check_list(texts, f"{name}s")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            shown = f" ({text})" if isinstance(text, float) else ""  # usually NaN
            raise WrongType(f"{name} {number} is of type {type(text).__name__}{shown}; pass strings")
        if is_blank(text) and not allow_empty:
            raise BadInput(f"{name} {number} is empty: its embedding or score would be meaningless; leave it out")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # a lone surrogate, such as half of an emoji: tokenizers fail on it
            raise BadInput(f"{name} {number} holds half a character ({error.reason}): {text!r}; correct it") from error


def begins_with_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Return whether a rendered chat template already starts with bos, so that the tokenizer must not add another."""
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)


def text_inputs(
    tokenizer: PreTrainedTokenizerBase, captions: Sequence[str | Sequence[int]], prompt: Prompt
) -> ModelInputs:
    """Build right-padded inputs of captions, text or ids, and prompt: `text_inputs(tokenizer, ["a dog"], prompt)`."""
    if captions and isinstance(captions[0], str):
        captions = encode_captions(tokenizer, cast("Sequence[str]", captions))
    prefix = _prefix_ids(tokenizer, prompt.prefix)
    rows = [[*prefix, *ids, *prompt.ids] for ids in captions]
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), padding_id(tokenizer))
    for row, ids in enumerate(rows):
        padded[row, : len(ids)] = torch.tensor(ids)
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
    types = {"token_type_ids": torch.zeros_like(padded)} if prompt.family.text_needs_token_type_ids else {}
    inputs = {"input_ids": padded, "attention_mask": mask, **types}
    # at least one token of each row follows the prefix, also after a prompt without ids and a caption without tokens
    return ModelInputs(inputs, lengths - 1, prefix_length=min(len(prefix), int(lengths.min()) - 1))


@lru_cache(maxsize=16)
def _prefix_ids(tokenizer: PreTrainedTokenizerBase, prefix: str) -> tuple[int, ...]:
    return tuple(tokenizer(prefix, add_special_tokens=not begins_with_bos(tokenizer, prefix)).input_ids)


def image_inputs(
    processor: ProcessorMixin,
    images: Sequence[Image.Image],
    prompt: Prompt,
    captions: Sequence[list[int] | None] | None = None,
) -> ModelInputs:
    """Build a batch of images, each followed by the prompt and an optional tokenized long caption (paper, section 3.2).

        image_inputs(processor, images, prompt).summary_positions          # (batch,)
        image_inputs(processor, images, prompt, [ids, None]).labels        # (batch, length)

    All that the family's processor returns is passed on, extended if it has one value per token.
    """
    return append_text_to_images(processor.tokenizer, process_images(processor, images, prompt), prompt, captions)


def process_images(processor: ProcessorMixin, images: Sequence[Image.Image], prompt: Prompt) -> BatchFeature:
    """Run the family's processor on images and the prompt's prefix: `process_images(processor, images, prompt)`.

    Raises BadInput for an image that the processor would enlarge to more pixels than `open_image` takes.
    """
    shrunk = [shrink_to(image, prompt.family.max_pixels) for image in images]
    for image in shrunk:
        check_resized(processor, image.size)
    return processor(
        images=[[image] for image in shrunk],
        text=[prompt.prefix] * len(images),
        return_tensors="pt",
        padding=True,
        padding_side="right",
        add_special_tokens=not begins_with_bos(processor.tokenizer, prompt.prefix),
    )


def append_text_to_images(
    tokenizer: PreTrainedTokenizerBase,
    batch: Mapping[str, Tensor],
    prompt: Prompt,
    captions: Sequence[list[int] | None] | None = None,
) -> ModelInputs:
    """Append the prompt and optional tokenized long captions to a processor's output for images; right-padded.

    append_text_to_images(tokenizer, process_images(processor, images, prompt), prompt, [ids, None]).labels
    """
    family = prompt.family
    batch = {key: value for key, value in batch.items() if key != "labels"}  # some processors return their own
    starts = batch["attention_mask"].sum(1) - prompt.suffix_length
    tails = [[*prompt.ids, *(captions[row] or [] if captions else [])] for row in range(len(starts))]
    ends = starts + torch.tensor([len(tail) for tail in tails])
    inputs = _extend(batch, int(ends.max()), padding_id(tokenizer))
    labels = torch.full((len(starts), int(ends.max())), IGNORE_INDEX)
    for row, (start, end, tail) in enumerate(zip(starts.tolist(), ends.tolist(), tails, strict=True)):
        inputs["input_ids"][row, start:end] = torch.tensor(tail)
        inputs["attention_mask"][row, start:end] = 1
        caption_start = start + len(prompt.ids)
        labels[row, caption_start:end] = torch.tensor(tail[len(prompt.ids) :], dtype=torch.long)
        if family.caption_token_type_id:
            inputs["token_type_ids"][row, caption_start:end] = family.caption_token_type_id
        for key in family.repeat_last_along_seq:
            inputs[key][row, start:end] = batch[key][row, start - 1]
    return ModelInputs(inputs, starts + len(prompt.ids) - 1, labels if captions else None)


def _extend(batch: Mapping[str, Tensor], length: int, pad_id: int) -> dict[str, Tensor]:
    """Pad the inputs that have one value per token to `length`; return the others unchanged."""
    shape = batch["input_ids"].shape
    inputs = {}
    for key, value in batch.items():
        if value.shape[:2] == shape and not key.startswith(("pixel", "image")):
            padded = value.new_full((len(value), length, *value.shape[2:]), pad_id if key == "input_ids" else 0)
            padded[:, : shape[1]] = value[:, :length]
            value = padded
        inputs[key] = value
    return inputs


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the padding token's id, or the end-of-text token's if the tokenizer has none."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

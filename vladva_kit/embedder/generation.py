"""Generate text: answers about images or text-only prompts, optionally after earlier turns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from vladva_kit.embedder.prompts import (
    MAX_TOKENS,
    begins_with_bos,
    check_texts,
    check_token_count,
    plain_text,
    without_image_tag,
)
from vladva_kit.models.chat import render_chat
from vladva_kit.models.images import ImageLike, check_image_list, open_images
from vladva_kit.models.load import LVLM
from vladva_kit.models.resolution import check_resized, shrink_to

if TYPE_CHECKING:
    from transformers import GenerationMixin

History = Sequence[tuple[str, str]]  # earlier turns: questions and answers


def generate_answers(
    lvlm: LVLM,
    images: Sequence[ImageLike | None],
    prompts: Sequence[str],
    histories: Sequence[History] | None = None,
    max_new_tokens: int = 128,
) -> list[str]:
    """Answer each prompt by greedy decoding: `generate_answers(lvlm, [image], ["what is to the left of the dog?"])`.

    Either all prompts have an image or none has (None). histories: the earlier turns of each prompt. The adapter is
    used unless it is disabled. Special tokens in a turn are read as text, and a tag of the image at its start or end,
    as in "<image>\\nwhat is it?", is left out: the image precedes the first turn.
    Raises ValueError if only some prompts have an image; BadInput for an image that cannot be read, for a prompt or an
    earlier turn that is not text, and for half a character in it.
    """
    check_texts(prompts, "prompt", allow_empty=True)
    check_image_list(images)
    histories = [()] * len(prompts) if histories is None else histories
    if not len(images) == len(prompts) == len(histories):
        raise ValueError(f"{len(images)} images, {len(prompts)} prompts, {len(histories)} histories: pass equally many")
    if not len(prompts):
        return []
    for number, history in enumerate(histories):
        check_texts([text for turn in history for text in turn], f"history of prompt {number}: text", allow_empty=True)
    without_image = {image is None for image in images}
    if len(without_image) > 1:
        raise ValueError("some prompts have an image and some have none: split them into two calls")
    has_image = True not in without_image
    plain = partial(_plain_turn, lvlm, has_image)
    chats = [
        _messages(has_image, [(plain(question), plain(answer)) for question, answer in history], plain(prompt))
        for _, history, prompt in zip(images, histories, prompts, strict=True)
    ]
    texts = [render_chat(lvlm.processor, chat, add_generation_prompt=True) for chat in chats]
    tokenizer = lvlm.processor.tokenizer
    for number, ids in enumerate(tokenizer(texts, add_special_tokens=False).input_ids):  # the image's tokens come later
        check_token_count(len(ids), MAX_TOKENS, f"prompt {number} with its history")
    options = {"text": texts, "return_tensors": "pt", "padding": True, "padding_side": "left"}
    options["add_special_tokens"] = not begins_with_bos(tokenizer, texts[0])
    if has_image:
        given = open_images(cast("Sequence[ImageLike]", images))
        opened = [[shrink_to(image, lvlm.family.max_pixels)] for image in given]
        for (image,) in opened:
            check_resized(lvlm.processor, image.size)
        inputs = lvlm.processor(images=opened, **options)
    else:
        inputs = tokenizer(return_token_type_ids=lvlm.family.text_needs_token_type_ids, **options)
    inputs.pop("labels", None)  # some processors return their own
    inputs = inputs.to(lvlm.model.device)
    ids = cast("GenerationMixin", lvlm.model).generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new_ids = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in lvlm.processor.batch_decode(new_ids, skip_special_tokens=True)]


def _plain_turn(lvlm: LVLM, has_image: bool, text: str) -> str:
    """Return a turn in which no token acts, without the tag of the image that is put in front of the first turn."""
    if has_image:
        text = without_image_tag(lvlm.processor, text)
    return plain_text(lvlm.processor, text)


def _messages(has_image: bool, history: History, prompt: str) -> list[dict]:
    """Return a chat in transformers' format, with the image in the first turn."""
    messages: list[dict] = []
    for question, answer in (*history, (prompt, None)):
        content = [{"type": "image"}] if has_image and not messages else []
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages

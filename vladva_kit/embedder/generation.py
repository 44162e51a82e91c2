"""What an LVLM answers: questions about pictures, or about nothing but the prompt, with the turns before them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vladva_kit.embedder.prompts import begins_with_bos
from vladva_kit.models.images import open_images
from vladva_kit.models.load import LVLM
from vladva_kit.models.resolution import within

if TYPE_CHECKING:
    from PIL import Image
    from transformers import BatchFeature


def answers(
    lvlm: LVLM,
    images: Sequence[Image.Image | Path | str | None],
    prompts: Sequence[str],
    histories: Sequence[Sequence[tuple[str, str]]] | None = None,
    max_new_tokens: int = 128,
) -> list[str]:
    """Greedy answers, one a prompt; all with a picture, or all without (None).

        answers(lvlm, [picture], ["what is to the left of the dog?"])    # ["cat"]

    histories: for each prompt the turns before it, (question, answer). The adapter takes part where it is switched on.
    Raises ValueError where only some of the prompts come with a picture, BadInput for a picture that cannot be read.
    """
    if not prompts:
        return []
    histories = histories or [()] * len(prompts)
    lacking = [image is None for image in images]
    if any(lacking) and not all(lacking):
        raise ValueError("some prompts come with a picture and some without: ask in two batches")
    pictures = [None] * len(images)
    if not any(lacking):
        pictures = [[within(picture, lvlm.family.max_pixels)] for picture in open_images(images)]
    texts = [
        lvlm.processor.apply_chat_template(_messages(picture is not None, history, prompt), add_generation_prompt=True)
        for picture, history, prompt in zip(pictures, histories, prompts, strict=True)
    ]
    inputs = _inputs(lvlm, pictures, texts).to(lvlm.model.device)
    ids = lvlm.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    said = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in lvlm.processor.batch_decode(said, skip_special_tokens=True)]


def _inputs(lvlm: LVLM, pictures: Sequence[list[Image.Image] | None], texts: list[str]) -> BatchFeature:
    """Templated chats as the model takes them, padded on the left."""
    tokenizer = lvlm.processor.tokenizer
    written = {
        "text": texts,
        "return_tensors": "pt",
        "padding": True,
        "padding_side": "left",
        "add_special_tokens": not begins_with_bos(tokenizer, texts[0]),
    }
    if pictures[0] is not None:
        inputs = lvlm.processor(images=pictures, **written)
    else:
        inputs = tokenizer(return_token_type_ids=lvlm.family.text_needs_token_type_ids, **written)
    inputs.pop("labels", None)
    return inputs


def _messages(pictured: bool, history: Sequence[tuple[str, str]], prompt: str) -> list[dict]:
    """A chat in transformers' form, the picture in its first turn."""
    turns = [*history, (prompt, None)]
    messages: list[dict] = []
    for number, (asked, answer) in enumerate(turns):
        content = [{"type": "image"}] if pictured and number == 0 else []
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": asked}]})
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages

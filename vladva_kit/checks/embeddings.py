"""Checks of the embeddings (1, 2, 6, 7): positions, padding, token types, image input, special tokens."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.checks.model import (
    CAPTIONS,
    LONG_CAPTIONS,
    CheckedModel,
    CheckFailed,
    compare_embeddings,
    processor_inputs,
)
from vladva_kit.embedder.embedder import summary_embeddings
from vladva_kit.embedder.prefix import why_not_shared
from vladva_kit.embedder.prompts import (
    IMAGE_PROMPT,
    TEXT_PROMPT,
    encode_caption,
    encode_captions,
    image_inputs,
    text_inputs,
)


def matches_plain_forward(run: CheckedModel) -> str:
    """1: Embeddings equal the last hidden states of the model's own forward on its own processor's inputs.

    The detail says whether captions share the tokens before them.
    """
    images = torch.stack([_plain_embedding(run, IMAGE_PROMPT, image) for image in run.images])
    texts = torch.stack([_plain_embedding(run, f"{caption} {TEXT_PROMPT}", None) for caption in CAPTIONS])
    image_difference = compare_embeddings(run, run.base.encode_image(run.images), images)
    text_difference = compare_embeddings(run, run.base.encode_text(CAPTIONS), texts)
    return f"images: {image_difference}, texts: {text_difference}; {_describe_prefix(run)}"


def _describe_prefix(run: CheckedModel) -> str:
    length = text_inputs(run.lvlm.processor.tokenizer, CAPTIONS, run.base.text_prompt).prefix_length
    reason = why_not_shared(run.lvlm, length)
    which = f"captions' prefix of {length} tokens"
    return f"{which} is run once" if reason is None else f"{which} is run for each caption, since {reason}"


def _plain_embedding(run: CheckedModel, text: str, image: Image.Image | None) -> Tensor:
    batch = processor_inputs(run, text, image)
    with torch.inference_mode():
        states = run.lvlm.model(**batch, output_hidden_states=True, use_cache=False).hidden_states[-1]
    return F.normalize(states[0, -1].float(), dim=-1)


def independent_of_batch_size(run: CheckedModel) -> str:
    """2: A batch of one gives the same embeddings as a padded batch of different lengths."""
    base = run.base
    images = compare_embeddings(run, base.encode_image(run.images, 1), base.encode_image(run.images))
    texts = compare_embeddings(run, base.encode_text(CAPTIONS, 1), base.encode_text(CAPTIONS))
    return f"images: {images}, texts: {texts}"


def caption_does_not_change_summary(run: CheckedModel) -> str:
    """6: A long caption after the prompt leaves the image embedding unchanged."""
    embedder, processor = run.embedder, run.lvlm.processor
    captions = encode_captions(processor.tokenizer, LONG_CAPTIONS)
    inputs = image_inputs(processor, run.images, embedder.image_prompt, captions).to(embedder.device)
    with torch.inference_mode():
        with_caption = summary_embeddings(embedder.hidden_states(inputs), inputs).cpu()
    return compare_embeddings(run, with_caption, embedder.encode_image(run.images))


def depends_on_image(run: CheckedModel) -> str:
    """7: Different images give different embeddings, and special tokens in captions are plain text."""
    embeddings = run.base.encode_image(run.images)
    difference = min(float((embeddings[0] - other).abs().max()) for other in embeddings[1:])
    if not difference > 1e-4:
        raise CheckFailed(f"two images give embeddings that differ by only {difference:.1e}: is the image used?")
    return f"images differ by {difference:.1e}; {_escape_special_tokens(run)} special tokens are plain text in captions"


def _escape_special_tokens(run: CheckedModel) -> int:
    """Write every special token into a caption; return how many there are."""
    tokenizer = run.lvlm.processor.tokenizer
    rows = run.lvlm.embedding.num_embeddings
    special = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
    for token_id, token in special.items():
        ids = encode_caption(tokenizer, f"a dog {token} a cat")
        spelled = encode_caption(tokenizer, " ".join(token))  # a word-level vocabulary may give <unk> here too
        if token_id in ids and token_id not in spelled:
            raise CheckFailed(f"'{token}' in a caption becomes special token {token_id} instead of plain text")
        if max(ids) >= rows:
            raise CheckFailed(f"'{token}' in a caption gives id {max(ids)}; ids from {rows} are soft prompt tokens")
    if not run.base.encode_text([f"a dog {token}" for token in [*special.values()][:4]]).isfinite().all():
        raise CheckFailed("captions with special tokens give embeddings that are not finite")
    return len(special)

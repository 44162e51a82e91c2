"""The checks of what is embedded, 1, 2, 6 and 7: positions, padding, token types, the picture, special tokens."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.checks.model import CAPTIONS, LONG, CheckedModel, NotHeld, close, own_batch
from vladva_kit.embedder.embedder import summary_embeddings
from vladva_kit.embedder.prompts import IMAGE_PROMPT, TEXT_PROMPT, encode_caption, image_inputs


def _own_summary(run: CheckedModel, words: str, picture: Image.Image | None) -> Tensor:
    content = [{"type": "text", "text": words}]
    batch = own_batch(run, content if picture is None else [{"type": "image"}, *content], picture)
    with torch.inference_mode():
        states = run.lvlm.model(**batch, output_hidden_states=True, use_cache=False).hidden_states[-1]
    return F.normalize(states[0, -1].float(), dim=-1)


def equals_own_forward(run: CheckedModel) -> str:
    """1: embeddings equal the last states of the family's own forward on what its own processor makes."""
    images = torch.stack([_own_summary(run, IMAGE_PROMPT, picture) for picture in run.pictures])
    texts = torch.stack([_own_summary(run, f"{caption} {TEXT_PROMPT}", None) for caption in CAPTIONS])
    image = close(run, run.baseline.encode_image(run.pictures), images.cpu())
    return f"images {image}, texts {close(run, run.baseline.encode_text(CAPTIONS), texts.cpu())}"


def one_equals_many(run: CheckedModel) -> str:
    """2: a picture or caption by itself is embedded as among others of other lengths."""
    baseline = run.baseline
    images = close(run, baseline.encode_image(run.pictures, 1), baseline.encode_image(run.pictures))
    return f"images {images}, texts {close(run, baseline.encode_text(CAPTIONS, 1), baseline.encode_text(CAPTIONS))}"


def reads_pictures_and_only_them(run: CheckedModel) -> str:
    """7: pictures are told apart, and special tokens in a caption are plain text."""
    images = run.baseline.encode_image(run.pictures)
    apart = min(float((images[0] - other).abs().max()) for other in images[1:])
    if not apart > 1e-4:
        raise NotHeld(f"two pictures give embeddings only {apart:.1e} apart: is the picture read?")
    tokenizer = run.lvlm.processor.tokenizer
    rows = run.lvlm.model.get_input_embeddings().num_embeddings
    added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    for number, token in added.items():
        ids = encode_caption(tokenizer, f"a dog {token} a cat")
        spelled = encode_caption(tokenizer, " ".join(token))  # no vocabulary of words knows these: <unk> is no act then
        if number in ids and number not in spelled:
            raise NotHeld(f"'{token}' in a caption acts as token {number} instead of being read as text")
        if max(ids) >= rows:
            raise NotHeld(f"'{token}' in a caption gives id {max(ids)}, which is the soft prompt's (from {rows} on)")
    embedded = run.baseline.encode_text([f"a dog {token}" for token in [*added.values()][:4]])
    if not embedded.isfinite().all():
        raise NotHeld("captions with special tokens give embeddings that are not finite")
    return f"pictures {apart:.1e} apart; {len(added)} special tokens tried in a caption, each read as text"


def caption_behind_changes_nothing(run: CheckedModel) -> str:
    """6: a long caption behind the prompt leaves the summary's embedding as it is."""
    embedder, tokenizer = run.embedder, run.lvlm.processor.tokenizer
    longs = [encode_caption(tokenizer, caption) for caption in LONG]
    sequences = image_inputs(run.lvlm.processor, run.pictures, embedder.image_prompt, longs)
    sequences = sequences.to(embedder.device)
    with torch.inference_mode():
        behind = summary_embeddings(embedder.hidden_states(sequences), sequences).cpu()
    return close(run, behind, embedder.encode_image(run.pictures))

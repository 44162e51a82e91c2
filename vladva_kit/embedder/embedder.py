"""An LVLM as two towers: pictures and captions to unit vectors, by the summary token of the whole model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.embedder.adapter import (
    attach_adapter,
    count_trainable,
    hand_written_prompts,
    load_adapter,
    save_adapter,
    soft_prompts,
    trainable_summary,
)
from vladva_kit.embedder.generation import answers
from vladva_kit.embedder.prompts import (
    IMAGE_PROMPT,
    TEXT_PROMPT,
    ModelInputs,
    Prompt,
    encode_captions,
    image_inputs,
    text_inputs_from_ids,
)
from vladva_kit.models.device import check_finite
from vladva_kit.models.images import open_images
from vladva_kit.models.load import LVLM

if TYPE_CHECKING:
    from PIL import Image


def summary_states(hidden: Tensor, sequences: ModelInputs) -> Tensor:
    """The summary tokens' states, (batch, hidden), out of (batch, length, hidden)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), sequences.summary]


def summary_embeddings(hidden: Tensor, sequences: ModelInputs) -> Tensor:
    """The summary tokens' states as unit vectors, (batch, hidden) float32."""
    return F.normalize(summary_states(hidden, sequences).float(), dim=-1)


class Embedder:
    """Two towers in one LVLM. By itself a zero-shot baseline with hand-written prompts; `attach` makes one that learns.

        baseline = Embedder(load_lvlm("emoji-llava"))
        baseline.encode_image(pictures)                     # (n, dim) float32, unit length
        baseline.similarity(images, texts)                  # (n_images, n_texts), cosines

    A baseline stays what it is when something is attached to the same LVLM later: it runs with the adapter off.
    """

    def __init__(self, lvlm: LVLM, image_words: str = IMAGE_PROMPT, text_words: str = TEXT_PROMPT) -> None:
        self.lvlm = lvlm
        self.image_prompt: Prompt
        self.text_prompt: Prompt
        self.image_prompt, self.text_prompt = hand_written_prompts(lvlm, image_words, text_words)
        self.record: dict[str, Any] | None = None  # of the adapter, for one that learns
        self._base = False

    @property
    def device(self) -> torch.device:
        """Where the LVLM is."""
        return self.lvlm.model.device

    @property
    def adapted(self) -> bool:
        """Whether an adapter takes part now: not for a baseline, nor inside `with embedder.base():`."""
        return self.record is not None and not self._base

    @contextmanager
    def base(self) -> Iterator[None]:
        """The untouched LVLM with the hand-written prompts, bit for bit, inside the `with` block.

        with embedder.base(): embedder.encode_text(["a dog"])    # as Embedder(lvlm) would
        """
        if self.record is None or self._base:
            yield
            return
        learned = self.image_prompt, self.text_prompt
        self.image_prompt, self.text_prompt = hand_written_prompts(self.lvlm, *(prompt.words for prompt in learned))
        self._base = True
        try:
            with self.lvlm.adapter_off():
                yield
        finally:
            self._base = False
            self.image_prompt, self.text_prompt = learned

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Inference with this embedder's own weights; a baseline's are those without the adapter."""
        off = self.record is None
        was_training = self.lvlm.model.training
        self.lvlm.model.eval()
        try:
            with torch.inference_mode(), self.lvlm.adapter_off() if off else nullcontext():
                yield
        finally:
            self.lvlm.model.train(was_training)

    def hidden_states(self, sequences: ModelInputs) -> Tensor:
        """(batch, length, hidden) of the inner model, final norm included; no logits are computed.

        A baseline's are those without the adapter, as everywhere.
        """
        with self.lvlm.adapter_off() if self.record is None else nullcontext():
            return self.lvlm.model.model(**sequences.inputs, use_cache=False).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """(…, hidden) states of the inner model to (…, vocabulary) logits, as the family's own forward makes them."""
        model = self.lvlm.model
        logits = model.lm_head(states)
        if self.lvlm.family.capped_logits:
            cap = model.config.get_text_config().final_logit_softcapping
            logits = torch.tanh(logits / cap) * cap
        return logits

    def encode_image(self, images: Sequence[Image.Image | Path | str], batch_size: int = 64) -> Tensor:
        """Pictures to unit vectors: (n, dim) float32 on the CPU.

            embedder.encode_image([picture, "photo.jpg"])

        Raises BadInput naming the picture that cannot be read, or FileNotFoundError for a path that leads nowhere.
        """
        with self._running():
            states = []
            for start in range(0, len(images), batch_size):
                pictures = open_images(images[start : start + batch_size], start)
                states.append(self._embed(image_inputs(self.lvlm.processor, pictures, self.image_prompt)))
        return torch.cat(states) if states else torch.empty(0, self._dim)

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Captions to unit vectors: (n, dim) float32 on the CPU; special tokens written in them are plain text.

            embedder.encode_text(["a dog chasing a cat", "a cat chasing a dog"])

        Raises ValueError naming a caption that is empty, or TypeError for a lone string.
        """
        if isinstance(texts, str):
            raise TypeError(f"encode_text takes a list of captions; got one string, '{texts[:40]}': put it in a list")
        for number, text in enumerate(texts):
            if not text.strip():
                raise ValueError(f"caption {number} is empty: an embedding of nothing means nothing; leave it out")
        tokenizer = self.lvlm.processor.tokenizer
        ids = encode_captions(tokenizer, texts)
        order = sorted(range(len(texts)), key=lambda number: len(ids[number]))  # equal lengths waste no padding
        with self._running():
            states = []
            for start in range(0, len(order), batch_size):
                captions = [ids[number] for number in order[start : start + batch_size]]
                states.append(self._embed(text_inputs_from_ids(tokenizer, captions, self.text_prompt)))
        if not states:
            return torch.empty(0, self._dim)
        return torch.cat(states)[torch.tensor(order).argsort()]

    @property
    def _dim(self) -> int:
        return self.lvlm.model.get_input_embeddings().embedding_dim

    def _embed(self, sequences: ModelInputs) -> Tensor:
        sequences = sequences.to(self.device)
        embeddings = summary_embeddings(self.hidden_states(sequences), sequences).cpu()
        check_finite(embeddings, self.lvlm.model.dtype, "summary states")
        return embeddings

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """Cosines (n_images, n_texts) of unit vectors, in float32.

        embedder.similarity(embedder.encode_image(pictures), embedder.encode_text(captions))
        """
        return images.float() @ texts.float().T

    def generate(
        self,
        image: Image.Image | Path | str | None,
        prompt: str,
        history: Sequence[tuple[str, str]] = (),
        max_new_tokens: int = 128,
    ) -> str:
        """Answers about a picture, or about nothing but the prompt when `image` is None; greedy.

            embedder.generate(picture, "what is to the left of the dog?")                    # "cat"
            embedder.generate(picture, "what color is it?", history=[(question, answer)])    # a second turn

        The adapter takes part; `with embedder.base():` asks the untouched LVLM.
        """
        return self.generate_batch([image], [prompt], [history], max_new_tokens)[0]

    def generate_batch(
        self,
        images: Sequence[Image.Image | Path | str | None],
        prompts: Sequence[str],
        histories: Sequence[Sequence[tuple[str, str]]] | None = None,
        max_new_tokens: int = 128,
    ) -> list[str]:
        """As `generate`, for many at once; all with a picture, or all without."""
        with self._running():
            return answers(self.lvlm, images, prompts, histories, max_new_tokens)

    def trainable(self) -> dict[str, int]:
        """How many weights learn, by kind; all others are frozen.

        embedder.trainable()    # {"soft prompt": 5632, "LoRA": 372736, "temperature": 1}
        """
        return count_trainable(self.lvlm)

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Writes soft prompts, LoRA and temperature to a folder, whole or not at all; the base is not written.

            embedder.save_pretrained("my-adapter")

        Raises ValueError for a baseline, which has nothing to save.
        """
        if self.record is None:
            raise ValueError("a baseline has nothing to save: only what attach() returned holds an adapter")
        return save_adapter(self.lvlm, self.record, folder)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, lvlm: LVLM | None = None, **load: Any) -> Embedder:
        """The embedder that was saved, on its base; further keywords go to `load_lvlm`.

            Embedder.from_pretrained("my-adapter")

        Raises BadAdapter when the folder is not whole or does not fit the base.
        """
        lvlm, record = load_adapter(folder, lvlm, **load)
        return _with_record(lvlm, record)

    def push_to_hub(self, repo_id: str, token: str | None = None, private: bool = True) -> str:
        """Uploads the adapter to the hub and returns its address; the token is neither printed nor saved.

        embedder.push_to_hub("me/my-adapter")    # logged in by `hf auth login`
        """
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            api.upload_folder(repo_id=repo_id, folder_path=self.save_pretrained(Path(folder) / "adapter"))
        return str(repo)


def _with_record(lvlm: LVLM, record: dict[str, Any]) -> Embedder:
    embedder = Embedder(lvlm, *record["prompts"])
    embedder.record = record
    if record["soft_prompt"]:
        embedder.image_prompt, embedder.text_prompt = soft_prompts(lvlm, tuple(record["prompts"]))
    return embedder


def attach(
    lvlm: LVLM,
    soft_prompt: bool = True,
    lora: bool | Mapping[str, Any] = True,
    temperature: float = 0.07,
    prompts: tuple[str, str] = (IMAGE_PROMPT, TEXT_PROMPT),
    seed: int = 0,
    quiet: bool = False,
) -> Embedder:
    """An embedder that can be trained: soft prompts from the hand-written ones, and LoRA on the LLM's linear layers.

        embedder = attach(lvlm)                                  # r=16, alpha=16, as in the paper (section 4.1)
        embedder = attach(lvlm, lora={"r": 8, "lora_dropout": 0.05})
        embedder = attach(lvlm, lora=False)                      # soft prompts alone

    What LoRA's targets matched, and how much learns, is printed, unless `quiet`.
    Raises ValueError when the LVLM carries an adapter already, when nothing would be trained, or when LoRA's targets
    match no layer.
    """
    embedder = _with_record(lvlm, attach_adapter(lvlm, soft_prompt, lora, temperature, prompts, seed))
    if not quiet:
        print(trainable_summary(lvlm, embedder.record))
    return embedder

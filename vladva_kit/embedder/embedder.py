"""Embed images and texts with an LVLM: the unit-length hidden state of the summary token."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vladva_kit.embedder import adapter
from vladva_kit.embedder.activations import encode_estimate
from vladva_kit.embedder.adapter import AdapterConfig, hand_written_prompts, soft_prompts
from vladva_kit.embedder.card import repository_files
from vladva_kit.embedder.generation import History, generate_answers
from vladva_kit.embedder.lora import lora_settings
from vladva_kit.embedder.prefix import Prefix, shared_prefix, states_with_prefix
from vladva_kit.embedder.prompts import (
    IMAGE_PROMPT,
    TEXT_PROMPT,
    ModelInputs,
    check_texts,
    encode_captions,
    image_inputs,
    text_inputs,
    token_batches,
    token_limit,
)
from vladva_kit.embedder.provenance import difference, load_options, read_provenance
from vladva_kit.models.device import check_finite, memory_advice, rank
from vladva_kit.models.images import ImageLike, check_image_list, image_batches
from vladva_kit.models.load import LVLM, base_name


def summary_states(hidden: Tensor, batch: ModelInputs) -> Tensor:
    """Select the summary tokens' states, (batch, hidden), from hidden states (batch, length, hidden)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), batch.summary_positions]


def summary_embeddings(hidden: Tensor, batch: ModelInputs) -> Tensor:
    """Normalize the summary tokens' states to unit length: (batch, hidden) float32."""
    return F.normalize(summary_states(hidden, batch).float(), dim=-1)


def _as_embeddings(items: Any, encode: Callable[[Any], Tensor], name: str) -> Tensor:
    """Return (n, dim) float32 embeddings: `items` itself if it is an array or tensor of them, else `encode(items)`."""
    if not isinstance(items, np.ndarray | Tensor) or items.ndim == 4:  # images are arrays too
        rows = items if isinstance(items, Sequence) else ()
        if any(isinstance(item, np.ndarray | Tensor) and item.ndim < 2 for item in rows):
            raise TypeError(f"{name} is a list with arrays in it: stack embeddings to one array of shape (n, dim)")
        return encode(items)
    embeddings = torch.as_tensor(items)
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise TypeError(
            f"{name} has shape {tuple(embeddings.shape)} and dtype {embeddings.dtype}: pass float embeddings of shape "
            "(n, dim), or a list of images (PIL, paths or arrays) or of captions"
        )
    return embeddings.float()


class Embedder:
    """Embed images and texts with a generative LVLM, so that matching pairs have a high cosine similarity.

        embedder = Embedder(load_lvlm("emoji-llava"))       # hand-written prompts, no adapter
        images = embedder.encode_image(["dog.jpg", image])  # (2, dim) float32, unit length
        texts = embedder.encode_text(["a dog", "two cats"])
        embedder.similarity(images, texts)                  # (2, 2) cosines

    Both prompts ask for a summary "in one word"; the embedding is the LLM's last hidden state at the prompt's last
    token. `attach` returns an Embedder that can be trained, `from_pretrained` a trained one. An Embedder without
    an adapter always runs the base model, even if one is attached to its LVLM later.
    """

    def __init__(
        self,
        lvlm: LVLM,
        image_words: str = IMAGE_PROMPT,
        text_words: str = TEXT_PROMPT,
        config: AdapterConfig | None = None,  # of the attached adapter; set by attach and from_pretrained
    ) -> None:
        self.lvlm, self.config, self._base = lvlm, config, False
        build_prompts = soft_prompts if config is not None and config.soft_prompt else hand_written_prompts
        self.image_prompt, self.text_prompt = build_prompts(lvlm, image_words, text_words)

    @property
    def device(self) -> torch.device:
        """The LVLM's device."""
        return self.lvlm.model.device

    @property
    def adapted(self) -> bool:
        """Whether the adapter is in use: False without an adapter, and inside `with embedder.base():`."""
        return self.config is not None and not self._base

    @contextmanager
    def base(self) -> Iterator[None]:
        """Disable the adapter in this block: `with embedder.base(): embedder.encode_text(["a dog"])`.

        Results are bit-identical to those of `Embedder(lvlm, *config.prompts)`. Other threads that use the LVLM wait
        until the block ends.
        """
        with self.lvlm.lock:
            if self.config is None or self._base:
                yield
                return
            adapted_prompts = self.image_prompt, self.text_prompt
            self.image_prompt, self.text_prompt = hand_written_prompts(self.lvlm, *self.config.prompts)
            self._base = True
            try:
                with self.lvlm.adapter_off():
                    yield
            finally:
                self._base = False
                self.image_prompt, self.text_prompt = adapted_prompts

    def _own_adapter_only(self) -> AbstractContextManager:
        return self.lvlm.adapter_off() if self.config is None else nullcontext()

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Run the block in eval mode without gradients, and without the adapter if this embedder has none."""
        with self.lvlm.lock:
            was_training = self.lvlm.model.training
            self.lvlm.model.eval()
            try:
                with torch.inference_mode(), self._own_adapter_only():
                    yield
            finally:
                self.lvlm.model.train(was_training)

    def hidden_states(self, batch: ModelInputs, prefix: Prefix | None = None) -> Tensor:
        """Return the LLM's hidden states after the final norm, (batch, length, hidden); no logits are computed.

        The tokens that all texts of a batch start with run once, or not at all if `prefix` holds their states.
        """
        with self.lvlm.lock, self._own_adapter_only():
            prefix = prefix or shared_prefix(self.lvlm, batch)
            if prefix is not None:
                return states_with_prefix(self.lvlm, batch, prefix)
            return self.lvlm.model.model(**batch.inputs, use_cache=False).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """Compute logits (…, vocabulary) from hidden states (…, hidden), as the family's own forward does."""
        model = self.lvlm.model
        # without hooks: FSDP's would gather the weights at each call, and ranks differ in their number of calls
        logits = model.lm_head.forward(states)
        if self.lvlm.family.capped_logits:
            cap = model.config.get_text_config().final_logit_softcapping
            logits = torch.tanh(logits / cap) * cap
        return logits

    def encode_image(self, images: Sequence[ImageLike], batch_size: int = 64) -> Tensor:
        """Embed images, unit length, (n, dim) float32 on the CPU: `embedder.encode_image([image, "photo.jpg"])`.

        An image is a PIL image, a path, the bytes of a file, or an array or tensor as `array_image` reads it.
        Images with equal pixels are encoded once.
        Raises BadInput naming an image that cannot be read, FileNotFoundError for a missing file, WrongType for a
        single image, MemoryShortage naming the batch size if memory runs out.
        """
        check_image_list(images)
        rows: list[int] = []
        opened = image_batches(images, batch_size, rows)
        batches = (image_inputs(self.lvlm.processor, batch, self.image_prompt) for batch in opened)
        embeddings = self._embed(batches, batch_size)  # fills the rows
        return embeddings[torch.tensor(rows, dtype=torch.long)]

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Embed captions: (n, dim) float32 on the CPU, unit length; special tokens in them are treated as plain text.

            embedder.encode_text(["a dog chasing a cat", "a cat chasing a dog"])

        Equal captions are encoded once, and so are the tokens that all captions follow, such as a system prompt.
        Raises BadInput naming a caption that is empty, holds half a character or is longer than `token_limit`,
        WrongType for a single string or for an item that is not text, such as NaN, MemoryShortage naming the batch size
        if memory runs out.
        """
        check_texts(texts)
        tokenizer = self.lvlm.processor.tokenizer
        ids = [tuple(one) for one in encode_captions(tokenizer, texts, token_limit(self.lvlm.model.config))]
        different = sorted(dict.fromkeys(ids), key=len)  # similar lengths need less padding
        batches = (
            text_inputs(tokenizer, different[start:end], self.text_prompt)
            for start, end in token_batches([len(one) for one in different], batch_size)
        )
        if len(different) == 1:  # a prefix that is not shared takes a forward pass of its own
            batches = (replace(batch, prefix_length=0) for batch in batches)
        rows = {one: row for row, one in enumerate(different)}
        return self._embed(batches, batch_size)[torch.tensor([rows[one] for one in ids], dtype=torch.long)]

    def _embed(self, batches: Iterable[ModelInputs], batch_size: int) -> Tensor:
        """Embed batches and concatenate them: (n, dim) float32 on the CPU."""
        model, batch = self.lvlm.model, None
        embeddings = [torch.empty(0, self.lvlm.embedding.embedding_dim)]

        def advice() -> str:
            fix = f"pass batch_size={max(1, batch_size // 4)}"
            if batch_size == 1:
                fix = "load the model with max_pixels=…, or in half precision"
            return f"while encoding with batch_size={batch_size}{encode_estimate(model, batch)}: {fix}"

        with self.inference(), memory_advice(advice):
            prefix = None
            for batch in batches:
                batch = batch.to(self.device)
                prefix = prefix or shared_prefix(self.lvlm, batch)
                embeddings.append(summary_embeddings(self.hidden_states(batch, prefix), batch).cpu())
                check_finite(embeddings[-1], model.dtype, "summary states")
        return torch.cat(embeddings)

    def similarity(self, images: Any, texts: Any) -> Tensor:
        """Compute the cosine similarity of each image with each text: (n_images, n_texts) float32.

            embedder.similarity(["dog.jpg", image], ["a dog", "two cats", "a car"])    # (2, 3)
            embedder.similarity(embedder.encode_image(images), embedder.encode_text(captions))

        Each argument is either embeddings, a tensor or array of shape (n, dim) and unit length, or a list of images or
        captions, which is encoded first. Raises TypeError for an argument that is neither.
        """
        texts = _as_embeddings(texts, self.encode_text, "texts")
        return _as_embeddings(images, self.encode_image, "images").to(texts.device) @ texts.T

    def generate(self, image: ImageLike | None, prompt: str, history: History = (), max_new_tokens: int = 128) -> str:
        """Answer a prompt about an image, or a text-only prompt if `image` is None, by greedy decoding.

            embedder.generate(image, "what is to the left of the dog?")                    # "cat"
            embedder.generate(image, "what color is it?", history=[(question, answer)])    # a second turn

        The adapter is used; `with embedder.base():` asks the base LVLM.
        """
        return self.generate_batch([image], [prompt], [history], max_new_tokens)[0]

    def generate_batch(
        self,
        images: Sequence[ImageLike | None],
        prompts: Sequence[str],
        histories: Sequence[History] | None = None,
        max_new_tokens: int = 128,
    ) -> list[str]:
        """Answer many prompts at once; either all have an image or none has."""
        advice = "pass fewer images and prompts at once, or load the model with max_pixels=… or in half precision"
        with self.inference(), memory_advice(lambda: f"while generating {len(prompts)} answers: {advice}"):
            return generate_answers(self.lvlm, images, prompts, histories, max_new_tokens)

    def trainable(self) -> dict[str, int]:
        """Count the trainable parameters: `embedder.trainable()["LoRA"]`; all others are frozen."""
        return adapter.count_trainable(self.lvlm)

    def save_pretrained(
        self,
        folder: str | os.PathLike,
        *,
        license: str = "apache-2.0",
        datasets: Sequence[str] = (),
        results: Mapping[str, Any] | None = None,
        repo_id: str | None = None,
    ) -> Path:
        """Save soft prompts, LoRA and temperature, without the base LVLM, as a folder that is a good hub repository.

            embedder.save_pretrained("my-adapter")
            embedder.save_pretrained("my-adapter", datasets=["me/my-pairs"], results={"winoground": result})

        Besides the adapter it holds the processor, provenance.json (base, revision, max_pixels, dtype, versions; no
        local path), LICENSE, and a model card, README.md. license: the adapter's, as the hub spells it. datasets: hub
        ids. results: benchmark -> what an evaluate function returned. repo_id: the name in the card's examples.
        The folder is written atomically. Raises ValueError for an Embedder without adapter.
        """
        if self.config is None:
            raise ValueError("this embedder has no adapter, so there is nothing to save: attach() returns one that has")
        with self.lvlm.lock:  # not within another thread's training step
            texts = {}
            if rank() == 0:
                repo_id = repo_id or Path(folder).name
                texts = repository_files(self.lvlm, self.config, repo_id, license, datasets, results)
            return adapter.save_adapter(self.lvlm, self.config, folder, texts)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, lvlm: LVLM | None = None, **load: Any) -> Embedder:
        """Load an embedder: `Embedder.from_pretrained("my-adapter")`, the shipped "emoji-llava-vladva", or a hub id.

        Its base LVLM is loaded too, with the recorded revision and max_pixels and the keywords `load` for `load_lvlm`,
        unless one is passed. Warns in one sentence if base, revision, max_pixels or weights are not the recorded ones,
        or if an older version of the kit recorded none. Raises BadAdapter if the folder is incomplete or does not fit
        the LVLM.
        """
        source = adapter.adapter_folder(folder)
        recorded, missing = read_provenance(source)
        options = load_options(recorded) if recorded is not None and lvlm is None else {}
        lvlm, config = adapter.load_adapter(source, lvlm, **{**options, **load})
        shipped = recorded is None and str(folder) == adapter.SHIPPED_ADAPTER  # its base is shipped with it
        if not shipped and (report := difference(str(folder), recorded, missing, lvlm)):
            warnings.warn(report, stacklevel=2)
        return cls(lvlm, *config.prompts, config)

    @overload
    def push_to_hub(
        self, repo_id: str, token: str | None = None, private: bool = True, *, dry_run: Literal[True], **card: Any
    ) -> list[str]: ...

    @overload
    def push_to_hub(
        self, repo_id: str, token: str | None = None, private: bool = True, *, dry_run: bool = False, **card: Any
    ) -> str: ...

    def push_to_hub(
        self, repo_id: str, token: str | None = None, private: bool = True, *, dry_run: bool = False, **card: Any
    ) -> str | list[str]:
        """Upload the adapter to the hub and return its URL; the token is neither printed nor saved.

            embedder.push_to_hub("me/my-adapter", results={"winoground": result})    # after `hf auth login`
            embedder.push_to_hub("me/my-adapter", dry_run=True)    # ["LICENSE", "README.md", …]: nothing is uploaded

        card: keywords of `save_pretrained`. With `dry_run` the names of the files are returned, without a connection.
        """
        with tempfile.TemporaryDirectory() as parent:
            folder = self.save_pretrained(Path(parent) / "adapter", **{"repo_id": repo_id, **card})
            if dry_run:
                return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            from huggingface_hub import HfApi

            api = HfApi(token=token)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder)
        return str(url)


def attach(
    lvlm: LVLM,
    soft_prompt: bool = True,
    lora: bool | Mapping[str, Any] = True,
    temperature: float = 0.07,
    prompts: tuple[str, str] = (IMAGE_PROMPT, TEXT_PROMPT),
    seed: int = 0,
    quiet: bool = False,
) -> Embedder:
    """Attach trainable parameters to a frozen LVLM, and return an Embedder to train with `fit`.

        embedder = attach(lvlm)                                  # r=16, alpha=16, as in the paper (section 4.1)
        embedder = attach(lvlm, lora={"r": 8, "lora_dropout": 0.05})
        embedder = attach(lvlm, lora=False)                      # soft prompts only

    soft_prompt: train the prompts' embeddings, starting from the hand-written `prompts` (for images, for texts).
    lora: add LoRA to the LLM's linear layers; a dict sets fields of peft's LoraConfig.
    temperature: initial value for the contrastive loss; it is trained too.
    Prints the layers with LoRA and the number of trainable parameters, unless `quiet`.
    Raises ValueError if the LVLM has an adapter already, nothing would be trained, or a LoRA setting is unknown or
    matches no layer; the LVLM is then unchanged.
    """
    if not isinstance(soft_prompt, bool):
        raise TypeError(
            f"soft_prompt={soft_prompt!r}: pass True or False; its length is that of the words in `prompts`"
        )
    if isinstance(prompts, str) or len(prompts) != 2:
        raise ValueError(f"prompts={prompts!r}: pass two texts, the prompt for images and that for texts")
    settings = None if lora is False else lora_settings(lvlm.model, {} if lora is True else lora)
    config = AdapterConfig(base_name(lvlm.name), soft_prompt, settings, temperature, (prompts[0], prompts[1]))
    with lvlm.lock:
        adapter.attach_adapter(lvlm, config, seed)
    if not quiet:
        print(adapter.adapter_summary(lvlm, config))
    return Embedder(lvlm, *config.prompts, config)

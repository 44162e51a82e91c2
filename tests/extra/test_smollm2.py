"""The kit on a real LLM: a vocabulary of 49 thousand, its own chat template, tied embeddings. `make test-smollm2`."""

import hashlib
import os
from functools import partial
from pathlib import Path

import pytest
import smollm2
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, check
from vladva_kit.models.files import atomic_dir
from vladva_kit.training.collator import Collator
from vladva_kit.training.trainer import step_losses

STEPS = int(os.environ.get("SMOLLM2_STEPS", 100))
QUESTIONS = ("What is the capital of France?", "Name three colors.", "Say hello in two words.")


@pytest.fixture(scope="module")
def folders(pytestconfig):
    """The LLM and the LLaVA built around it; built once, and again if the code or the weights have changed."""
    version = hashlib.sha256(Path(smollm2.__file__).read_bytes() + smollm2.gguf_file().name.encode()).hexdigest()
    kept = Path(pytestconfig.cache.mkdir(f"smollm2-{version[:16]}"))
    for name, build in (("llm", smollm2.unpack), ("llava", partial(smollm2.build, kept / "llm"))):
        if not (kept / name).is_dir():
            with atomic_dir(kept / name) as tmp_dir:
                build(tmp_dir)
    return kept


@pytest.fixture(scope="module")
def folder(folders):
    return str(folders / "llava")


def templated(processor, question):
    chat = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    return processor.apply_chat_template(chat, add_generation_prompt=True)


def answers(lvlm, max_new_tokens=12):
    """Return the logits of text-only questions and the greedy answers, as ids."""
    outputs = []
    for question in QUESTIONS:
        batch = lvlm.processor.tokenizer(templated(lvlm.processor, question), return_tensors="pt")
        with torch.inference_mode():
            outputs.append(lvlm.model(**batch, use_cache=False).logits)
            outputs.append(lvlm.model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False))
    return outputs


def test_the_llm_is_unchanged_inside_the_llava(folders, folder):
    llm, tokenizer = (auto.from_pretrained(folders / "llm") for auto in (AutoModelForCausalLM, AutoTokenizer))
    lvlm = vk.load_lvlm(folder, dtype=torch.float32)
    assert len(tokenizer) == 49152 and lvlm.model.get_input_embeddings().num_embeddings == 49153
    assert lvlm.model.lm_head.weight is lvlm.model.get_input_embeddings().weight
    text = "Zwölf 🐶 boxen\tquer…"  # byte-level: no unknown tokens
    assert lvlm.processor.tokenizer.decode(lvlm.processor.tokenizer(text).input_ids) == text
    for question in QUESTIONS:
        expected = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False,
                                            add_generation_prompt=True)  # fmt: skip
        assert templated(lvlm.processor, question) == expected and "<|im_start|>" in expected
        batch = tokenizer(expected, return_tensors="pt")
        with torch.inference_mode():
            inside, alone = lvlm.model(**batch).logits[..., :49152], llm(**batch).logits
        assert torch.allclose(inside, alone, atol=1e-4)
        assert torch.equal(inside.argmax(-1), alone.argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_eight_checks_pass(folder, dtype):
    results = check(vk.load_lvlm(folder, dtype=dtype))
    print(*results, sep="\n")
    assert [result.number for result in results] == list(range(1, 9))
    assert not [str(result) for result in results if not result.passed]


def test_fine_tuning_lowers_the_loss_and_leaves_the_llm_unchanged(folder):
    lvlm = vk.load_lvlm(folder, dtype=torch.float32)
    before = answers(lvlm)
    embedder = vk.attach(lvlm)
    held_out = Collator(embedder)(vk.load_pairs(vk.sample("emoji_pairs"), "test")[:8])["batch"]

    def loss():
        with torch.no_grad():
            return float(step_losses(embedder, held_out)["loss"])

    first = loss()
    settings = vk.Settings(steps=STEPS, batch_size=4, learning_rate=5e-4, warmup=STEPS // 10, bf16=False)
    history = vk.fit(embedder, vk.sample("emoji_pairs"), settings)
    last = loss()
    print(f"{len(history)} steps of 4 pairs: on eight held-out pairs the loss goes from {first:.3f} to {last:.3f}")
    adapted = embedder.encode_text(CAPTIONS)
    with embedder.base():
        assert all(torch.equal(one, other) for one, other in zip(before, answers(lvlm), strict=True))
        assert not torch.equal(adapted, embedder.encode_text(CAPTIONS))
    assert len(history) == STEPS and last < first

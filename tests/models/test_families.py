"""Tiny random models of twelve families pass the same eight tests, untied in float32 and tied in bfloat16.

Expected values are computed here with the family's own classes, not with the kit's checks.
"""

import hashlib
import re

import pytest
import tiny_families
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, LONG_CAPTIONS, example_images
from vladva_kit.embedder.adapter import BadAdapter
from vladva_kit.embedder.prompts import IMAGE_PROMPT, TEXT_PROMPT, image_inputs, text_inputs
from vladva_kit.models.families import FAMILIES
from vladva_kit.training.collator import Collator
from vladva_kit.training.losses import next_token_loss
from vladva_kit.training.trainer import step_losses

pytestmark = pytest.mark.usefixtures("one_thread")
QUESTION = "What is to the left of the dog?"
VARIANTS = [  # tests/checks covers the other two combinations
    pytest.param((family, tied, dtype), id=f"{family}-{'tied' if tied else 'untied'}-{str(dtype)[6:]}")
    for family in FAMILIES
    for tied, dtype in ((False, torch.float32), (True, torch.bfloat16))
]
FIXED_LENGTH = ("llava", "paligemma", "paligemma2", "gemma3", "mllama")  # the number of image tokens is constant


@pytest.fixture(scope="module", params=VARIANTS)
def tiny(request, tmp_path_factory):
    """Return a family's name, a dtype, and the folder of a tiny model; its weights are tied if the id says so."""
    family, tied, dtype = request.param
    folder = tiny_families.build(family, tmp_path_factory.mktemp(family), tied, dtype)
    assert tiny_families.is_tied(vk.load_lvlm(str(folder), dtype=dtype).model) == (
        tied and family in tiny_families.TIES
    )
    return family, dtype, folder


@pytest.fixture
def loaded(tiny):
    """Load a fresh LVLM from the folder."""
    return vk.load_lvlm(str(tiny[2]), dtype=tiny[1])


@pytest.fixture(scope="module")
def images():
    """Return three images of different shapes."""
    return example_images()


def close(actual, expected, dtype):
    if dtype == torch.float32:
        return torch.allclose(actual, expected.float(), rtol=0, atol=1e-5)
    return bool((F.cosine_similarity(actual, expected.float(), dim=-1) >= 0.999).all())


def processor_batch(lvlm, family, image, words):
    """Call the family's processor as its documentation does."""
    processor = lvlm.processor
    if family.startswith("paligemma"):
        if image is not None:
            batch = processor(images=image, text=f"<image>{words}", return_tensors="pt")
            batch.pop("labels", None)
            return batch
        return processor.tokenizer(f"<bos>{words}\n", return_tensors="pt", return_token_type_ids=True)
    content = [{"type": "text", "text": words}]
    content = content if image is None else [{"type": "image"}, *content]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    if image is None:
        return processor.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    return processor(images=[[image]], text=[text], return_tensors="pt", add_special_tokens=False)


def expected_embedding(lvlm, family, image, words):
    with torch.no_grad():
        states = lvlm.model(**processor_batch(lvlm, family, image, words), output_hidden_states=True).hidden_states[-1]
    return F.normalize(states[0, -1].float(), dim=-1)


def collate(embedder, images):
    pairs = [vk.Pair(*row) for row in zip(images, CAPTIONS, LONG_CAPTIONS, strict=True)]
    return Collator(embedder)(pairs)["batch"]


def train_one_step(lvlm, images):
    """Attach an adapter and take one AdamW step; return the embedder and the losses before and after the step."""
    embedder = vk.attach(lvlm)
    batch = collate(embedder, images)
    trainable = [parameter for parameter in lvlm.model.parameters() if parameter.requires_grad]
    optimizer, loss = torch.optim.AdamW(trainable, lr=1e-3), step_losses(embedder, batch)["loss"]
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        return embedder, loss.item(), step_losses(embedder, batch)["loss"].item()


def test_1_embeddings_equal_the_familys_own_forward(tiny, loaded, images):
    family, dtype, _ = tiny
    embedder = vk.Embedder(loaded)
    expected = torch.stack([expected_embedding(loaded, family, image, IMAGE_PROMPT) for image in images])
    expected_texts = torch.stack(
        [expected_embedding(loaded, family, None, f"{caption} {TEXT_PROMPT}") for caption in CAPTIONS]
    )
    assert loaded.family.verified and loaded.model.dtype == dtype
    assert close(embedder.encode_image(images), expected, dtype)
    assert close(embedder.encode_text(CAPTIONS), expected_texts, dtype)


def test_2_embeddings_do_not_depend_on_the_batch_size(tiny, loaded, images):
    family, dtype, _ = tiny
    embedder = vk.Embedder(loaded)
    positions = image_inputs(loaded.processor, images, embedder.image_prompt).summary_positions
    assert (len(set(positions.tolist())) > 1) == (family not in FIXED_LENGTH)  # so there is padding
    assert close(embedder.encode_image(images, 1), embedder.encode_image(images), dtype)
    assert close(embedder.encode_text(CAPTIONS, 1), embedder.encode_text(CAPTIONS), dtype)


def test_3_only_soft_prompts_the_llms_lora_and_the_temperature_are_trainable(tiny, loaded, capsys):
    config = loaded.model.config.get_text_config()
    size = config.hidden_size
    head = getattr(config, "head_dim", None) or size // config.num_attention_heads
    query, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    per_layer = 2 * (size + query) + 2 * (size + keys) + 3 * (size + config.intermediate_size)  # q o, k v, gate up down
    with pytest.raises(ValueError, match="no_such_layer"):
        vk.attach(loaded, lora={"target_modules": ["no_such_layer"]})
    assert capsys.readouterr().out == ""
    embedder = vk.attach(loaded, lora={"r": 4})
    printed = capsys.readouterr().out
    prompt_tokens = len(embedder.image_prompt.ids) + len(embedder.text_prompt.ids)
    expected = {"soft prompt": prompt_tokens * size, "LoRA": 4 * per_layer * config.num_hidden_layers, "temperature": 1}
    assert embedder.trainable() == expected
    kinds = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert re.search(
        rf": LoRA on {7 * config.num_hidden_layers} layers of model\.\w+ \({kinds}\); trainable parameters: ", printed
    )
    assert f"soft prompt {prompt_tokens * size:,}, LoRA {expected['LoRA']:,}, temperature 1\n" in printed
    targeted = loaded.adapter.targeted_module_names
    assert len(targeted) == 7 * config.num_hidden_layers
    assert not any("vision" in name or "projector" in name or "lm_head" in name for name in targeted)


def test_4_a_loaded_adapter_is_bit_identical_to_the_saved_one(tiny, loaded, images, tmp_path):
    _, dtype, folder = tiny
    embedder, *_ = train_one_step(loaded, images)
    saved = embedder.save_pretrained(tmp_path / "adapter")
    restored = vk.Embedder.from_pretrained(saved, dtype=dtype)
    assert torch.equal(restored.encode_image(images), embedder.encode_image(images))
    assert torch.equal(restored.encode_text(CAPTIONS), embedder.encode_text(CAPTIONS))
    assert not torch.equal(restored.encode_text(CAPTIONS), vk.Embedder(restored.lvlm).encode_text(CAPTIONS))
    state = load_file(saved / "adapter_model.safetensors")
    fresh = vk.load_lvlm(str(folder), dtype=dtype)
    for wrong in ({**state, "stranger": torch.zeros(1)}, dict(list(state.items())[1:])):
        save_file(wrong, saved / "adapter_model.safetensors")
        with pytest.raises(BadAdapter):
            vk.Embedder.from_pretrained(saved, fresh)


def test_5_with_the_adapter_off_after_training_the_base_is_bit_identical(tiny, loaded, images):
    family, dtype, folder = tiny
    embedder = vk.attach(loaded)
    pairs = [vk.Pair(*row) for row in zip(images, CAPTIONS, LONG_CAPTIONS, strict=True)]
    history = vk.fit(embedder, pairs, vk.Settings(steps=2, batch_size=3, warmup=0), progress=False)
    assert len(history) == 2 and all(row["loss"] > 0 for row in history)
    base = vk.load_lvlm(str(folder), dtype=dtype)
    for image in (images[1], None):
        batch = processor_batch(base, family, image, QUESTION)
        with torch.no_grad(), embedder.base():
            assert torch.equal(loaded.model(**batch).logits, base.model(**batch).logits)
            ids = loaded.model.generate(**batch, max_new_tokens=6, do_sample=False)
        assert torch.equal(ids, base.model.generate(**batch, max_new_tokens=6, do_sample=False))
    with embedder.base():
        answer = embedder.generate(images[0], QUESTION, max_new_tokens=6)
        assert torch.equal(embedder.encode_image(images), vk.Embedder(base).encode_image(images))
    assert answer == vk.Embedder(base).generate(images[0], QUESTION, max_new_tokens=6)


def test_6_a_long_caption_after_the_summary_token_does_not_change_the_embedding(tiny, loaded, images):
    _, dtype, _ = tiny
    embedder, *_ = train_one_step(loaded, images)
    batch = collate(embedder, images).images
    with torch.no_grad():
        states = embedder.hidden_states(batch)
    followed = F.normalize(states[range(3), batch.summary_positions].float(), dim=-1)
    assert (batch.inputs["attention_mask"].sum(1) > batch.summary_positions + 1).all()
    assert close(followed, embedder.encode_image(images), dtype)


def test_7_images_change_the_embedding_and_special_tokens_in_captions_are_plain_text(tiny, loaded, images):
    family, _, _ = tiny
    embedder = vk.attach(loaded)
    first, *others = embedder.encode_image(images)
    assert all((first - other).abs().max() > 1e-3 for other in others)
    tokenizer = loaded.processor.tokenizer
    special = ["<pad>", "<bos>", "<eos>", *tiny_families.SPECIALS[family]]
    special += ["<loc0007>"] if family.startswith("paligemma") else []
    captions = [f"a dog {token} a cat" for token in special]
    prompt = embedder.text_prompt
    ids_of_a = text_inputs(tokenizer, ["a"], prompt).inputs["input_ids"][0].tolist()
    for token, caption in zip(special, captions, strict=True):
        ids = text_inputs(tokenizer, [caption], prompt).inputs["input_ids"][0].tolist()
        number = tokenizer.convert_tokens_to_ids(token)
        assert ids.count(number) == ids_of_a.count(number)  # those of the template
        assert [one for one in ids if one >= prompt.ids[0]] == list(prompt.ids)  # no other id selects a soft-prompt row
    assert embedder.encode_text(captions).isfinite().all()


def test_8_one_training_step_lowers_the_loss_and_leaves_the_base_weights_unchanged(tiny, loaded, images):
    _, dtype, folder = tiny
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    _, before, after = train_one_step(loaded, images)
    assert after < before
    state = {name.replace(".base_layer", ""): value for name, value in loaded.model.state_dict().items()}
    base = vk.load_lvlm(str(folder), dtype=dtype).model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in base.items())
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == digest


def test_the_next_token_loss_equals_the_familys_own(tiny, loaded, images):
    _, dtype, _ = tiny
    embedder = vk.Embedder(loaded)
    batch = collate(embedder, images).images
    with torch.no_grad():
        loss, _ = next_token_loss(embedder.hidden_states(batch), batch.labels, embedder.logits)
        expected = loaded.model(**batch.inputs, labels=batch.labels).loss.float()
    assert torch.allclose(loss, expected, rtol=1e-5 if dtype == torch.float32 else 2e-2)

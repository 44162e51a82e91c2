"""Twelve families, tiny and random, each held to the same eight tests: untied in float32, tied in bfloat16.

What a test expects is computed here, by the family's own classes, and not by the kit's own checks.
"""

import hashlib
import re

import pytest
import tiny_families
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, LONG, example_pictures
from vladva_kit.embedder.adapter import BadAdapter
from vladva_kit.embedder.prompts import IMAGE_PROMPT, TEXT_PROMPT, image_inputs, text_inputs
from vladva_kit.models.families import FAMILIES
from vladva_kit.training.losses import next_token
from vladva_kit.training.trainer import Collator, step_losses

pytestmark = pytest.mark.usefixtures("one_thread")
QUESTION = "What is to the left of the dog?"
VARIANTS = [  # the other two combinations are held to the kit's own checks, in test_checks.py
    pytest.param((family, tied, dtype), id=f"{family}-{'tied' if tied else 'untied'}-{str(dtype)[6:]}")
    for family in FAMILIES
    for tied, dtype in ((False, torch.float32), (True, torch.bfloat16))
]
ONE_LENGTH = ("llava", "paligemma", "paligemma2", "gemma3", "mllama")  # the same number of tokens for any picture


@pytest.fixture(scope="module", params=VARIANTS)
def tiny(request, tmp_path_factory):
    """A family's name and dtype, and the folder of a tiny model of it, tied or not as its name says."""
    family, tied, dtype = request.param
    folder = tiny_families.build(family, tmp_path_factory.mktemp(family), tied, dtype)
    assert tiny_families.is_tied(vk.load_lvlm(str(folder), dtype=dtype).model) == (
        tied and family in tiny_families.TIES
    )
    return family, dtype, folder


@pytest.fixture
def loaded(tiny):
    """A fresh LVLM from the folder."""
    return vk.load_lvlm(str(tiny[2]), dtype=tiny[1])


@pytest.fixture(scope="module")
def drawn():
    """Three pictures of different shapes."""
    return example_pictures()


def near(ours, theirs, dtype, tolerance=1e-5):
    if dtype == torch.float32:
        return torch.allclose(ours, theirs.float(), rtol=0, atol=tolerance)
    return bool((F.cosine_similarity(ours, theirs.float(), dim=-1) >= 0.999).all())


def own_batch(lvlm, family, picture, words):
    """What the family's own processor makes of a picture and words, called as its documentation does."""
    processor = lvlm.processor
    if family.startswith("paligemma"):
        if picture is not None:
            batch = processor(images=picture, text=f"<image>{words}", return_tensors="pt")
            batch.pop("labels", None)
            return batch
        return processor.tokenizer(f"<bos>{words}\n", return_tensors="pt", return_token_type_ids=True)
    content = [{"type": "text", "text": words}]
    content = content if picture is None else [{"type": "image"}, *content]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    if picture is None:
        return processor.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    return processor(images=[[picture]], text=[text], return_tensors="pt", add_special_tokens=False)


def own_embedding(lvlm, family, picture, words):
    with torch.no_grad():
        states = lvlm.model(**own_batch(lvlm, family, picture, words), output_hidden_states=True).hidden_states[-1]
    return F.normalize(states[0, -1].float(), dim=-1)


def a_batch(embedder, pictures):
    pairs = [vk.Pair(*row) for row in zip(pictures, CAPTIONS, LONG, strict=True)]
    return Collator(embedder)(pairs)["batch"]


def trained(lvlm, pictures, steps=1):
    """An embedder after steps of AdamW on one batch, with the losses before each step and after the last."""
    embedder = vk.attach(lvlm)
    batch = a_batch(embedder, pictures)
    learning = [parameter for parameter in lvlm.model.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(learning, lr=1e-3), []
    for _ in range(steps):
        loss = step_losses(embedder, batch)["loss"]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses.append(float(step_losses(embedder, batch)["loss"]))
    return embedder, losses


def test_1_embeddings_equal_the_familys_own_forward(tiny, loaded, drawn):
    family, dtype, _ = tiny
    embedder = vk.Embedder(loaded)
    images = torch.stack([own_embedding(loaded, family, picture, IMAGE_PROMPT) for picture in drawn])
    texts = torch.stack([own_embedding(loaded, family, None, f"{caption} {TEXT_PROMPT}") for caption in CAPTIONS])
    assert loaded.family.tested and loaded.model.dtype == dtype
    assert near(embedder.encode_image(drawn), images, dtype)
    assert near(embedder.encode_text(CAPTIONS), texts, dtype)


def test_2_a_batch_of_one_equals_a_batch_of_many(tiny, loaded, drawn):
    family, dtype, _ = tiny
    embedder = vk.Embedder(loaded)
    lengths = image_inputs(loaded.processor, drawn, embedder.image_prompt).summary
    assert (len(set(lengths.tolist())) > 1) == (family not in ONE_LENGTH)  # padding is put to the test
    assert near(embedder.encode_image(drawn, 1), embedder.encode_image(drawn), dtype)
    assert near(embedder.encode_text(CAPTIONS, 1), embedder.encode_text(CAPTIONS), dtype)


def test_3_only_soft_prompts_the_llms_lora_and_the_temperature_learn_and_that_is_printed(tiny, loaded, capsys):
    config = loaded.model.config.get_text_config()
    size = config.hidden_size
    head = getattr(config, "head_dim", None) or size // config.num_attention_heads
    query, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    a_layer = 2 * (size + query) + 2 * (size + keys) + 3 * (size + config.intermediate_size)  # q o, k v, gate up down
    with pytest.raises(ValueError, match="no_such_layer"):
        vk.attach(loaded, lora={"target_modules": ["no_such_layer"]})
    assert capsys.readouterr().out == ""
    embedder = vk.attach(loaded, lora={"r": 4})
    said = capsys.readouterr().out
    prompts = len(embedder.image_prompt.ids) + len(embedder.text_prompt.ids)
    wanted = {"soft prompt": prompts * size, "LoRA": 4 * a_layer * config.num_hidden_layers, "temperature": 1}
    assert embedder.trainable() == wanted
    kinds = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert re.search(rf": LoRA on {7 * config.num_hidden_layers} layers of model\.\w+ \({kinds}\); soft prompt ", said)
    assert f"soft prompt {prompts * size:,}, LoRA {wanted['LoRA']:,}, temperature 1 weights learn" in said
    touched = loaded.adapter.targeted_module_names
    assert len(touched) == 7 * config.num_hidden_layers
    assert not any("vision" in name or "projector" in name or "lm_head" in name for name in touched)


def test_4_what_is_saved_is_what_is_loaded(tiny, loaded, drawn, tmp_path):
    _, dtype, folder = tiny
    embedder, _ = trained(loaded, drawn)
    saved = embedder.save_pretrained(tmp_path / "adapter")
    again = vk.Embedder.from_pretrained(saved, dtype=dtype)
    assert torch.equal(again.encode_image(drawn), embedder.encode_image(drawn))
    assert torch.equal(again.encode_text(CAPTIONS), embedder.encode_text(CAPTIONS))
    assert not torch.equal(again.encode_text(CAPTIONS), vk.Embedder(again.lvlm).encode_text(CAPTIONS))
    state = load_file(saved / "adapter_model.safetensors")
    fresh = vk.load_lvlm(str(folder), dtype=dtype)
    for wrong in ({**state, "stranger": torch.zeros(1)}, dict(list(state.items())[1:])):
        save_file(wrong, saved / "adapter_model.safetensors")
        with pytest.raises(BadAdapter):
            vk.Embedder.from_pretrained(saved, fresh)


def test_5_with_the_adapter_off_after_fit_it_is_the_base_bit_for_bit(tiny, loaded, drawn):
    family, dtype, folder = tiny
    embedder = vk.attach(loaded)
    pairs = [vk.Pair(*row) for row in zip(drawn, CAPTIONS, LONG, strict=True)]
    history = vk.fit(embedder, pairs, vk.Settings(steps=2, batch_size=3, warmup=0), progress=False)
    assert len(history) == 2 and all(row["loss"] > 0 for row in history)
    base = vk.load_lvlm(str(folder), dtype=dtype)
    for picture in (drawn[1], None):
        batch = own_batch(base, family, picture, QUESTION)
        with torch.no_grad(), embedder.base():
            assert torch.equal(loaded.model(**batch).logits, base.model(**batch).logits)
            ours = loaded.model.generate(**batch, max_new_tokens=6, do_sample=False)
        assert torch.equal(ours, base.model.generate(**batch, max_new_tokens=6, do_sample=False))
    asked = [embedder.generate(drawn[0], QUESTION, max_new_tokens=6)]
    with embedder.base():
        asked.append(embedder.generate(drawn[0], QUESTION, max_new_tokens=6))
        assert torch.equal(embedder.encode_image(drawn), vk.Embedder(base).encode_image(drawn))
    assert asked[1] == vk.Embedder(base).generate(drawn[0], QUESTION, max_new_tokens=6)


def test_6_the_summary_with_a_long_caption_behind_it_equals_that_without(tiny, loaded, drawn):
    _, dtype, _ = tiny
    embedder, _ = trained(loaded, drawn)
    sequences = a_batch(embedder, drawn).images
    with torch.no_grad():
        states = embedder.hidden_states(sequences)
    behind = F.normalize(states[range(3), sequences.summary].float(), dim=-1)
    assert (sequences.inputs["attention_mask"].sum(1) > sequences.summary + 1).all()
    assert near(behind, embedder.encode_image(drawn), dtype)


def test_7_another_picture_is_another_embedding_and_a_captions_special_tokens_are_text(tiny, loaded, drawn):
    family, _, _ = tiny
    embedder = vk.attach(loaded)
    images = embedder.encode_image(drawn)
    assert (images[0] - images[1]).abs().max() > 1e-3 and (images[0] - images[2]).abs().max() > 1e-3
    tokenizer = loaded.processor.tokenizer
    special = ["<pad>", "<bos>", "<eos>", *tiny_families.SPECIALS[family]]
    special += ["<loc0007>"] if family.startswith("paligemma") else []
    captions = [f"a dog {token} a cat" for token in special]
    prompt = embedder.text_prompt
    alone = text_inputs(tokenizer, ["a"], prompt).inputs["input_ids"][0].tolist()
    for token, caption in zip(special, captions, strict=True):
        ids = text_inputs(tokenizer, [caption], prompt).inputs["input_ids"][0].tolist()
        number = tokenizer.convert_tokens_to_ids(token)
        assert ids.count(number) == alone.count(number)  # as often as the prompt itself holds it
        first = prompt.ids[0]  # the soft prompt's ids, and none before them
        assert [one for one in ids if one >= first] == list(prompt.ids)
    assert embedder.encode_text(captions).isfinite().all()


def test_8_one_training_step_lowers_the_loss_and_leaves_the_bases_bytes_alone(tiny, loaded, drawn):
    _, dtype, folder = tiny
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    _, (before, after) = trained(loaded, drawn)
    assert after < before
    state = {name.replace(".base_layer", ""): value for name, value in loaded.model.state_dict().items()}
    base = vk.load_lvlm(str(folder), dtype=dtype).model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in base.items())
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == digest


def test_the_next_token_loss_is_the_familys_own(tiny, loaded, drawn):
    _, dtype, _ = tiny
    embedder = vk.Embedder(loaded)
    images = a_batch(embedder, drawn).images
    with torch.no_grad():
        ours, _ = next_token(embedder.hidden_states(images), images.labels, embedder.logits)
        theirs = loaded.model(**images.inputs, labels=images.labels).loss.float()
    assert torch.allclose(ours, theirs, rtol=1e-5 if dtype == torch.float32 else 2e-2)

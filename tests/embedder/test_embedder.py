"""The towers: what the embedding is, what it does not depend on, and that the base stays what it was."""

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.embedder.adapter import RECORD, BadAdapter
from vladva_kit.embedder.embedder import summary_states
from vladva_kit.embedder.prompts import IMAGE_PROMPT, encode_caption, image_inputs
from vladva_kit.models.load import resolve

QUESTION = "what is the ground?"


def train_a_little(embedder, pairs, steps=2):
    return vk.fit(embedder, pairs, vk.Settings(steps=steps, batch_size=6, warmup=1), progress=False)


def logits(lvlm, picture):
    text = lvlm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}],
        add_generation_prompt=True,
    )
    with torch.no_grad():
        return lvlm.model(**lvlm.processor(images=picture, text=text, return_tensors="pt")).logits


def test_the_embedding_is_the_familys_own_last_state_at_the_last_token(lvlm, pictures):
    text = lvlm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": IMAGE_PROMPT}]}],
        add_generation_prompt=True,
    )
    with torch.no_grad():
        batch = lvlm.processor(images=pictures[0], text=text, return_tensors="pt")
        own = lvlm.model(**batch, output_hidden_states=True).hidden_states[-1][0, -1]
    ours = vk.Embedder(lvlm).encode_image(pictures[:1])[0]
    assert torch.allclose(ours, F.normalize(own, dim=-1), atol=1e-6)


def test_embeddings_are_unit_length_float32_and_in_the_order_given(lvlm, captions, pictures):
    embedder = vk.Embedder(lvlm)
    texts = embedder.encode_text(captions)
    assert texts.dtype == torch.float32 and texts.shape == (len(captions), 256)
    assert torch.allclose(texts.norm(dim=-1), torch.ones(len(captions)), atol=1e-6)
    backwards = embedder.encode_text(captions[::-1])
    assert torch.allclose(backwards.flip(0), texts, atol=1e-5)
    assert embedder.similarity(embedder.encode_image(pictures[:3]), texts).shape == (3, len(captions))


def test_a_batch_of_one_equals_a_batch_of_many_in_fp32(lvlm, captions, pictures):
    embedder = vk.Embedder(lvlm)
    assert torch.allclose(embedder.encode_text(captions, 1), embedder.encode_text(captions), atol=1e-5)
    assert torch.allclose(embedder.encode_image(pictures, 1), embedder.encode_image(pictures), atol=1e-5)


def test_a_batch_of_one_equals_a_batch_of_many_in_bf16(captions, pictures):
    embedder = vk.Embedder(vk.load_lvlm("emoji-llava", dtype=torch.bfloat16))
    for encode, items in ((embedder.encode_text, captions), (embedder.encode_image, pictures)):
        assert (encode(items, 1) * encode(items)).sum(-1).min() >= 0.999


def test_another_picture_gives_another_embedding(lvlm, pictures):
    images = vk.Embedder(lvlm).encode_image(pictures)
    assert not torch.allclose(images[0], images[1], atol=1e-4)


def test_the_initial_embedding_is_the_hand_written_prompts_bit_for_bit(lvlm, captions, pictures):
    baseline = vk.Embedder(lvlm)
    images, texts = baseline.encode_image(pictures), baseline.encode_text(captions)
    embedder = vk.attach(lvlm)
    assert torch.equal(embedder.encode_image(pictures), images)
    assert torch.equal(embedder.encode_text(captions), texts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_summary_embedding_with_a_long_caption_behind_it_equals_that_without(dtype, pictures, long_captions):
    lvlm = vk.load_lvlm(dtype=dtype)
    embedder = vk.attach(lvlm)
    captions = [encode_caption(lvlm.processor.tokenizer, caption) for caption in long_captions]
    sequences = image_inputs(lvlm.processor, pictures, embedder.image_prompt, captions)
    with torch.no_grad():
        behind = F.normalize(summary_states(embedder.hidden_states(sequences), sequences).float(), dim=-1)
    without = embedder.encode_image(pictures)
    assert (behind * without).sum(-1).min() >= 0.999
    assert dtype == torch.bfloat16 or torch.allclose(behind, without, atol=1e-5)


def test_only_soft_prompts_lora_and_temperature_learn_and_all_three_are_saved(lvlm, tmp_path):
    embedder = vk.attach(lvlm)
    prompts = len(embedder.image_prompt.ids) + len(embedder.text_prompt.ids)
    llm = lvlm.model.model.language_model
    lora = sum(16 * (m.in_features + m.out_features) for n, m in llm.named_modules() if n.endswith("_proj"))
    assert embedder.trainable() == {"soft prompt": prompts * 256, "LoRA": lora, "temperature": 1}
    from safetensors import safe_open

    with safe_open(embedder.save_pretrained(tmp_path / "a") / "adapter_model.safetensors", "pt") as file:
        saved = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118  not a dict
    assert saved == sum(embedder.trainable().values())


def test_lora_touches_the_llms_linear_layers_only(lvlm):
    vk.attach(lvlm)
    touched = lvlm.adapter.targeted_module_names
    assert len(touched) == 4 * 7 and all(".language_model.layers." in name for name in touched)


def test_after_training_the_base_is_what_it_was_bit_for_bit(lvlm, pairs, pictures, captions):
    base_file = Path(resolve("emoji-llava")) / "model.safetensors"
    digest = hashlib.sha256(base_file.read_bytes()).hexdigest()
    baseline = vk.Embedder(lvlm)
    before = [baseline.encode_image(pictures), baseline.encode_text(captions), logits(lvlm, pictures[0])]
    said = baseline.generate(pictures[0], QUESTION)
    frozen = {name: value.clone() for name, value in lvlm.model.state_dict().items()}

    embedder = vk.attach(lvlm)
    train_a_little(embedder, pairs)

    assert not torch.allclose(embedder.encode_image(pictures), before[0], atol=1e-3)
    assert torch.equal(baseline.encode_image(pictures), before[0])
    assert torch.equal(baseline.encode_text(captions), before[1])
    assert baseline.generate(pictures[0], QUESTION) == said
    with lvlm.adapter_off():
        assert torch.equal(logits(lvlm, pictures[0]), before[2])
    with embedder.base():
        assert torch.equal(logits(lvlm, pictures[0]), before[2])
        assert torch.equal(embedder.encode_image(pictures), before[0])
        assert embedder.generate(pictures[0], QUESTION) == said
    now = lvlm.model.state_dict()
    names = {name: name.replace("_proj.", "_proj.base_layer.") for name in frozen}
    assert all(torch.equal(now[names[n] if names[n] in now else n], value) for n, value in frozen.items())
    assert hashlib.sha256(base_file.read_bytes()).hexdigest() == digest


def test_saved_and_loaded_it_is_the_same_bit_for_bit(lvlm, pairs, pictures, captions, tmp_path):
    embedder = vk.attach(lvlm)
    train_a_little(embedder, pairs)
    again = vk.Embedder.from_pretrained(embedder.save_pretrained(tmp_path / "adapter"))
    assert torch.equal(again.encode_image(pictures), embedder.encode_image(pictures))
    assert torch.equal(again.encode_text(captions), embedder.encode_text(captions))
    assert torch.equal(again.lvlm.model.temperature(torch.ones(1)), lvlm.model.temperature(torch.ones(1)))


def test_the_shipped_adapter_is_of_the_shipped_lvlm_and_comes_off(lvlm, pictures, captions):
    baseline = vk.Embedder(lvlm)
    images, texts = baseline.encode_image(pictures), baseline.encode_text(captions)
    embedder = vk.Embedder.from_pretrained("emoji-llava-vladva", lvlm)
    assert embedder.record["base"] == "emoji-llava" and all(embedder.trainable().values())
    assert not torch.allclose(embedder.encode_image(pictures), images, atol=1e-2)
    assert not torch.allclose(embedder.encode_text(captions), texts, atol=1e-2)
    with embedder.base():
        assert torch.equal(embedder.encode_image(pictures), images)
        assert torch.equal(embedder.encode_text(captions), texts)


@pytest.mark.parametrize(
    ("soft_prompt", "lora", "kinds"),
    [(True, False, {"soft prompt", "temperature"}), (False, True, {"LoRA", "temperature"})],
)
def test_each_part_can_be_attached_alone(lvlm, pairs, pictures, tmp_path, soft_prompt, lora, kinds):
    embedder = vk.attach(lvlm, soft_prompt=soft_prompt, lora=lora)
    assert {kind for kind, n in embedder.trainable().items() if n} == kinds
    before = embedder.encode_image(pictures)
    train_a_little(embedder, pairs)
    after = embedder.encode_image(pictures)
    assert not torch.allclose(after, before, atol=1e-4)
    again = vk.Embedder.from_pretrained(embedder.save_pretrained(tmp_path / "adapter"))
    assert torch.equal(again.encode_image(pictures), after)


def test_what_learns_is_the_same_after_the_baseline_has_run_and_after_fit(lvlm, pairs, pictures):
    baseline, embedder = vk.Embedder(lvlm), vk.attach(lvlm, lora=False)
    learning = embedder.trainable()
    baseline.encode_image(pictures[:1])
    with embedder.base():
        pass
    assert embedder.trainable() == learning and learning["LoRA"] == 0
    vk.fit(embedder, pairs, vk.Settings(steps=1, batch_size=6, learn_temperature=False), progress=False)
    assert embedder.trainable() == {**learning, "temperature": 0}


def test_an_adapter_with_a_missing_or_an_unexpected_key_is_refused(lvlm, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = vk.attach(lvlm).save_pretrained(tmp_path / "adapter")
    state = load_file(folder / "adapter_model.safetensors")
    prompt = next(name for name in state if "soft_prompt" in name)
    save_file({k: v for k, v in state.items() if k != prompt}, folder / "adapter_model.safetensors")
    with pytest.raises(BadAdapter, match="soft_prompt"):
        vk.Embedder.from_pretrained(folder)
    save_file({**state, "stranger": torch.zeros(1)}, folder / "adapter_model.safetensors")
    clean = vk.load_lvlm()
    before = clean.model(torch.tensor([[2, 5, 100]])).logits
    with pytest.raises(BadAdapter, match="stranger"):
        vk.Embedder.from_pretrained(folder, clean)
    assert torch.equal(clean.model(torch.tensor([[2, 5, 100]])).logits, before)  # nothing was loaded by halves
    vk.attach(clean)


def test_a_folder_that_is_not_an_adapter_says_what_is_missing(tmp_path):
    with pytest.raises(BadAdapter, match=RECORD):
        vk.Embedder.from_pretrained(tmp_path)


def test_a_second_adapter_is_refused_and_the_first_goes_on(lvlm, pictures):
    embedder = vk.attach(lvlm)
    images = embedder.encode_image(pictures[:2])
    with pytest.raises(ValueError, match="carries an adapter already"):
        vk.attach(lvlm)
    assert torch.equal(embedder.encode_image(pictures[:2]), images)


def test_attaching_nothing_is_refused(lvlm):
    with pytest.raises(ValueError, match="nothing would be trained"):
        vk.attach(lvlm, soft_prompt=False, lora=False)


def test_what_matched_and_what_learns_is_printed_unless_quiet(capsys):
    embedder = vk.attach(vk.load_lvlm())
    kinds = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    counts = embedder.trainable()
    assert capsys.readouterr().out == (
        f"emoji-llava: LoRA on 28 layers of model.language_model ({kinds}); soft prompt {counts['soft prompt']:,}, "
        f"LoRA {counts['LoRA']:,}, temperature 1 weights learn\n"
    )
    leaking = vk.attach(vk.load_lvlm(), lora={"target_modules": ["q_proj"]}, soft_prompt=False)
    said = capsys.readouterr().out
    assert "LoRA on 4 layers of model.vision_tower (q_proj); LoRA on 4 layers of model.language_model (q_proj)" in said
    assert leaking.trainable()["soft prompt"] == 0 and "soft prompt" not in said
    vk.attach(vk.load_lvlm(), lora=False)
    assert "LoRA" not in capsys.readouterr().out
    vk.attach(vk.load_lvlm(), quiet=True)
    assert capsys.readouterr().out == ""


def test_lora_targets_that_match_nothing_are_refused(lvlm):
    with pytest.raises(ValueError, match="no_such_layer"):
        vk.attach(lvlm, lora={"target_modules": ["no_such_layer"]})
    embedder = vk.attach(lvlm, lora={"target_modules": r".*language_model.*\.q_proj"})  # a second try works
    assert embedder.trainable()["LoRA"] == 4 * 16 * 512


def test_special_tokens_in_a_caption_do_not_act(lvlm):
    embedder = vk.attach(lvlm)
    written = embedder.encode_text(["a dog <image> a cat", "a dog <eos> a cat", "a dog <assistant> a cat"])
    spelt = embedder.encode_text(["a dog < image > a cat", "a dog < eos > a cat", "a dog < assistant > a cat"])
    assert torch.allclose(written, spelt, atol=1e-6)


def test_an_empty_caption_and_a_lone_string_are_refused(lvlm):
    with pytest.raises(ValueError, match="caption 1 is empty"):
        vk.Embedder(lvlm).encode_text(["a dog", "  "])
    with pytest.raises(TypeError, match="list"):
        vk.Embedder(lvlm).encode_text("a dog")


def test_a_picture_that_cannot_be_read_is_named(lvlm, pictures, tmp_path):
    pictures[0].save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:500])
    (tmp_path / "text.jpg").write_text("no picture")
    embedder, clip = vk.Embedder(lvlm), vk.ClipEmbedder("emoji-clip")
    for encode in (partial(embedder.encode_image, batch_size=1), partial(clip.encode_image, batch_size=1)):
        with pytest.raises(vk.BadInput, match=r"picture 2 \(.*cut.png\) cannot be read .*leave it out"):
            encode([pictures[0], tmp_path / "whole.png", tmp_path / "cut.png"])
    with pytest.raises(vk.BadInput, match=r"picture 0 \(.*text.jpg\) cannot be read"):
        embedder.generate(str(tmp_path / "text.jpg"), QUESTION)
    with pytest.raises(FileNotFoundError, match=r"nowhere.png"):
        embedder.encode_image([tmp_path / "nowhere.png"])


def test_it_talks_with_and_without_a_picture_and_in_two_turns(lvlm, pictures):
    embedder = vk.Embedder(lvlm)
    first = embedder.generate(pictures[0], "what is in the picture?", max_new_tokens=4)
    assert isinstance(embedder.generate(pictures[0], "how big is it?", [("what is in the picture?", first)], 4), str)
    assert isinstance(embedder.generate(None, "a dog. say it in other words:", max_new_tokens=4), str)


def test_asking_many_at_once_gives_the_answers_of_asking_one_by_one(lvlm, pictures):
    embedder = vk.Embedder(lvlm)
    prompts = ["what is the ground?", "provide a short caption:", "how big is it?"]
    together = embedder.generate_batch(pictures[:3], prompts, max_new_tokens=8)
    assert together == [embedder.generate(p, q, max_new_tokens=8) for p, q in zip(pictures, prompts, strict=False)]


def test_a_baseline_has_nothing_to_save(lvlm, tmp_path):
    with pytest.raises(ValueError, match="nothing to save"):
        vk.Embedder(lvlm).save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()

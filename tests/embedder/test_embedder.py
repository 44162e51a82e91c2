"""Embeddings: what they are, what they do not depend on, and that training leaves the base model bit-identical."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_lvlm
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.embedder.embedder import summary_states
from vladva_kit.embedder.prompts import IMAGE_PROMPT, encode_caption, image_inputs
from vladva_kit.models.load import resolve

pytestmark = pytest.mark.usefixtures("one_thread")
QUESTION = "what is the ground?"


def train(embedder, pairs, steps=2, **settings):
    return vk.fit(embedder, pairs, vk.Settings(steps=steps, batch_size=6, warmup=1, **settings), progress=False)


def rendered(lvlm, words):
    content = [{"type": "image"}, {"type": "text", "text": words}]
    return lvlm.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def logits(lvlm, image):
    with torch.no_grad():
        return lvlm.model(**lvlm.processor(images=image, text=rendered(lvlm, QUESTION), return_tensors="pt")).logits


def test_an_embedding_is_the_models_last_hidden_state_at_the_last_token(lvlm, pictures):
    with torch.no_grad():
        batch = lvlm.processor(images=pictures[0], text=rendered(lvlm, IMAGE_PROMPT), return_tensors="pt")
        state = lvlm.model(**batch, output_hidden_states=True).hidden_states[-1][0, -1]
    assert torch.allclose(vk.Embedder(lvlm).encode_image(pictures[:1])[0], F.normalize(state, dim=-1), atol=1e-6)


def test_embeddings_have_unit_length_float32_and_the_order_of_the_input(lvlm, captions):
    embedder = vk.Embedder(lvlm)
    texts = embedder.encode_text(captions)
    assert texts.dtype == torch.float32 and texts.shape == (len(captions), 64)
    assert torch.allclose(texts.norm(dim=-1), torch.ones(len(captions)), atol=1e-6)
    assert torch.allclose(embedder.encode_text(captions[::-1]).flip(0), texts, atol=1e-5)


def test_no_items_give_an_empty_tensor(lvlm):
    embedder = vk.Embedder(lvlm)
    for embeddings in (embedder.encode_image([]), embedder.encode_text([])):
        assert embeddings.shape == (0, 64) and embeddings.dtype == torch.float32


def test_equal_captions_and_equal_images_are_encoded_once_in_the_order_of_the_input(lvlm, captions, pictures, tmp_path):
    embedder, rows = vk.Embedder(lvlm), []
    pictures[0].save(tmp_path / "copy.png")
    images = [*pictures[:2], pictures[0].copy(), tmp_path / "copy.png", pictures[1]]
    expected = [embedder.encode_image(pictures[:2]), embedder.encode_text(captions[:2])]
    forward = lvlm.model.model.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lvlm.model.model, "forward", lambda **i: rows.append(len(i["input_ids"])) or forward(**i))
        again, texts = embedder.encode_image(images, 2), embedder.encode_text([*captions[:2], captions[0]])
    assert rows == [2, 2] and torch.equal(again, expected[0][[0, 1, 0, 0, 1]])
    assert torch.equal(texts, expected[1][[0, 1, 0]]) and texts.dtype == again.dtype == torch.float32


def test_embeddings_do_not_depend_on_the_batch_size_in_fp32(lvlm, captions, pictures):
    embedder = vk.Embedder(lvlm)
    assert torch.allclose(embedder.encode_text(captions, 1), embedder.encode_text(captions), atol=1e-5)
    assert torch.allclose(embedder.encode_image(pictures, 1), embedder.encode_image(pictures), atol=1e-5)


def test_embeddings_hardly_depend_on_the_batch_size_in_bf16(captions, pictures):
    embedder = vk.Embedder(tiny_lvlm(dtype=torch.bfloat16))
    for encode, items in ((embedder.encode_text, captions), (embedder.encode_image, pictures)):
        assert (encode(items, 1) * encode(items)).sum(-1).min() >= 0.999


def test_different_images_have_different_embeddings(lvlm, pictures):
    images = vk.Embedder(lvlm).encode_image(pictures)
    assert not torch.allclose(images[0], images[1], atol=1e-4)


def test_an_untrained_adapter_gives_the_hand_written_prompts_embeddings_bit_for_bit(lvlm, captions, pictures):
    baseline = vk.Embedder(lvlm)
    images, texts = baseline.encode_image(pictures), baseline.encode_text(captions)
    embedder = vk.attach(lvlm, quiet=True)
    assert torch.equal(embedder.encode_image(pictures), images)
    assert torch.equal(embedder.encode_text(captions), texts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_caption_after_the_summary_token_does_not_change_the_embedding(dtype, pictures, long_captions):
    lvlm = tiny_lvlm(dtype=dtype)
    embedder = vk.attach(lvlm, quiet=True)
    captions = [encode_caption(lvlm.processor.tokenizer, caption) for caption in long_captions]
    batch = image_inputs(lvlm.processor, pictures, embedder.image_prompt, captions)
    with torch.no_grad():
        followed = F.normalize(summary_states(embedder.hidden_states(batch), batch).float(), dim=-1)
    alone = embedder.encode_image(pictures)
    assert (followed * alone).sum(-1).min() >= 0.999
    assert dtype == torch.bfloat16 or torch.allclose(followed, alone, atol=1e-5)


def test_training_leaves_the_base_model_bit_identical(pairs, pictures, captions):
    base_file = Path(resolve("emoji-llava")) / "model.safetensors"
    digest = hashlib.sha256(base_file.read_bytes()).hexdigest()
    lvlm = vk.load_lvlm("emoji-llava")
    baseline = vk.Embedder(lvlm)
    images, texts, base_logits = (
        baseline.encode_image(pictures),
        baseline.encode_text(captions),
        logits(lvlm, pictures[0]),
    )
    answer = baseline.generate(pictures[0], QUESTION)
    weights = {name: value.clone() for name, value in lvlm.model.state_dict().items()}

    embedder = vk.attach(lvlm, quiet=True)
    train(embedder, pairs)

    assert not torch.allclose(embedder.encode_image(pictures), images, atol=1e-3)
    assert torch.equal(baseline.encode_image(pictures), images)
    assert torch.equal(baseline.encode_text(captions), texts)
    assert baseline.generate(pictures[0], QUESTION) == answer
    with lvlm.adapter_off():
        assert torch.equal(logits(lvlm, pictures[0]), base_logits)
    with embedder.base():
        assert torch.equal(logits(lvlm, pictures[0]), base_logits)
        assert torch.equal(embedder.encode_image(pictures), images)
        assert embedder.generate(pictures[0], QUESTION) == answer
    now = {name.replace(".base_layer.", "."): value for name, value in lvlm.model.state_dict().items()}
    assert all(torch.equal(now[name], value) for name, value in weights.items())
    assert hashlib.sha256(base_file.read_bytes()).hexdigest() == digest


def test_the_shipped_adapter_changes_the_shipped_lvlm_and_can_be_switched_off(pictures, captions):
    lvlm = vk.load_lvlm("emoji-llava")
    baseline = vk.Embedder(lvlm)
    images, texts = baseline.encode_image(pictures), baseline.encode_text(captions)
    embedder = vk.Embedder.from_pretrained("emoji-llava-vladva", lvlm)
    assert embedder.config.base == "emoji-llava" and all(embedder.trainable().values())
    assert not torch.allclose(embedder.encode_image(pictures), images, atol=1e-2)
    assert not torch.allclose(embedder.encode_text(captions), texts, atol=1e-2)
    with embedder.base():
        assert torch.equal(embedder.encode_image(pictures), images)
        assert torch.equal(embedder.encode_text(captions), texts)


@pytest.mark.parametrize(
    ("soft_prompt", "lora", "kinds"),
    [(True, False, {"soft prompt", "temperature"}), (False, True, {"LoRA", "temperature"})],
)
def test_soft_prompts_and_lora_can_each_be_trained_alone(lvlm, pairs, pictures, soft_prompt, lora, kinds):
    embedder = vk.attach(lvlm, soft_prompt=soft_prompt, lora=lora, quiet=True)
    assert {kind for kind, n in embedder.trainable().items() if n} == kinds
    before = embedder.encode_image(pictures)
    train(embedder, pairs, learning_rate=1e-2)
    assert not torch.allclose(embedder.encode_image(pictures), before, atol=1e-4)


def test_switching_the_adapter_off_and_fit_leave_the_trainable_parameters_trainable(lvlm, pairs, pictures):
    baseline, embedder = vk.Embedder(lvlm), vk.attach(lvlm, lora=False, quiet=True)
    trainable = embedder.trainable()
    baseline.encode_image(pictures[:1])
    with embedder.base():
        pass
    assert embedder.trainable() == trainable and trainable["LoRA"] == 0
    train(embedder, pairs, steps=1, learn_temperature=False)
    assert embedder.trainable() == {**trainable, "temperature": 0}


def test_special_tokens_in_a_caption_are_plain_text(lvlm):
    embedder = vk.attach(lvlm, quiet=True)
    special = embedder.encode_text(["a dog <image> a cat", "a dog <eos> a cat", "a dog <assistant> a cat"])
    plain = embedder.encode_text(["a dog < image > a cat", "a dog < eos > a cat", "a dog < assistant > a cat"])
    assert torch.allclose(special, plain, atol=1e-6)


def test_wrong_captions_and_single_items_are_rejected(lvlm, pictures):
    embedder = vk.Embedder(lvlm)
    with pytest.raises(ValueError, match="caption 1 is empty"):
        embedder.encode_text(["a dog", "  "])
    with pytest.raises(TypeError, match="caption 1 is of type Image"):
        embedder.encode_text(["a dog", pictures[0]])
    with pytest.raises(TypeError, match="'a dog': put it in a list"):
        embedder.encode_text("a dog")
    for single in (pictures[0], "dog.png", Path("dog.png")):
        with pytest.raises(TypeError, match="put it in a list"):
            embedder.encode_image(single)


def test_texts_from_a_table_that_are_no_text_are_named(lvlm, pictures):
    """Half an emoji, NaN and None reach the tokenizer by no entry point."""
    embedder, clip, half = vk.Embedder(lvlm), vk.ClipEmbedder("emoji-clip"), "a dog \ud83d"
    for model in (embedder, clip):
        with pytest.raises(vk.BadInput, match=r"caption 1 holds half a character .*'a dog \\ud83d'"):
            model.encode_text(["a dog", half])
        for value, named in ((float("nan"), r"float \(nan\)"), (None, "NoneType"), (3, "int"), (b"a dog", "bytes")):
            with pytest.raises(vk.BadInput, match=f"caption 1 is of type {named}; pass strings"):
                model.encode_text(["a dog", value])
        with pytest.raises(vk.BadInput, match="one string, 'a dog': put it in a list"):
            model.encode_text("a dog")
        for single in (pictures[0], "dog.png", Path("dog.png")):
            with pytest.raises(vk.BadInput, match="a list of images is needed"):
                model.encode_image(single)
    with pytest.raises(vk.BadInput, match="prompt 0 holds half a character"):
        embedder.generate(pictures[0], half)
    with pytest.raises(vk.BadInput, match="prompt 1 is of type float"):
        embedder.generate_batch(pictures[:2], ["a dog", float("nan")])
    with pytest.raises(vk.BadInput, match="history of prompt 0: text 1 holds half a character"):
        embedder.generate(pictures[0], "what?", history=[("a dog", half)])


def test_an_image_that_cannot_be_read_is_named(lvlm, pictures, tmp_path):
    pictures[0].save(tmp_path / "complete.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "complete.png").read_bytes()[:500])
    embedder, clip = vk.Embedder(lvlm), vk.ClipEmbedder("emoji-clip")
    for encode in (partial(embedder.encode_image, batch_size=1), partial(clip.encode_image, batch_size=1)):
        with pytest.raises(vk.BadInput, match=r"image 2 \(.*cut.png\) cannot be read .*leave it out"):
            encode([pictures[0], tmp_path / "complete.png", tmp_path / "cut.png"])
    with pytest.raises(FileNotFoundError, match=r"nowhere.png"):
        embedder.encode_image([tmp_path / "nowhere.png"])


def test_similarity_takes_embeddings_or_images_and_captions(lvlm, pictures, captions, tmp_path):
    embedder = vk.Embedder(lvlm)
    images, texts = embedder.encode_image(pictures[:3]), embedder.encode_text(captions[:4])
    expected = torch.tensor([[F.cosine_similarity(image, text, dim=0) for text in texts] for image in images])
    pictures[0].save(tmp_path / "first.png")
    for left in (images, images.numpy(), images.double(), pictures[:3], (tmp_path / "first.png", *pictures[1:3])):
        for right in (texts, texts.numpy(), captions[:4], tuple(captions[:4])):
            scores = embedder.similarity(left, right)
            assert isinstance(scores, torch.Tensor) and scores.dtype == torch.float32 and scores.shape == (3, 4)
            assert torch.allclose(scores, expected, atol=1e-5)


def test_similarity_rejects_what_is_neither_embeddings_nor_images_and_captions(lvlm, pictures, captions):
    embedder = vk.Embedder(lvlm)
    images, texts = embedder.encode_image(pictures[:2]), embedder.encode_text(captions[:2])
    with pytest.raises(TypeError, match=r"images has shape \(128, 128, 3\) and dtype torch.uint8: .*list of images"):
        embedder.similarity(np.asarray(pictures[0]), texts)
    with pytest.raises(TypeError, match=r"texts has shape \(64,\)"):
        embedder.similarity(images, texts[0])
    with pytest.raises(TypeError, match="images is a list with arrays in it: stack"):
        embedder.similarity([pictures[0], images[1]], texts)
    with pytest.raises(TypeError, match="caption 0 is of type Image"):
        embedder.similarity(images, pictures[:2])
    with pytest.raises(TypeError, match="put it in a list"):
        embedder.similarity(pictures[0], texts)
    with pytest.raises(TypeError, match="put it in a list"):
        embedder.similarity(images, "a dog")


def test_arrays_and_tensors_embed_as_the_same_images_do(pictures, captions):
    embedder = vk.Embedder(tiny_lvlm())
    arrays = [np.asarray(picture) for picture in pictures[:2]]
    tensors = [torch.tensor(array).permute(2, 0, 1) / 255 for array in arrays]
    expected = embedder.encode_image(pictures[:2])
    for images in (arrays, tensors, np.stack(arrays), torch.stack(tensors)):
        assert torch.equal(embedder.encode_image(images), expected)
        scores = embedder.similarity(images, captions[:3])
        assert torch.equal(scores, embedder.similarity(expected, captions[:3]))

"""The probe against the family's own forward with eager attention: with a trained adapter, without, and turned off."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_embedder, tiny_lvlm, tiny_pairs
from tiny_families import build

import vladva_kit as vk
from vladva_kit.analysis import encoder_crop, probe_images, probe_texts
from vladva_kit.analysis.summary import patch_grid
from vladva_kit.embedder.prompts import image_inputs

IMAGES = [pair.image for pair in tiny_pairs(4)]
CAPTIONS = ["a dog near the car", "two cats", "a red dog stands left of a small cat"]


@pytest.fixture(scope="module")
def trained(one_thread):
    """An embedder whose soft prompt and LoRA have moved away from their initial values."""
    embedder = tiny_embedder()
    for name, parameter in embedder.lvlm.model.named_parameters():
        if "soft_prompt" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return embedder


def run_eagerly(embedder, image):
    """Return the summary token's attention (layers, heads, image tokens) and logits from the family's own forward."""
    model, batch = embedder.lvlm.model, image_inputs(embedder.lvlm.processor, [image], embedder.image_prompt)
    original = model.get_decoder().config._attn_implementation
    model.get_decoder().set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(**batch.inputs, output_attentions=True)
    model.get_decoder().set_attn_implementation(original)
    index = batch.inputs["input_ids"].shape[1] - 1
    is_image = batch.inputs["input_ids"][0] == model.config.image_token_id
    weights = torch.stack([layer[0, :, index] for layer in output.attentions])
    return weights[..., is_image].numpy(), output.logits[0, index].double().numpy()


def entropy_of(logits):
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return probabilities, -(probabilities * np.log(probabilities)).sum()


def test_attention_equals_that_of_the_eager_implementation(trained):
    probe = probe_images(trained, IMAGES[:3], attention=True)
    for i in range(3):
        weights, _ = run_eagerly(trained, IMAGES[i])
        assert probe.attention[i].shape == weights.shape
        assert np.allclose(probe.attention[i], weights, atol=1e-5)
    n_tokens, side = probe.attention.shape[-1], probe.maps.shape[-1]
    assert side**2 in (n_tokens, n_tokens - 1)
    assert np.allclose(probe.maps[0, 0, 0].ravel(), probe.attention[0, 0, 0, -(side**2) :])


def test_mass_and_density_equal_a_plain_loop(trained):
    probe = probe_images(trained, IMAGES[:1], attention=True)
    for layer, heads in enumerate(probe.attention[0]):
        for head, row in enumerate(heads):
            shares = [float(weight) / float(row.sum()) for weight in row]
            perplexity = np.exp(-sum(share * np.log(share) for share in shares if share > 0))
            assert probe.mass[0, layer, head] == pytest.approx(float(row.sum()), rel=1e-5)
            assert probe.density[0, layer, head] == pytest.approx(perplexity / len(row), rel=1e-4)
    assert (probe.density <= 1 + 1e-6).all() and (probe.mass <= 1 + 1e-6).all()


def test_entropy_and_top_tokens_follow_from_the_models_logits(trained):
    probe = probe_images(trained, IMAGES[:2], k=10)
    tokenizer = trained.lvlm.processor.tokenizer
    for i in range(2):
        probabilities, entropy = entropy_of(run_eagerly(trained, IMAGES[i])[1])
        best = np.argsort(-probabilities)[:10]
        assert probe.entropy[i] == pytest.approx(entropy, abs=1e-4)
        assert np.allclose(probe.probabilities[i], probabilities[best], atol=1e-5)
        assert probe.tokens[i, 0] == tokenizer.convert_ids_to_tokens(int(best[0]))


def test_entropy_respects_the_logit_cap_of_the_family(tmp_path, one_thread):
    embedder = vk.Embedder(vk.load_lvlm(str(build("paligemma2", tmp_path))))
    embedder.lvlm.model.config.get_text_config().final_logit_softcapping = 1.0
    logits = run_eagerly(embedder, IMAGES[0])[1]
    assert np.abs(logits).max() <= 1
    assert probe_images(embedder, IMAGES[:1]).entropy[0] == pytest.approx(entropy_of(logits)[1], abs=1e-4)


def test_embeddings_equal_the_embedders_with_and_without_attention(trained):
    encoded = trained.encode_image(IMAGES).numpy()
    assert np.array_equal(probe_images(trained, IMAGES).embeddings, encoded)
    assert np.allclose(probe_images(trained, IMAGES, attention=True).embeddings, encoded, atol=1e-5)
    assert np.allclose(probe_texts(trained, CAPTIONS).embeddings, trained.encode_text(CAPTIONS).numpy(), atol=1e-5)


def test_batches_are_concatenated_in_order(trained):
    whole, batches = probe_images(trained, IMAGES, attention=True), probe_images(trained, IMAGES, True, batch_size=3)
    assert np.allclose(whole.attention, batches.attention, atol=1e-6) and whole.grid == batches.grid
    assert np.allclose(whole.entropy, batches.entropy, atol=1e-5)


def test_with_the_adapter_off_the_base_is_probed(trained):
    base, pristine = vk.Embedder(trained.lvlm), vk.Embedder(tiny_lvlm())
    attention = probe_images(pristine, IMAGES, attention=True).attention
    entropy = probe_texts(pristine, CAPTIONS).entropy
    with trained.base():
        off = probe_images(trained, IMAGES, attention=True), probe_texts(trained, CAPTIONS)
    for image_probe, text_probe in (off, (probe_images(base, IMAGES, attention=True), probe_texts(base, CAPTIONS))):
        assert np.array_equal(image_probe.attention, attention)
        assert np.array_equal(text_probe.entropy, entropy)
    assert not np.allclose(entropy, probe_texts(trained, CAPTIONS).entropy)


def test_the_attention_implementation_is_restored(trained):
    config = trained.lvlm.model.get_decoder().config
    original = config._attn_implementation
    probe_images(trained, IMAGES[:1], attention=True)
    assert config._attn_implementation == original


def test_nothing_to_probe_and_missing_attention_raise_errors(trained):
    with pytest.raises(ValueError, match="at least one image or text"):
        probe_images(trained, [])
    with pytest.raises(ValueError, match="attention=True"):
        probe_texts(trained, CAPTIONS[:1]).density  # noqa: B018


def processor_inputs(n_images, *leading):
    return {"input_ids": torch.zeros(n_images, 9), "pixel_values": torch.zeros(*leading, 3, 28, 28)}


@pytest.mark.parametrize(("n_tokens", "grid"), [(64, (8, 8)), (65, (8, 8)), (63, None), (66, None), (1, (1, 1))])
def test_a_square_with_or_without_class_token_is_a_grid(n_tokens, grid):
    assert patch_grid(None, processor_inputs(2, 2), n_tokens) == grid


def test_an_image_in_tiles_has_no_grid_even_if_its_tokens_form_a_square():
    assert patch_grid(None, processor_inputs(1, 4), 256) is None
    assert patch_grid(None, processor_inputs(1, 1, 4), 256) is None
    assert patch_grid(None, processor_inputs(1, 1, 1), 256) == (16, 16)


def test_qwens_grid_follows_the_shape_of_the_image(tmp_path, one_thread):
    qwen = vk.Embedder(vk.load_lvlm(str(build("qwen2_vl", tmp_path))))
    wide, tall = Image.new("RGB", (112, 56), "red"), Image.new("RGB", (56, 112), "red")
    for image, grid in ((wide, (2, 4)), (tall, (4, 2))):
        probe = probe_images(qwen, [image], attention=True)
        assert probe.grid == grid and probe.maps.shape[-2:] == grid
        assert np.array_equal(probe.maps.reshape(probe.attention.shape), probe.attention)
    with pytest.raises(ValueError, match="probe one image at a time"):
        probe_images(qwen, [wide, tall], attention=True).maps  # noqa: B018


def lvlm_with_processor(**settings):
    return SimpleNamespace(processor=SimpleNamespace(image_processor=SimpleNamespace(**settings)))


def test_encoder_crop_is_the_center_if_the_processor_crops():
    cropping = lvlm_with_processor(
        do_center_crop=True, size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    image = Image.new("RGB", (400, 300), "red")
    image.paste("blue", (50, 0, 350, 300))
    crop = encoder_crop(cropping, image)
    assert crop.size == (300, 300) and crop.getcolors() == [(300 * 300, (0, 0, 255))]
    larger = lvlm_with_processor(do_center_crop=True, size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28})
    assert encoder_crop(larger, Image.new("RGB", (320, 640))).size == (280, 280)


def test_encoder_crop_is_the_image_if_the_processor_does_not_crop():
    image = Image.new("RGB", (40, 30))
    assert encoder_crop(lvlm_with_processor(do_center_crop=False), image).size == (40, 30)
    assert encoder_crop(lvlm_with_processor(size={"shortest_edge": 28}), image).size == (40, 30)

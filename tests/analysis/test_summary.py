"""The summary token: each figure against an independent computation, before training, after it and with adapter off."""

import numpy as np
import pytest
import torch

import vladva_kit as vk
from vladva_kit.analysis import read_images, read_texts
from vladva_kit.embedder.prompts import image_inputs


@pytest.fixture(scope="module")
def trained():
    """An embedder whose soft prompt and LoRA have moved."""
    embedder = vk.attach(vk.load_lvlm("emoji-llava"))
    torch.manual_seed(0)
    for name, parameter in embedder.lvlm.model.named_parameters():
        if "lora_B" in name or "soft_prompt" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return embedder


def by_eager(embedder, picture):
    """One picture through the family's own forward with eager attention: all attentions, and the logits."""
    model, sequences = embedder.lvlm.model, image_inputs(embedder.lvlm.processor, [picture], embedder.image_prompt)
    usual = model.get_decoder().config._attn_implementation
    model.get_decoder().set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(**sequences.inputs, output_attentions=True)
    model.get_decoder().set_attn_implementation(usual)
    place = int(sequences.summary[0])
    image = sequences.inputs["input_ids"][0] == embedder.lvlm.processor.image_token_id
    rows = torch.stack([layer[0, :, place] for layer in output.attentions])
    return rows[..., image].numpy(), output.logits[0, place].double().numpy()


def test_attention_is_the_models_own_by_eager_attention(trained, pictures):
    reading = read_images(trained, pictures[:3], attention=True)
    for place in range(3):
        rows, _ = by_eager(trained, pictures[place])
        assert reading.attention[place].shape == rows.shape
        assert np.allclose(reading.attention[place], rows, atol=1e-5)
    tokens = reading.attention.shape[-1]
    assert reading.maps.shape[-1] ** 2 in (tokens, tokens - 1)
    assert np.allclose(reading.maps[0, 0, 0].ravel(), reading.attention[0, 0, 0, -(reading.maps.shape[-1] ** 2) :])


def test_mass_and_density_are_what_a_loop_gives(trained, pictures):
    reading = read_images(trained, pictures[:1], attention=True)
    for layer, heads in enumerate(reading.attention[0]):
        for head, row in enumerate(heads):
            shares = [float(weight) / float(row.sum()) for weight in row]
            perplexity = np.exp(-sum(share * np.log(share) for share in shares if share > 0))
            assert reading.mass[0, layer, head] == pytest.approx(float(row.sum()), rel=1e-5)
            assert reading.density[0, layer, head] == pytest.approx(perplexity / len(row), rel=1e-4)
    assert (reading.density <= 1 + 1e-6).all() and (reading.mass <= 1 + 1e-6).all()


def test_entropy_and_words_are_those_of_the_models_logits(trained, pictures):
    reading = read_images(trained, pictures[:2], k=10)
    tokenizer = trained.lvlm.processor.tokenizer
    for place in range(2):
        logits = by_eager(trained, pictures[place])[1]
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert reading.entropy[place] == pytest.approx(-(probabilities * np.log(probabilities)).sum(), abs=1e-4)
        best = np.argsort(-probabilities)[:10]
        assert np.allclose(reading.probabilities[place], probabilities[best], atol=1e-5)
        assert reading.words[place, 0] == tokenizer.convert_ids_to_tokens(int(best[0]))


def test_a_reading_gives_the_embeddings_bit_for_bit_and_with_attention_too(trained, pictures, captions):
    encoded = trained.encode_image(pictures).numpy()
    assert np.array_equal(read_images(trained, pictures).embeddings, encoded)
    assert np.allclose(read_images(trained, pictures, attention=True).embeddings, encoded, atol=1e-5)
    assert np.allclose(read_texts(trained, captions).embeddings, trained.encode_text(captions).numpy(), atol=1e-5)


def test_with_the_adapter_off_it_reads_the_base(trained, pictures, captions):
    base = vk.Embedder(trained.lvlm)
    pristine = vk.Embedder(vk.load_lvlm("emoji-llava"))
    with trained.base():
        off = read_images(trained, pictures, attention=True), read_texts(trained, captions)
    for found in (off, (read_images(base, pictures, attention=True), read_texts(base, captions))):
        assert np.array_equal(found[0].attention, read_images(pristine, pictures, attention=True).attention)
        assert np.array_equal(found[1].entropy, read_texts(pristine, captions).entropy)
    assert not np.allclose(off[1].entropy, read_texts(trained, captions).entropy)


def test_the_attention_that_was_set_is_set_again(trained, pictures):
    decoder = trained.lvlm.model.get_decoder()
    usual = decoder.config._attn_implementation
    read_images(trained, pictures[:1], attention=True)
    assert decoder.config._attn_implementation == usual


def test_nothing_to_read_and_attention_that_was_not_read_are_refused(trained, captions):
    with pytest.raises(ValueError, match="at least one"):
        read_images(trained, [])
    with pytest.raises(ValueError, match="attention=True"):
        read_texts(trained, captions[:1]).density  # noqa: B018

"""The CLIP beside the LVLM."""

import torch

import vladva_kit as vk


def test_its_embeddings_are_the_models_own(pictures, captions):
    clip = vk.ClipEmbedder("emoji-clip")
    pixels = clip.image_processor(pictures, return_tensors="pt")["pixel_values"]
    ids = clip.tokenizer(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = clip.model(pixel_values=pixels, input_ids=ids.input_ids, attention_mask=ids.attention_mask)
    assert torch.allclose(clip.encode_image(pictures), out.image_embeds, atol=1e-5)
    assert torch.allclose(clip.encode_text(captions), out.text_embeds, atol=1e-5)
    ours = clip.similarity(clip.encode_image(pictures), clip.encode_text(captions))
    assert torch.allclose(ours * clip.model.logit_scale.exp(), out.logits_per_image, atol=1e-3)


def test_a_batch_of_one_equals_a_batch_of_many(pictures, captions):
    clip = vk.ClipEmbedder("emoji-clip")
    assert torch.allclose(clip.encode_text(captions, 1), clip.encode_text(captions), atol=1e-5)
    assert torch.allclose(clip.encode_image(pictures, 1), clip.encode_image(pictures), atol=1e-5)

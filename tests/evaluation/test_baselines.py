"""Baselines give the embeddings of their own libraries."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import vladva_kit as vk
from experiments.pretraining.tokenizer import build_clip_tokenizer
from vladva_kit.models.load import UnknownModel


def test_clip_embeddings_equal_those_of_transformers(pictures, captions):
    clip = vk.ClipEmbedder("emoji-clip")
    pixels = clip.image_processor(pictures, return_tensors="pt")["pixel_values"]
    ids = clip.tokenizer(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = clip.model(pixel_values=pixels, input_ids=ids.input_ids, attention_mask=ids.attention_mask)
    assert torch.allclose(clip.encode_image(pictures), out.image_embeds, atol=1e-5)
    assert torch.allclose(clip.encode_text(captions), out.text_embeds, atol=1e-5)
    ours = clip.similarity(pictures, captions)
    assert torch.equal(ours, clip.similarity(clip.encode_image(pictures), clip.encode_text(captions)))
    assert torch.allclose(ours * clip.model.logit_scale.exp(), out.logits_per_image, atol=1e-3)


def test_embeddings_do_not_depend_on_the_batch_size(pictures, captions):
    clip = vk.ClipEmbedder("emoji-clip")
    assert torch.allclose(clip.encode_text(captions, 1), clip.encode_text(captions), atol=1e-5)
    assert torch.allclose(clip.encode_image(pictures, 1), clip.encode_image(pictures), atol=1e-5)


def test_emoji_clip_is_the_default_baseline(captions):
    assert torch.equal(vk.load_baseline().encode_text(captions), vk.ClipEmbedder("emoji-clip").encode_text(captions))


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    """A tiny SigLIP with random weights, as save_pretrained writes one."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    encoder = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = build_clip_tokenizer()
    config = SiglipConfig(
        text_config={**encoder, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 16},
        vision_config={**encoder, "image_size": 32, "patch_size": 8},
    )
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_siglip_captions_are_padded_to_the_full_context(siglip_folder, pictures, captions):
    from transformers import AutoTokenizer, SiglipImageProcessorPil, SiglipModel

    model = SiglipModel.from_pretrained(siglip_folder).eval()
    ids = AutoTokenizer.from_pretrained(siglip_folder)(captions, padding="max_length", max_length=24).input_ids
    pixels = SiglipImageProcessorPil.from_pretrained(siglip_folder)(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(input_ids=torch.tensor(ids), pixel_values=pixels)
    baseline = vk.load_baseline(str(siglip_folder))
    assert torch.allclose(baseline.encode_text(captions), out.text_embeds, atol=1e-5)
    assert torch.allclose(baseline.encode_image(pictures), out.image_embeds, atol=1e-5)
    assert torch.allclose(baseline.encode_text(captions, 1), baseline.encode_text(captions), atol=1e-5)


@pytest.fixture(scope="module")
def siglip2_folder(tmp_path_factory):
    """A tiny SigLIP 2 of flexible resolution: its image encoder takes patches with a mask and their grid."""
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    encoder = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = build_clip_tokenizer()
    config = Siglip2Config(
        text_config={**encoder, "vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 16},
        vision_config={**encoder, "num_patches": 16, "patch_size": 8},
    )
    folder = tmp_path_factory.mktemp("siglip2")
    torch.manual_seed(0)
    Siglip2Model(config).save_pretrained(folder)
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    return folder


def test_siglip_2_takes_images_of_any_shape(siglip2_folder, pictures, captions):
    from transformers import AutoTokenizer, Siglip2ImageProcessorPil, Siglip2Model

    shapes = [pictures[0], pictures[1].resize((160, 80)), pictures[2].resize((60, 120))]
    model = Siglip2Model.from_pretrained(siglip2_folder).eval()
    ids = AutoTokenizer.from_pretrained(siglip2_folder)(captions, padding="max_length", max_length=24).input_ids
    pixels = Siglip2ImageProcessorPil.from_pretrained(siglip2_folder)(shapes, return_tensors="pt")
    assert len(set(map(tuple, pixels["spatial_shapes"].tolist()))) == 3
    with torch.no_grad():
        out = model(input_ids=torch.tensor(ids), **pixels)
    baseline = vk.load_baseline(str(siglip2_folder))
    assert torch.allclose(baseline.encode_text(captions), out.text_embeds, atol=1e-5)
    assert torch.allclose(baseline.encode_image(shapes), out.image_embeds, atol=1e-5)
    assert torch.allclose(baseline.encode_image(shapes, 1), baseline.encode_image(shapes), atol=1e-5)


class FakeOpenClip(ModuleType):
    """The two functions of open_clip, with known weights; records its arguments."""

    def __init__(self):
        super().__init__("open_clip")
        self.calls = []
        self.weights = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))

    def create_model_from_pretrained(self, model, pretrained, device, weights_only):
        self.calls.append((model, pretrained, weights_only))
        encoders = SimpleNamespace(
            eval=lambda: None,
            encode_image=lambda pixels: pixels @ self.weights,
            encode_text=lambda ids: ids.float() @ self.weights,
        )
        return encoders, lambda image: torch.tensor(np.asarray(image).mean((0, 1)), dtype=torch.float32)

    def get_tokenizer(self, model):
        return lambda texts: torch.tensor([[len(text), text.count("a"), 1] for text in texts])


def test_open_clip_gets_the_model_and_its_tag(monkeypatch, pictures, captions):
    library = FakeOpenClip()
    monkeypatch.setitem(sys.modules, "open_clip", library)
    baseline = vk.load_baseline("open_clip:ViT-B-32/laion2b_s34b_b79k")
    vk.load_baseline("open_clip:hf-hub:timm/ViT-B-16-SigLIP")
    assert library.calls == [("ViT-B-32", "laion2b_s34b_b79k", True), ("hf-hub:timm/ViT-B-16-SigLIP", None, True)]
    means = torch.tensor(np.array([np.asarray(picture).mean((0, 1)) for picture in pictures]), dtype=torch.float32)
    assert torch.allclose(baseline.encode_image(pictures, 5), F.normalize(means @ library.weights, dim=-1), atol=1e-5)
    counts = torch.tensor([[len(text), text.count("a"), 1] for text in captions]).float()
    assert torch.allclose(baseline.encode_text(captions, 5), F.normalize(counts @ library.weights, dim=-1), atol=1e-5)
    with pytest.raises(UnknownModel, match="names no weights"):
        vk.load_baseline("open_clip:ViT-B-32")


def test_sentence_transformers_runs_no_code_of_a_repository(monkeypatch, pictures):
    arguments = {}

    class SentenceTransformer:
        def __init__(self, name, **keywords):
            arguments.update(keywords, name=name)

        def encode(self, inputs, batch_size, convert_to_tensor, show_progress_bar):
            return torch.tensor([[3.0, 4.0] if isinstance(one, str) else [0.0, 2.0] for one in inputs])

    library = ModuleType("sentence_transformers")
    library.SentenceTransformer = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    baseline = vk.load_baseline("sentence_transformers:clip-ViT-B-32", device="cpu")
    assert arguments["name"] == "clip-ViT-B-32" and arguments["trust_remote_code"] is False
    assert arguments["model_kwargs"] == {"use_safetensors": True}
    found = baseline.similarity(baseline.encode_image(pictures[:2]), baseline.encode_text(["a", "b", "c"]))
    assert torch.allclose(found, torch.full((2, 3), 0.8))


@pytest.mark.parametrize("name", ["open_clip:ViT-B-32/laion2b_s34b_b79k", "sentence_transformers:clip-ViT-B-32"])
def test_a_missing_library_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name.partition(":")[0], None)  # importing None fails like a missing module
    with pytest.raises(ImportError, match="not installed: pip install .* or use a CLIP"):
        vk.load_baseline(name)


def test_an_lvlm_and_an_unknown_name_are_rejected(tmp_path):
    from vladva_kit.models.load import resolve

    with pytest.raises(UnknownModel, match="is a llava, not a CLIP or SigLIP"):
        vk.load_baseline(resolve("emoji-llava"))
    with pytest.raises(UnknownModel, match="no model is called 'emoji-klip'"):
        vk.load_baseline("emoji-klip")

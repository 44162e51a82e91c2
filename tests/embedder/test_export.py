"""An exported folder gives the same embeddings, read by transformers alone or by sentence-transformers."""

import importlib.util

import pytest
import tiny_families
import torch
from tiny import tiny_embedder, tiny_lvlm
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, example_images
from vladva_kit.embedder.export import export
from vladva_kit.embedder.prompts import begins_with_bos
from vladva_kit.models.families import FAMILIES, family_of
from vladva_kit.models.load import load_processor

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = example_images()
UNSUPPORTED = {"paligemma", "paligemma2"}


def trained(embedder):
    """Move LoRA and soft prompts off their initial values, as training does."""
    torch.manual_seed(1)
    for name, weight in embedder.lvlm.model.named_parameters():
        if "lora_B" in name or "soft_prompt" in name:
            weight.data += 0.05 * torch.randn_like(weight)
    return embedder


@torch.inference_mode()
def encode_with_transformers(folder):
    """Embed the examples with the folder's model, processor and chat template: the last token's states."""
    config = AutoConfig.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = load_processor(str(folder), config, family_of(config))

    def embed(content, images):
        text = processor.apply_chat_template([{"role": "user", "content": [content]}])
        options = {"return_tensors": "pt", "add_special_tokens": not begins_with_bos(processor.tokenizer, text)}
        batch = processor(images=[images], text=[text], **options) if images else processor.tokenizer(text, **options)
        return F.normalize(model(**batch).last_hidden_state[0, -1], dim=-1)

    images = [embed({"type": "image"}, [image]) for image in IMAGES]
    texts = [embed({"type": "text", "text": caption}, None) for caption in CAPTIONS]
    return torch.stack(images), torch.stack(texts)


def assert_equal(embeddings, embedder):
    images, texts = embeddings
    assert torch.allclose(images, embedder.encode_image(IMAGES), atol=2e-5)
    assert torch.allclose(texts, embedder.encode_text(CAPTIONS), atol=2e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - UNSUPPORTED))
def test_transformers_gives_the_same_embeddings_for_each_family(tmp_path, family):
    lvlm = vk.load_lvlm(str(tiny_families.build(family, tmp_path / "base", tied=True)), dtype=torch.float32)
    embedder = trained(vk.attach(lvlm))
    assert_equal(encode_with_transformers(export(embedder, tmp_path / "exported")), embedder)


def test_a_baseline_is_exported_without_the_adapter_attached_to_its_lvlm(tmp_path):
    lvlm = tiny_lvlm()
    baseline = vk.Embedder(lvlm)
    trained(vk.attach(lvlm))
    assert_equal(encode_with_transformers(export(baseline, tmp_path / "exported")), baseline)


def test_the_embedder_is_unchanged_and_the_folder_has_neither_pickles_nor_code(tmp_path):
    embedder = tiny_embedder()
    before, n_tokens = embedder.encode_text(CAPTIONS), len(embedder.lvlm.processor.tokenizer)
    folder = export(embedder, tmp_path / "exported")
    assert torch.equal(embedder.encode_text(CAPTIONS), before)
    assert len(embedder.lvlm.processor.tokenizer) == n_tokens
    assert (folder / "model.safetensors").is_file() and not [*folder.rglob("*.bin"), *folder.rglob("*.py")]


def test_frozen_parameters_stay_frozen(tmp_path):
    embedder = tiny_embedder()
    requires_grad = {name: weight.requires_grad for name, weight in embedder.lvlm.model.named_parameters()}
    export(embedder, tmp_path / "out")
    assert {name: weight.requires_grad for name, weight in embedder.lvlm.model.named_parameters()} == requires_grad
    assert not all(requires_grad.values())


@pytest.mark.parametrize("family", sorted(UNSUPPORTED))
def test_paligemma_is_rejected_before_anything_is_written(tmp_path, family):
    lvlm = vk.load_lvlm(str(tiny_families.build(family, tmp_path / "base")), dtype=torch.float32)
    with pytest.raises(ValueError, match="no caption without an image"):
        export(vk.Embedder(lvlm), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.skipif(not importlib.util.find_spec("sentence_transformers"), reason="needs sentence-transformers")
def test_sentence_transformers_gives_the_same_embeddings(tmp_path):
    embedder = trained(tiny_embedder())
    baseline = vk.load_baseline(f"sentence_transformers:{export(embedder, tmp_path / 'exported')}", device="cpu")
    assert_equal((baseline.encode_image(IMAGES), baseline.encode_text(CAPTIONS)), embedder)

"""The exported folder embeds as the kit does: read by transformers alone, and by sentence-transformers where it is."""

import importlib.util

import pytest
import tiny_families
import torch
from tiny import tiny_embedder, tiny_lvlm
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, example_pictures
from vladva_kit.embedder.export import export
from vladva_kit.embedder.prompts import begins_with_bos
from vladva_kit.models.families import FAMILIES, family_of
from vladva_kit.models.load import load_processor

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURES = example_pictures()
REFUSED = {"paligemma", "paligemma2"}


def taught(embedder):
    """As after training: neither LoRA nor soft prompts are where they began."""
    torch.manual_seed(1)
    for name, weight in embedder.lvlm.model.named_parameters():
        if "lora_B" in name or "soft_prompt" in name:
            weight.data += 0.05 * torch.randn_like(weight)
    return embedder


@torch.inference_mode()
def by_transformers_alone(folder):
    """What a reader of the folder gets from its model, processor and chat template: the last token's states."""
    config = AutoConfig.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = load_processor(str(folder), config, family_of(config))

    def last(content, pictures):
        text = processor.apply_chat_template([{"role": "user", "content": [content]}])
        own = {"return_tensors": "pt", "add_special_tokens": not begins_with_bos(processor.tokenizer, text)}
        batch = processor(images=[pictures], text=[text], **own) if pictures else processor.tokenizer(text, **own)
        return F.normalize(model(**batch).last_hidden_state[0, -1], dim=-1)

    images = [last({"type": "image"}, [picture]) for picture in PICTURES]
    texts = [last({"type": "text", "text": caption}, None) for caption in CAPTIONS]
    return torch.stack(images), torch.stack(texts)


def assert_equal(found, embedder):
    images, texts = found
    assert torch.allclose(images, embedder.encode_image(PICTURES), atol=2e-5)
    assert torch.allclose(texts, embedder.encode_text(CAPTIONS), atol=2e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - REFUSED))
def test_each_family_s_folder_read_by_transformers_embeds_as_the_embedder_does(tmp_path, family):
    lvlm = vk.load_lvlm(str(tiny_families.build(family, tmp_path / "base", tied=True)), dtype=torch.float32)
    embedder = taught(vk.attach(lvlm))
    assert_equal(by_transformers_alone(export(embedder, tmp_path / "exported")), embedder)


def test_a_baseline_goes_out_with_its_hand_written_prompts_whatever_is_attached(tmp_path):
    lvlm = tiny_lvlm()
    baseline = vk.Embedder(lvlm)
    taught(vk.attach(lvlm))
    assert_equal(by_transformers_alone(export(baseline, tmp_path / "exported")), baseline)


def test_the_embedder_stays_as_it_is_and_the_folder_is_safetensors(tmp_path):
    embedder = tiny_embedder()
    before, words = embedder.encode_text(CAPTIONS), len(embedder.lvlm.processor.tokenizer)
    folder = export(embedder, tmp_path / "exported")
    assert torch.equal(embedder.encode_text(CAPTIONS), before)
    assert len(embedder.lvlm.processor.tokenizer) == words
    assert (folder / "model.safetensors").is_file() and not [*folder.rglob("*.bin"), *folder.rglob("*.py")]


def test_what_was_frozen_stays_frozen(tmp_path):
    embedder = tiny_embedder()
    learning = {name: weight.requires_grad for name, weight in embedder.lvlm.model.named_parameters()}
    export(embedder, tmp_path / "out")
    assert {name: weight.requires_grad for name, weight in embedder.lvlm.model.named_parameters()} == learning
    assert not all(learning.values())


@pytest.mark.parametrize("family", sorted(REFUSED))
def test_paligemma_is_refused_before_anything_is_written(tmp_path, family):
    lvlm = vk.load_lvlm(str(tiny_families.build(family, tmp_path / "base")), dtype=torch.float32)
    with pytest.raises(ValueError, match="no caption without a picture"):
        export(vk.Embedder(lvlm), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.skipif(not importlib.util.find_spec("sentence_transformers"), reason="needs sentence-transformers")
def test_sentence_transformers_embeds_as_the_embedder_does(tmp_path):
    embedder = taught(tiny_embedder())
    peer = vk.load_baseline(f"sentence_transformers:{export(embedder, tmp_path / 'exported')}", device="cpu")
    assert_equal((peer.encode_image(PICTURES), peer.encode_text(CAPTIONS)), embedder)

"""An exported folder gives the same embeddings, read by transformers alone or by sentence-transformers."""

import importlib.util

import numpy as np
import pytest
import tiny_families
import torch
from PIL import Image
from tiny import tiny_embedder, tiny_lvlm
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, example_images
from vladva_kit.embedder.export import export
from vladva_kit.embedder.prompts import begins_with_bos
from vladva_kit.evaluation.baselines import load_baseline
from vladva_kit.models.families import FAMILIES, family_of
from vladva_kit.models.images import open_image
from vladva_kit.models.load import load_processor

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = example_images()
UNSUPPORTED = {"paligemma", "paligemma2"}


def trained(embedder):
    """Move LoRA and soft prompts off their initial values, as training does."""
    torch.manual_seed(1)
    for name, weight in embedder.lvlm.model.named_parameters():
        if "lora_B" in name or "lora_magnitude" in name or "soft_prompt" in name:
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


@pytest.mark.parametrize(
    "lora",
    [
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 64}},
        {"target_modules": "all-linear"},
        # the tiny encoder's layers have a bias, which lora_bias changes
        {"lora_bias": True, "target_modules": r".*vision_tower.*\.(q|v)_proj"},
    ],
    ids=str,
)
def test_every_kind_of_lora_is_merged(tmp_path, lora):
    embedder = trained(vk.attach(tiny_lvlm(), lora=lora, quiet=True))
    plain = vk.Embedder(embedder.lvlm)
    assert not torch.allclose(embedder.encode_image(IMAGES), plain.encode_image(IMAGES), atol=1e-3)
    before = embedder.encode_image(IMAGES)
    assert_equal(encode_with_transformers(export(embedder, tmp_path / "exported")), embedder)
    assert torch.equal(embedder.encode_image(IMAGES), before)


def test_a_bias_of_lora_that_cannot_be_merged_is_refused_with_the_layers_name(tmp_path):
    embedder = vk.attach(tiny_lvlm(), lora={"lora_bias": True}, quiet=True)
    with pytest.raises(ValueError, match=r"LoRA on 'language_model.*_proj' cannot be merged.*without lora_bias"):
        export(embedder, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "smolvlm", "internvl"])
def test_a_limit_of_pixels_which_only_the_kit_applies_is_refused(tmp_path, family):
    folder = str(tiny_families.build(family, tmp_path / "base"))
    with pytest.raises(ValueError, match="max_pixels=4000, by which the kit shrinks images"):
        export(vk.Embedder(vk.load_lvlm(folder, max_pixels=4000)), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    assert export(vk.Embedder(vk.load_lvlm(folder, max_pixels=4000)), tmp_path / "exported", full_size=True).is_dir()


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


needs_sentence_transformers = pytest.mark.skipif(
    not importlib.util.find_spec("sentence_transformers"), reason="needs sentence-transformers"
)


@needs_sentence_transformers
@pytest.mark.parametrize("limit", [None, 32, 20])
def test_truncation_of_a_long_text_keeps_the_prompt(tmp_path, limit):
    embedder = trained(tiny_embedder())
    model = load_baseline(f"sentence_transformers:{export(embedder, tmp_path / 'exported')}", device="cpu").model
    caption = "a big blue house to the left of two red books and " * (80 if limit is None else 2)
    if limit is None:  # no limit of its own: the kit truncates nothing
        assert embedder.lvlm.processor.tokenizer.model_max_length == 1024
        exported = torch.tensor(model.encode([caption, "a dog"]))
        assert torch.allclose(exported, embedder.encode_text([caption, "a dog"]), atol=2e-5)
        return
    whole = model[0].preprocess([caption])["input_ids"][0].tolist()
    model.max_seq_length = limit
    assert len(whole) > limit and model[0].preprocess([caption])["input_ids"][0].tolist() == whole[-limit:]
    assert len(embedder.text_prompt.ids) < limit and torch.tensor(model.encode([caption])).isfinite().all()


@needs_sentence_transformers
def test_images_opened_by_the_kit_look_the_same_in_the_export(tmp_path):
    embedder = trained(tiny_embedder())
    exported = load_baseline(f"sentence_transformers:{export(embedder, tmp_path / 'exported')}", device="cpu")
    transparent = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    transparent.paste((0, 0, 255, 255), (16, 16, 48, 48))
    transparent.save(tmp_path / "transparent.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    IMAGES[0].save(tmp_path / "turned.jpg", exif=turned)
    gray = Image.fromarray(np.asarray(IMAGES[0].convert("L")).astype(np.uint16) * 257)
    images = [tmp_path / "transparent.png", Image.open(tmp_path / "turned.jpg"), gray]
    expected = embedder.encode_image(images)
    assert torch.allclose(exported.encode_image(images), expected, atol=2e-5)
    by_hand = torch.tensor(exported.model.encode([open_image(image) for image in images]))
    assert torch.allclose(by_hand, expected, atol=2e-5)


@needs_sentence_transformers
def test_sentence_transformers_gives_the_same_embeddings(tmp_path):
    embedder = trained(tiny_embedder())
    baseline = load_baseline(f"sentence_transformers:{export(embedder, tmp_path / 'exported')}", device="cpu")
    assert_equal((baseline.encode_image(IMAGES), baseline.encode_text(CAPTIONS)), embedder)

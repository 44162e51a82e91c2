"""What identifies a model: its weights, adapter, prompts and versions."""

import torch

import vladva_kit as vk
from vladva_kit.embedder.identity import describe, model_fingerprint
from vladva_kit.evaluation.baselines import FeatureEmbedder


def test_the_fingerprint_depends_on_adapter_and_prompts(lvlm):
    baseline = vk.Embedder(lvlm)
    of_base = model_fingerprint(baseline)
    assert model_fingerprint(vk.Embedder(lvlm, "say what this is:")) != of_base
    embedder = vk.attach(lvlm)
    of_attached = model_fingerprint(embedder)
    assert of_attached != of_base == model_fingerprint(baseline)
    with embedder.base():
        assert model_fingerprint(embedder) == of_base and describe(embedder)["adapter"] is None
    with torch.no_grad():
        next(p for name, p in lvlm.model.named_parameters() if "lora_B" in name).add_(1e-3)
    assert model_fingerprint(embedder) not in (of_attached, of_base)
    identity = describe(embedder)
    assert identity["name"] == lvlm.name and identity["dtype"] == "float32" and len(identity["adapter"]) == 64


def test_the_fingerprint_of_a_clip_depends_on_its_weights():
    clip = vk.ClipEmbedder("emoji-clip")
    before = model_fingerprint(clip)
    assert before == model_fingerprint(vk.ClipEmbedder("emoji-clip"))
    with torch.no_grad():
        clip.model.logit_scale.add_(1)
    assert model_fingerprint(clip) != before


def test_baselines_of_other_libraries_are_described_by_name_and_weights():
    model = torch.nn.Linear(3, 5)
    baseline = FeatureEmbedder("open_clip:ViT-B-32/tag", model, None, None)
    before = describe(baseline)
    assert (before["name"], before["dtype"], before["adapter"]) == ("open_clip:ViT-B-32/tag", "float32", None)
    with torch.no_grad():
        model.bias.add_(1)
    assert describe(baseline)["weights"] != before["weights"]

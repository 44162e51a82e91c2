"""Memory estimated from a config: against what tiny models allocate, and published shapes against published counts."""

import json
import re
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_lvlm
from tiny_families import HIDDEN, build
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, LONG_CAPTIONS, example_images
from vladva_kit.cli.app import app
from vladva_kit.embedder.adapter import hand_written_prompts
from vladva_kit.embedder.prompts import image_inputs
from vladva_kit.evaluation.tables import markdown_rows
from vladva_kit.models.families import FAMILIES, family_of
from vladva_kit.models.load import LVLM
from vladva_kit.training.collator import Collator
from vladva_kit.training.memory import (
    GIB,
    PUBLISHED_CONFIGS,
    Lengths,
    config_of,
    image_tokens_and_patches,
    largest_batch,
    memory_table,
    model_without_weights,
    published_configs,
)
from vladva_kit.training.trainer import step_losses

pytestmark = pytest.mark.usefixtures("one_thread")

# Weights in billions, from each model's card on the hub, and LoRA's weights at rank 16, computed by hand as
# layers × 16 × (inputs + outputs of q, k, v, o, gate, up and down).
PUBLISHED = {
    "llava-hf/llava-1.5-7b-hf": (7.06, 39_976_960),
    "llava-hf/llava-1.5-13b-hf": (13.35, 62_586_880),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (8.03, 40_370_176),
    "Qwen/Qwen2-VL-2B-Instruct": (2.21, 18_464_768),
    "Qwen/Qwen2-VL-7B-Instruct": (8.29, 40_370_176),
    "Qwen/Qwen2.5-VL-3B-Instruct": (3.75, 29_933_568),
    "Qwen/Qwen2.5-VL-7B-Instruct": (8.29, 40_370_176),
    "HuggingFaceTB/SmolVLM-256M-Instruct": (0.256, 4_884_480),
    "HuggingFaceTB/SmolVLM-500M-Instruct": (0.507, 8_683_520),
    "google/paligemma-3b-pt-224": (2.92, 19_611_648),
    "google/gemma-3-4b-it": (4.30, 29_802_496),
    "OpenGVLab/InternVL3-1B-hf": (0.938, 8_798_208),
    "OpenGVLab/InternVL3-2B-hf": (2.09, 18_464_768),
}


class LiveBytes(TorchDispatchMode):
    """Count the bytes of storages alive at the same time, except those of `existing` tensors."""

    def __init__(self, existing):
        super().__init__()
        self.now = self.peak = 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in existing}

    def free(self, key, size):
        self.now -= size
        self.seen.discard(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if key not in self.seen:
                    self.seen.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self.free, key, size)
        return out


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    """The folder of a tiny model of each family."""
    return str(build(request.param, tmp_path_factory.mktemp(request.param)))


def embedder_batch_and_lengths(folder):
    embedder = vk.attach(vk.load_lvlm(folder), quiet=True)
    pairs = [vk.Pair(*fields) for fields in zip(example_images(), CAPTIONS, LONG_CAPTIONS, strict=True)] * 4
    batch = Collator(embedder)(pairs)["batch"]
    image, text = batch.images.inputs["input_ids"].shape[1], batch.texts.inputs["input_ids"].shape[1]
    caption = round(float((batch.images.labels >= 0).sum()) / len(pairs))
    pixels = batch.images.inputs["pixel_values"]
    frames = 2 if pixels.ndim == 2 else 1  # Qwen's patches span two frames
    patches = pixels.numel() / (len(pairs) * 3 * 14 * 14 * frames)
    return embedder, batch, Lengths(image, text, caption, round(patches))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_adapter_are_counted_exactly(tmp_path, family, tied):
    folder = str(build(family, tmp_path, tied))
    lvlm = vk.load_lvlm(folder)
    n_bytes = sum(parameter.numel() * parameter.itemsize for parameter in lvlm.model.parameters())
    assert vk.estimate_memory(folder, batch_size=1, dtype=torch.float32).weights == n_bytes
    assert vk.estimate_memory(folder, batch_size=1).weights == n_bytes / 2  # bfloat16
    n_lora = vk.attach(lvlm, soft_prompt=False, quiet=True).trainable()["LoRA"]
    n_soft_prompt = 60 * HIDDEN
    assert vk.estimate_memory(folder, batch_size=1, mode="train").adapter == 16 * (n_lora + n_soft_prompt)


def test_training_allocates_within_a_factor_of_2_of_the_estimate(folder):
    embedder, batch, lengths = embedder_batch_and_lengths(folder)
    model = embedder.lvlm.model
    inputs = [*batch.images.inputs.values(), *batch.texts.inputs.values()]
    with LiveBytes([*model.parameters(), *model.buffers(), *inputs]) as live:
        step_losses(embedder, batch)["loss"].backward()
    estimate = vk.estimate_memory(folder, batch_size=12, mode="train", dtype=torch.float32, lengths=lengths)
    assert 0.5 <= estimate.activations / live.peak <= 2, (estimate.activations, live.peak)


def test_encoding_allocates_within_a_factor_of_2_of_the_estimate(folder):
    embedder, batch, lengths = embedder_batch_and_lengths(folder)
    inputs = batch.images.inputs
    with torch.inference_mode(), LiveBytes([*embedder.lvlm.model.parameters(), *inputs.values()]) as live:
        embedder.hidden_states(batch.images)
    lengths = Lengths(lengths.image + lengths.caption, lengths.text, lengths.caption, lengths.patches)
    estimate = vk.estimate_memory(folder, batch_size=12, dtype=torch.float32, lengths=lengths)
    assert 0.5 <= estimate.activations / live.peak <= 2, (estimate.activations, live.peak)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_their_number_of_weights_and_lora_is_in_the_llm_only(name):
    billions, n_lora = PUBLISHED[name]
    config = config_of(name)
    model = model_without_weights(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(billions * 1e9, rel=5e-3)
    lvlm = LVLM(name, model, tiny_lvlm().processor, family_of(config))
    vk.attach(lvlm, quiet=True)
    trainable = {key: weight.numel() for key, weight in model.named_parameters() if weight.requires_grad}
    assert sum(n for key, n in trainable.items() if "lora_" in key) == n_lora
    n_prompt_tokens = sum(len(prompt.ids) for prompt in hand_written_prompts(lvlm))
    soft_prompts = [n for key, n in trainable.items() if "soft_prompt" in key]
    assert n_prompt_tokens > 10 and soft_prompts == [n_prompt_tokens * config.get_text_config().hidden_size]
    assert all(any(part in key for part in ("lora_", "soft_prompt", "temperature")) for key in trainable)
    targets = lvlm.adapter.targeted_module_names
    assert len(targets) == 7 * config.get_text_config().num_hidden_layers
    assert all(re.match(r"model\.(language_model|text_model)\.layers\.\d+\.(self_attn|mlp)\.", key) for key in targets)


def test_estimates_follow_from_quantization_pixels_batch_size_and_mode():
    name = "Qwen/Qwen2-VL-2B-Instruct"
    memory = vk.estimate_memory(name, batch_size=8)
    assert vk.estimate_memory(name, batch_size=8, four_bit=True).weights < 0.5 * memory.weights
    assert vk.estimate_memory(name, batch_size=8, max_pixels=1024 * 1024).activations > 2 * memory.activations
    assert vk.estimate_memory(name, batch_size=16).activations == 2 * memory.activations
    assert vk.estimate_memory(name, batch_size=8, mode="train").total > memory.total
    assert "GiB (weights 4.1" in str(memory) and memory.weights / GIB == pytest.approx(4.11, abs=0.02)
    assert memory.required == pytest.approx(1.1 * memory.total + 0.6 * GIB)


def test_the_largest_batch_fits_and_the_next_one_does_not():
    name = "Qwen/Qwen2-VL-2B-Instruct"
    batch = largest_batch(name, 24, mode="train")
    fits, too_large = (vk.estimate_memory(name, batch_size=size, mode="train") for size in (batch, 2 * batch))
    assert fits.required <= 24 * GIB < too_large.required
    assert largest_batch(name, 24) > batch > 0
    assert largest_batch(name, 1) == 0


def test_an_unknown_mode_or_an_empty_batch_raises():
    with pytest.raises(ValueError, match="mode='serve'"):
        vk.estimate_memory("Qwen/Qwen2-VL-2B-Instruct", batch_size=1, mode="serve")
    with pytest.raises(ValueError, match="batch_size=0"):
        vk.estimate_memory("Qwen/Qwen2-VL-2B-Instruct", batch_size=0)


def test_the_command_prints_a_row_per_model():
    names = list(published_configs())[:2]
    lines = CliRunner().invoke(app, ["memory", *names]).output.strip().splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == names
    assert len({line.count("|") for line in lines}) == 1


def test_each_published_config_states_its_source():
    sources = json.loads(PUBLISHED_CONFIGS.read_text())["sources"]
    assert list(sources) == list(published_configs()) and set(sources) == set(PUBLISHED)
    assert all("config.json" in source for source in sources.values())


def test_the_table_in_the_documentation_is_up_to_date():
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    heading, rows = memory_table()
    assert markdown_rows(heading, rows, "l" + "r" * (len(heading) - 1)) in page


@pytest.mark.filterwarnings("ignore:.*is unverified")
@pytest.mark.parametrize("family", [*FAMILIES, "llava_next"])
def test_the_estimated_image_tokens_are_within_a_factor_of_2_of_the_processors(tmp_path, family):
    lvlm = vk.load_lvlm(str(build(family, tmp_path)), max_pixels=112 * 112)
    image = Image.effect_noise((112, 112), 90).convert("RGB")
    ids = image_inputs(lvlm.processor, [image], vk.Embedder(lvlm).image_prompt).inputs["input_ids"]
    config = lvlm.model.config
    image_token = getattr(config, "image_token_id", config.to_dict().get("image_token_index"))
    n_tokens = int((ids == image_token).sum())
    assert n_tokens == 1 if family == "mllama" else n_tokens >= 4
    estimate, _ = image_tokens_and_patches(config, 112 * 112)
    assert 0.5 <= estimate / n_tokens <= 2, (estimate, n_tokens)

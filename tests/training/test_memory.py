"""Memory from a config alone, against what tiny models allocate; and published shapes, counted without weights."""

import json
import re
import weakref
from pathlib import Path

import pytest
import tiny_families
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.checks import CAPTIONS, LONG, example_pictures
from vladva_kit.cli.app import app
from vladva_kit.embedder.adapter import attach_adapter, hand_written_prompts
from vladva_kit.embedder.prompts import image_inputs
from vladva_kit.evaluation import markdown
from vladva_kit.models.families import FAMILIES, family_of
from vladva_kit.models.load import LVLM
from vladva_kit.training.memory import (
    GIB,
    Lengths,
    config_of,
    largest_batch,
    memory_table,
    model_without_weights,
    published_configs,
    typical_lengths,
)
from vladva_kit.training.memory import PUBLISHED as PUBLISHED_FILE
from vladva_kit.training.trainer import Collator, step_losses

pytestmark = pytest.mark.usefixtures("one_thread")
# weights in billions as each model's card on the hub has them, and LoRA's of rank 16 by hand:
# layers × 16 × (4 hidden + 4 hidden …), from q, k, v, o, gate, up and down
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


class Live(TorchDispatchMode):
    """Counts the bytes of storages that are alive at once; those that exist before are not counted."""

    def __init__(self, known=()):
        super().__init__()
        self.now = self.peak = 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in known}

    def freed(self, key, size):
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
                    weakref.finalize(storage, self.freed, key, size)
        return out


@pytest.fixture(scope="module", params=FAMILIES)
def tiny(request, tmp_path_factory):
    """A family's name and the folder of a tiny model."""
    return request.param, str(tiny_families.build(request.param, tmp_path_factory.mktemp(request.param)))


def batch_and_lengths(embedder):
    pairs = [vk.Pair(*row) for row in zip(example_pictures(), CAPTIONS, LONG, strict=True)] * 4
    batch = Collator(embedder)(pairs)["batch"]
    image, text = batch.images.inputs["input_ids"].shape[1], batch.texts.inputs["input_ids"].shape[1]
    caption = round(float((batch.images.labels >= 0).sum()) / len(pairs))
    pixels = batch.images.inputs["pixel_values"]
    patches = pixels.numel() / (len(pairs) * 3 * 14 * 14 * (2 if pixels.ndim == 2 else 1))  # Qwen's come in twos
    return batch, Lengths(image, text, caption, round(patches))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_exactly(tmp_path, family, tied):
    folder = str(tiny_families.build(family, tmp_path / family, tied))
    lvlm = vk.load_lvlm(folder)
    held = sum(parameter.numel() * parameter.itemsize for parameter in lvlm.model.parameters())
    estimate = vk.estimate_memory(folder, batch_size=1, dtype=torch.float32)
    assert estimate.weights == held
    assert vk.estimate_memory(folder, batch_size=1).weights == held / 2  # bfloat16
    learning = vk.attach(lvlm, soft_prompt=False).trainable()["LoRA"]
    learned = vk.estimate_memory(folder, batch_size=1, mode="train").adapter
    assert learned == 16 * (learning + 60 * tiny_families.HIDDEN)


def test_training_takes_within_a_factor_of_2_of_the_estimate(tiny):
    embedder = vk.attach(vk.load_lvlm(tiny[1]))
    batch, lengths = batch_and_lengths(embedder)
    inputs = [*batch.images.inputs.values(), *batch.texts.inputs.values()]
    with Live([*embedder.lvlm.model.parameters(), *embedder.lvlm.model.buffers(), *inputs]) as live:
        step_losses(embedder, batch)["loss"].backward()
    estimate = vk.estimate_memory(tiny[1], batch_size=12, mode="train", dtype=torch.float32, lengths=lengths)
    assert 0.5 <= estimate.activations / live.peak <= 2, (estimate.activations, live.peak)


def test_encoding_takes_within_a_factor_of_2_of_the_estimate(tiny):
    embedder = vk.attach(vk.load_lvlm(tiny[1]))
    batch, lengths = batch_and_lengths(embedder)
    inputs = batch.images.inputs
    with torch.inference_mode(), Live([*embedder.lvlm.model.parameters(), *inputs.values()]) as live:
        embedder.hidden_states(batch.images)
    lengths = Lengths(lengths.image + lengths.caption, lengths.text, lengths.caption, lengths.patches)
    estimate = vk.estimate_memory(tiny[1], batch_size=12, dtype=torch.float32, lengths=lengths)
    assert 0.5 <= estimate.activations / live.peak <= 2, (estimate.activations, live.peak)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_shape_has_its_weights_and_lora_goes_into_its_llm_alone(lvlm, name):
    billions, lora = PUBLISHED[name]
    config = config_of(name)
    model = model_without_weights(config)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert weights == pytest.approx(billions * 1e9, rel=5e-3)
    shaped = LVLM(name, model, lvlm.processor, family_of(config))
    attach_adapter(shaped, soft_prompt=True, lora=True, temperature=0.07)
    learning = {key: p.numel() for key, p in model.named_parameters() if p.requires_grad}
    assert sum(number for key, number in learning.items() if "lora_" in key) == lora
    prompts = [number for key, number in learning.items() if "soft_prompt" in key]
    rows = sum(len(prompt.ids) for prompt in hand_written_prompts(shaped))  # a row a token of the hand-written prompts
    assert rows > 10 and prompts == [rows * config.get_text_config().hidden_size]
    assert all(any(part in key for part in ("lora_", "soft_prompt", "temperature")) for key in learning)
    touched = shaped.adapter.targeted_module_names
    assert len(touched) == 7 * config.get_text_config().num_hidden_layers
    assert all(re.match(r"model\.(language_model|text_model)\.layers\.\d+\.(self_attn|mlp)\.", key) for key in touched)


def test_four_bits_more_pixels_and_larger_batches_change_what_they_should():
    name = "Qwen/Qwen2-VL-2B-Instruct"
    plain = vk.estimate_memory(name, batch_size=8)
    assert vk.estimate_memory(name, batch_size=8, four_bit=True).weights < 0.5 * plain.weights
    assert vk.estimate_memory(name, batch_size=8, max_pixels=1024 * 1024).activations > 2 * plain.activations
    assert vk.estimate_memory(name, batch_size=16).activations == 2 * plain.activations
    assert vk.estimate_memory(name, batch_size=8, mode="train").total > plain.total
    assert largest_batch(name, 24) > largest_batch(name, 24, mode="train") > 0
    assert largest_batch(name, 1) == 0
    assert "GiB (weights 4.1" in str(plain) and plain.weights / GIB == pytest.approx(4.11, abs=0.02)


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ValueError, match="mode='serve'"):
        vk.estimate_memory("Qwen/Qwen2-VL-2B-Instruct", batch_size=1, mode="serve")
    with pytest.raises(ValueError, match="batch_size=0"):
        vk.estimate_memory("Qwen/Qwen2-VL-2B-Instruct", batch_size=0)


def test_the_table_has_a_row_for_each_model():
    names = list(published_configs())[:2]
    lines = CliRunner().invoke(app, ["memory", *names]).output.strip().splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == names
    assert len({line.count("|") for line in lines}) == 1
    assert set(published_configs()) == set(PUBLISHED)


def test_each_published_config_names_what_it_was_compared_with():
    sources = json.loads(PUBLISHED_FILE.read_text())["sources"]
    assert list(sources) == list(published_configs())
    assert all("config.json" in source for source in sources.values())


def test_the_readmes_table_is_what_the_command_prints():
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    heading, rows = memory_table()
    assert markdown.table(heading, rows, "l" + "r" * (len(heading) - 1)) in readme


@pytest.mark.filterwarnings("ignore:.*no record of it")
@pytest.mark.parametrize("family", [*FAMILIES, "llava_next"])
def test_a_pictures_tokens_are_near_what_the_processor_makes(tmp_path, family):
    folder, side = str(tiny_families.build(family, tmp_path / family)), 112
    lvlm = vk.load_lvlm(folder, max_pixels=side * side, check=False)
    picture = Image.effect_noise((side, side), 90).convert("RGB")
    ids = image_inputs(lvlm.processor, [picture], vk.Embedder(lvlm).image_prompt).inputs["input_ids"]
    config = lvlm.model.config
    made = int((ids == getattr(config, "image_token_id", config.to_dict().get("image_token_index"))).sum())
    assert made == 1 if family == "mllama" else made >= 4
    estimate = typical_lengths(config, lvlm.family, side * side, prompt=0, long=0).image
    assert 0.5 <= estimate / made <= 2, (estimate, made)

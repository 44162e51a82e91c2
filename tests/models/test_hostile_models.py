"""A model or an adapter that is damaged or hostile is refused in one sentence, soon, and never loaded in part."""

import json
import os
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_lvlm

import vladva_kit as vk
from vladva_kit.embedder.adapter import BadAdapter, adapter_folder
from vladva_kit.embedder.lora import check_pattern
from vladva_kit.models import chat
from vladva_kit.models.chat import render_chat
from vladva_kit.models.load import SHIPPED, UnknownModel

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path):
    """A copy of emoji-llava, to be damaged."""
    return shutil.copytree(SHIPPED / "emoji-llava", tmp_path / "model")


def change_weights(path, change):
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})


def cut(state):
    name = next(name for name in state if name.endswith("q_proj.weight"))
    state[name] = state[name][:5].contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: [state.pop(name) for name in list(state) if "layers.0." in name], "lacks .* more: .* random"),
        (cut, r"weights of another shape: .*q_proj.weight \(saved \(5, 256\), needed \(256, 256\)\)"),
    ],
)  # fmt: skip
def test_a_model_that_lacks_weights_is_refused_instead_of_completed_at_random(model, change, message):
    change_weights(model / WEIGHTS, change)
    with pytest.raises(UnknownModel, match=message):
        vk.load_lvlm(str(model))


@pytest.mark.parametrize(
    "content", [lambda old: old[:5000], lambda old: (2**60).to_bytes(8, "little") + old[8:], lambda old: b""]
)
def test_damaged_weights_are_one_sentence(model, content):
    path = model / WEIGHTS
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(UnknownModel, match="the weights of .* are damaged .*: download or save them again"):
        vk.load_lvlm(str(model))


def test_a_pipe_in_place_of_weights_is_not_waited_for(model):
    (model / WEIGHTS).unlink()
    os.mkfifo(model / WEIGHTS)
    with pytest.raises(UnknownModel, match="model.safetensors is not a regular file"):
        vk.load_lvlm(str(model))


def test_a_clip_that_lacks_weights_is_refused_too(tmp_path):
    clip = shutil.copytree(SHIPPED / "emoji-clip", tmp_path / "clip")
    change_weights(clip / WEIGHTS, lambda state: state.pop("visual_projection.weight"))
    with pytest.raises(UnknownModel, match="lacks visual_projection.weight"):
        vk.load_baseline(str(clip))


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": "llava", "model_type": "llava"}'])
def test_a_damaged_config_is_one_sentence(model, text):
    (model / "config.json").write_text(text)
    with pytest.raises(UnknownModel, match=r"config.json is not a JSON object .*: write or download it again"):
        vk.load_lvlm(str(model))


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("text_config", "num_hidden_layers", 10**6, "has 1,000,000 layers in its config.json and"),
        ("text_config", "hidden_act", "nothing", "cannot be built from its config.json .KeyError"),
        ("vision_config", "patch_size", 0, "cannot be built from its config.json .ZeroDivisionError"),
        ("vision_config", "num_hidden_layers", "many", "cannot be built from its config.json .StrictDataclass"),
    ],
)
def test_an_absurd_value_of_a_config_is_one_sentence(model, part, key, value, message):
    config = json.loads((model / "config.json").read_text())
    config[part][key] = value
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownModel, match=message):
        vk.load_lvlm(str(model))


NESTED = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (NESTED, "takes more than 0.2 s"),
        ("{% for i in %}", "TemplateSyntaxError"),
        ("{{ 'a' * 10 ** 15 }}", "MemoryError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages.none.at.all }}", "UndefinedError"),
    ],
)
def test_a_looping_or_wrong_chat_template_is_one_sentence(monkeypatch, template, reason):
    if template == NESTED:  # on a busy machine the other errors may take longer than this
        monkeypatch.setattr(chat, "MAX_SECONDS", 0.2)
    lvlm = tiny_lvlm()
    lvlm.processor.chat_template = template
    start = time.process_time()
    with pytest.raises(ValueError, match=f"the chat template cannot be used .*{reason}.*: correct"):
        vk.Embedder(lvlm)
    assert time.process_time() - start < 5


def test_the_time_limit_leaves_a_debugger_in_place():
    import sys

    def tracer(*_):
        return None

    lvlm, before = tiny_lvlm(), sys.gettrace()
    sys.settrace(tracer)
    try:
        render_chat(lvlm.processor, [{"role": "user", "content": [{"type": "text", "text": "hi"}]}])
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return vk.attach(vk.load_lvlm(), quiet=True).save_pretrained(tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture
def adapter(saved, tmp_path):
    """A copy of a saved adapter, to be damaged."""
    return shutil.copytree(saved, tmp_path / "adapter")


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ["one"]}, r"prompts is \['one'\]"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": -1}, "temperature is -1"),
        ({"soft_prompt": 1}, "soft_prompt is 1"),
        ({"base": 7}, "base is 7"),
        ({"lora": [1]}, r"lora is \[1\]"),
        ({"more": 1}, "more is missing or unknown; it has base, soft_prompt"),
        ({"lora": {"r": 10**9}}, "rank 1,000,000,000, but no tensor of that size"),
        ({"lora": {"r": 16, "rank_pattern": {"q_proj": 10**9}}}, "rank 1,000,000,000, but no tensor of that size"),
    ],
)
def test_a_wrong_value_of_an_adapters_record_is_named(adapter, changes, message):
    change_json(adapter / "vladva.json", **changes)
    with pytest.raises(BadAdapter, match=message):
        vk.Embedder.from_pretrained(adapter, tiny_lvlm())


@pytest.mark.parametrize("lora", [{"r": "x"}, {"r": 0}, {"r": 2.5}, {"r": 16, "init_lora_weights": "pissa"}])
def test_lora_settings_that_change_the_base_or_are_no_numbers_are_refused(adapter, lora):
    change_json(adapter / "vladva.json", lora=lora)
    lvlm = tiny_lvlm()
    with pytest.raises(ValueError, match="lora="):
        vk.Embedder.from_pretrained(adapter, lvlm)
    assert lvlm.adapter is None


@pytest.mark.parametrize("text", ["{", "[]", '{"base": "a", "base": "b"}'])
@pytest.mark.parametrize("name", ["vladva.json", "provenance.json"])
def test_a_damaged_record_is_one_sentence(adapter, name, text):
    (adapter / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is not a JSON object"):
        vk.Embedder.from_pretrained(adapter, tiny_lvlm())


@pytest.mark.parametrize("changes", [{"weights": "../../etc/passwd"}, {"max_pixels": "many"}, {"base": [1]}])
def test_a_wrong_value_of_the_provenance_is_named(adapter, changes):
    change_json(adapter / "provenance.json", **changes)
    with pytest.raises(ValueError, match=f"provenance.json: {next(iter(changes))} is"):
        vk.Embedder.from_pretrained(adapter, tiny_lvlm())


@pytest.mark.parametrize("size", [0, 5, 1000])
def test_damaged_weights_of_an_adapter_are_one_sentence(adapter, size):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BadAdapter, match="adapter_model.safetensors is damaged"):
        vk.Embedder.from_pretrained(adapter, tiny_lvlm())


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+b", "([a-z_.0-9]+)*!", ".*.*.*.*!", "(a|a)*b", "(a?){30}a{30}", r"(a)\1", "(", "(.*\\.)*q_proj", "a?" * 9],
)
def test_an_expression_that_could_hang_is_refused_before_it_is_matched(pattern):
    with pytest.raises(ValueError, match="give the names of the layers as a list"):
        check_pattern(pattern, "target_modules")
    with pytest.raises(ValueError, match="as a list"):
        vk.attach(tiny_lvlm(), lora={"target_modules": pattern}, quiet=True)


@pytest.mark.parametrize(
    "pattern", [r"(.*\.)?(q_proj|v_proj)", r".*layers\.\d+\.self_attn\.[qv]_proj", r"model\.(?:a|b)\.(?!c)x", "q_proj"]
)
def test_usual_expressions_are_allowed(pattern):
    check_pattern(pattern, "target_modules")


def test_a_folder_does_not_silently_shadow_a_shipped_model(adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adapter.rename("emoji-llava-vladva")
    with pytest.warns(UserWarning, match=r"is the shipped one; .* write './emoji-llava-vladva'"):
        assert adapter_folder("emoji-llava-vladva") == SHIPPED / "emoji-llava-vladva"
    assert adapter_folder("./emoji-llava-vladva").samefile(tmp_path / "emoji-llava-vladva")
    (tmp_path / "emoji-llava").mkdir()
    with pytest.warns(UserWarning, match="write './emoji-llava'"):
        lvlm = vk.load_lvlm("emoji-llava")
    assert torch.equal(lvlm.model.get_input_embeddings().weight, vk.load_lvlm(str(SHIPPED / "emoji-llava")).model
                       .get_input_embeddings().weight)  # fmt: skip

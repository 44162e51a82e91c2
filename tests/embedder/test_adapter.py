"""Attaching, removing, saving and loading the trainable parts."""

import json
from dataclasses import FrozenInstanceError

import peft
import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from tiny import randomize_lora, tiny_lvlm

import vladva_kit as vk
from vladva_kit.embedder.adapter import CONFIG_FILE, AdapterConfig, BadAdapter, adapter_state, detach_adapter
from vladva_kit.models.load import SHIPPED

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.tensor([[2, 5, 100]])


def snapshot(lvlm):
    """Return the modules, the parameters with their flags, and logits: all that attaching could change."""
    modules = [(name, type(module), sorted(vars(module))) for name, module in lvlm.model.named_modules()]
    parameters = [(name, weight.requires_grad, weight.data_ptr()) for name, weight in lvlm.model.named_parameters()]
    with torch.no_grad():
        return modules, parameters, lvlm.model(IDS).logits


def assert_unchanged(lvlm, before):
    after = snapshot(lvlm)
    assert lvlm.adapter is None and not hasattr(lvlm.model, "temperature") and not hasattr(lvlm.model, "peft_config")
    assert after[:2] == before[:2] and torch.equal(after[2], before[2])


def test_only_soft_prompts_lora_and_temperature_are_trainable_and_saved(lvlm, tmp_path):
    embedder = vk.attach(lvlm, quiet=True)
    prompt_tokens = len(embedder.image_prompt.ids) + len(embedder.text_prompt.ids)
    llm = lvlm.model.model.language_model
    lora = sum(16 * (m.in_features + m.out_features) for n, m in llm.named_modules() if n.endswith("_proj"))
    assert embedder.trainable() == {"soft prompt": prompt_tokens * 64, "LoRA": lora, "temperature": 1}
    saved = load_file(embedder.save_pretrained(tmp_path / "adapter") / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == sum(embedder.trainable().values())


def test_lora_is_on_the_llms_linear_layers_only(lvlm):
    vk.attach(lvlm, quiet=True)
    targeted = lvlm.adapter.targeted_module_names
    assert len(targeted) == 2 * 7 and all(".language_model.layers." in name for name in targeted)


def test_the_summary_of_what_is_attached_is_printed_unless_quiet(capsys):
    counts = vk.attach(tiny_lvlm()).trainable()
    assert capsys.readouterr().out == (
        "tiny: LoRA on 14 layers of model.language_model (down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, "
        f"v_proj); trainable parameters: soft prompt {counts['soft prompt']:,}, LoRA {counts['LoRA']:,}, temperature 1"
        "\n"
    )
    embedder = vk.attach(tiny_lvlm(), lora={"target_modules": ["q_proj"]}, soft_prompt=False)
    printed = capsys.readouterr().out
    assert (
        "LoRA on 2 layers of model.vision_tower (q_proj); LoRA on 2 layers of model.language_model (q_proj)" in printed
    )
    assert embedder.trainable()["soft prompt"] == 0 and "soft prompt" not in printed
    vk.attach(tiny_lvlm(), lora=False)
    assert "LoRA" not in capsys.readouterr().out
    vk.attach(tiny_lvlm(), quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": {"rank": 8}}, r"lora has no setting 'rank'; .*lora_alpha.*\br\b"),
        ({"lora": {"modules_to_save": ["lm_head"]}}, "lora has no setting 'modules_to_save'"),
        ({"lora": {"target_modules": ["no_such_layer"]}}, "no_such_layer.*its layers have names like"),
        ({"lora": {"r": 0}}, "positive"),  # peft's own error
        ({"lora": {"r": 8, "init_lora_weights": "no such way"}}, None),
        ({"lora": {"bias": "lora_only"}}, "lora has no setting 'bias'"),
        ({"lora": {"bias": "all"}}, "lora has no setting 'bias'"),
        ({"lora": {"trainable_token_indices": [1]}}, "lora has no setting 'trainable_token_indices'"),
        ({"lora": {"layer_replication": [(0, 2)]}}, "lora has no setting 'layer_replication'"),
        ({"lora": {"target_parameters": ["q_proj.weight"]}}, "lora has no setting 'target_parameters'"),
        ({"lora": {"init_lora_weights": "pissa"}}, "'init_lora_weights': 'pissa'.*replaces the base model's weights"),
        ({"lora": {"init_lora_weights": "pissa_niter_4"}}, "'pissa_niter_4'.*replaces the base model's weights"),
        ({"lora": {"init_lora_weights": "olora"}}, "'olora'.*replaces the base model's weights"),
        ({"lora": {"init_lora_weights": "corda"}}, "'corda'.*replaces the base model's weights"),
        ({"lora": {"init_lora_weights": "eva"}}, "'eva'.*needs a pass over data"),
        ({"lora": {"init_lora_weights": "loftq"}}, "'loftq'"),
        ({"lora": {"lora_alpha": 0}}, "lora_alpha.*0.*positive number"),
        ({"lora": {"lora_alpha": float("nan")}}, "lora_alpha.*nan"),
        ({"lora": {"alpha_pattern": {"q_proj": float("inf")}}}, "lora_alpha.*inf for q_proj"),
        ({"lora": {"lora_dropout": 1.0}}, "'lora_dropout': 1.0"),
        ({"lora": {"rank_pattern": {"q_proj": torch.tensor(2)}}}, "cannot be saved.*Tensor"),
        ({"lora": {"target_modules": ["q_proj", "embed_tokens"]}}, "match the embedding 'model.language_model.embed"),
        ({"lora": LoraConfig(r=4)}, "lora is a LoraConfig: pass True, False, or a dict"),
        ({"lora": None}, "lora is a NoneType"),
        ({"lora": 8}, "lora is a int"),
        ({"soft_prompt": 20}, "soft_prompt=20"),
        ({"prompts": "one word:"}, "prompts='one word:'"),
        ({"prompts": ("", "a text:")}, "the prompt '' has no words"),
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"soft_prompt": False, "lora": False}, "nothing would be trained"),
        ({"prompts": ("one", "two", "three"), "soft_prompt": False}, None),
    ],
    ids=str,
)
def test_a_wrong_option_leaves_the_lvlm_unchanged_and_ready_for_another_attempt(lvlm, options, message):
    before = snapshot(lvlm)
    with pytest.raises((ValueError, TypeError), match=message):
        vk.attach(lvlm, **options)
    assert_unchanged(lvlm, before)
    assert all(vk.attach(lvlm, quiet=True).trainable().values())


LORA = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "random": {"init_lora_weights": False},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 4}},
    "layers": {"target_modules": ("q_proj", "v_proj"), "layers_to_transform": (1,)},
    "excluded": {"exclude_modules": {"q_proj", "v_proj"}},
    "all-linear": {"target_modules": "all-linear"},
    "defaults": {"bias": "none", "modules_to_save": None, "target_modules": None},
}


@pytest.mark.parametrize("lora", LORA.values(), ids=LORA)
def test_with_every_lora_setting_all_trained_parameters_are_saved_and_the_base_stays_the_base(lvlm, tmp_path, lora):
    texts = ["a dog on the car", "two cats"]
    base = vk.Embedder(lvlm).encode_text(texts)
    embedder = vk.attach(lvlm, lora=lora, quiet=True)
    torch.manual_seed(1)
    for _, weight in lvlm.model.named_parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    folder = embedder.save_pretrained(tmp_path / "adapter")
    saved = load_file(folder / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == sum(embedder.trainable().values())
    assert embedder.trainable()["temperature"] == 1
    loaded = vk.Embedder.from_pretrained(folder, tiny_lvlm())
    assert torch.equal(loaded.encode_text(texts), embedder.encode_text(texts)) and loaded.config == embedder.config
    assert not torch.equal(embedder.encode_text(texts), base)
    with embedder.base():
        assert torch.equal(embedder.encode_text(texts), base)


def test_an_adapter_of_an_older_version_that_changes_the_base_is_refused(lvlm, tmp_path):
    folder = vk.attach(lvlm, quiet=True).save_pretrained(tmp_path / "adapter")
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["lora"]["init_lora_weights"] = "olora"
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    other = tiny_lvlm()
    before = snapshot(other)
    with pytest.raises(ValueError, match="'olora'"):
        vk.Embedder.from_pretrained(folder, other)
    assert_unchanged(other, before)


def test_attaching_shows_no_warning_about_transformers_names(lvlm, recwarn):
    vk.attach(lvlm, quiet=True)
    assert not [warning for warning in recwarn if issubclass(warning.category, FutureWarning)]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()], ids=repr)
def test_an_error_halfway_through_attaching_leaves_the_lvlm_unchanged(lvlm, monkeypatch, error):
    before, replaced, replace_module = snapshot(lvlm), [], LoraModel._replace_module

    def fail_at_the_fifth(self, parent, *arguments):
        if len(replaced) == 4:
            raise error
        replaced.append(parent)
        replace_module(self, parent, *arguments)

    monkeypatch.setattr(LoraModel, "_replace_module", fail_at_the_fifth)
    with pytest.raises(type(error)):
        vk.attach(lvlm, quiet=True)
    assert len(replaced) == 4
    assert_unchanged(lvlm, before)
    monkeypatch.undo()
    assert all(vk.attach(lvlm, quiet=True).trainable().values())


def test_an_error_after_lora_was_installed_leaves_the_lvlm_unchanged(lvlm, monkeypatch):
    before, get_peft_model = snapshot(lvlm), peft.get_peft_model

    def fail_at_the_end(*arguments):
        get_peft_model(*arguments)
        raise RuntimeError("late")

    monkeypatch.setattr(peft, "get_peft_model", fail_at_the_end)
    with pytest.raises(RuntimeError, match="late"):
        vk.attach(lvlm, quiet=True)
    assert_unchanged(lvlm, before)


def test_detaching_restores_the_lvlm(lvlm, captions):
    before, texts = snapshot(lvlm), vk.Embedder(lvlm).encode_text(captions)
    randomize_lora(vk.attach(lvlm, quiet=True))
    detach_adapter(lvlm)
    assert_unchanged(lvlm, before)
    assert torch.equal(vk.Embedder(lvlm).encode_text(captions), texts)


def test_a_second_adapter_is_rejected_and_the_first_still_works(lvlm, captions):
    embedder = vk.attach(lvlm, quiet=True)
    texts = embedder.encode_text(captions)
    with pytest.raises(ValueError, match="already has an adapter"):
        vk.attach(lvlm)
    assert torch.equal(embedder.encode_text(captions), texts)


def test_the_same_seed_gives_the_same_adapter_and_leaves_the_random_state(lvlm):
    state = torch.get_rng_state()
    first = adapter_state(vk.attach(lvlm, seed=3, quiet=True).lvlm)
    assert torch.equal(torch.get_rng_state(), state)
    again, other = (adapter_state(vk.attach(tiny_lvlm(), seed=seed, quiet=True).lvlm) for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    "lora", [True, False, {"r": 4, "target_modules": {"q_proj", "v_proj"}}], ids=["default", "none", "settings"]
)
def test_the_config_survives_json_and_is_frozen(lvlm, lora):
    config = vk.attach(lvlm, lora=lora, temperature=0.05, prompts=("an image:", "a text:"), quiet=True).config
    assert AdapterConfig.from_json(config.to_json()) == config
    assert (config.base, config.temperature, config.prompts) == ("tiny", 0.05, ("an image:", "a text:"))
    with pytest.raises(FrozenInstanceError):
        config.base = "other"


def test_the_shipped_config_file_is_read_and_written_byte_for_byte():
    text = (SHIPPED / "emoji-llava-vladva" / CONFIG_FILE).read_text()
    config = AdapterConfig.from_json(text)
    assert config.base == "emoji-llava" and config.soft_prompt and config.lora["r"] == 16
    assert config.to_json() == text
    assert AdapterConfig.from_json(json.dumps({**json.loads(text), "lora": False})).lora is None


@pytest.mark.parametrize("options", [{}, {"lora": False}, {"soft_prompt": False}], ids=str)
def test_a_loaded_adapter_is_bit_identical_to_the_saved_one(lvlm, pictures, captions, tmp_path, options):
    embedder = vk.attach(lvlm, quiet=True, **options)
    torch.manual_seed(1)
    for _, weight in lvlm.model.named_parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    loaded = vk.Embedder.from_pretrained(embedder.save_pretrained(tmp_path / "adapter"), tiny_lvlm())
    assert loaded.config == embedder.config and loaded.trainable() == embedder.trainable()
    assert torch.equal(loaded.encode_image(pictures[:3]), embedder.encode_image(pictures[:3]))
    assert torch.equal(loaded.encode_text(captions), embedder.encode_text(captions))
    assert not torch.equal(loaded.encode_text(captions), vk.Embedder(loaded.lvlm).encode_text(captions))
    assert torch.equal(loaded.lvlm.model.temperature(torch.ones(1)), lvlm.model.temperature(torch.ones(1)))


def test_missing_and_unexpected_tensors_are_rejected_and_leave_the_lvlm_unchanged(lvlm, tmp_path):
    folder = vk.attach(lvlm, quiet=True).save_pretrained(tmp_path / "adapter")
    state = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in state if "soft_prompt" in name)
    other = tiny_lvlm()
    before = snapshot(other)
    for wrong, match in (
        ({key: value for key, value in state.items() if key != name}, "soft_prompt"),
        ({**state, "stranger": torch.zeros(1)}, "stranger"),
        ({**state, name: state[name][1:]}, r"another shape.*soft_prompt"),
    ):
        save_file(wrong, folder / "adapter_model.safetensors")
        with pytest.raises(BadAdapter, match=match):
            vk.Embedder.from_pretrained(folder, other)
        assert_unchanged(other, before)
    vk.attach(other, quiet=True)


def test_a_folder_without_adapter_names_the_missing_files(tmp_path):
    with pytest.raises(BadAdapter, match=f"{CONFIG_FILE} and no adapter_model.safetensors"):
        vk.Embedder.from_pretrained(tmp_path)
    with pytest.raises(BadAdapter, match="'nowhere' is neither a folder"):
        vk.Embedder.from_pretrained("nowhere")


def test_an_embedder_without_adapter_has_nothing_to_save(lvlm, tmp_path):
    with pytest.raises(ValueError, match="nothing to save"):
        vk.Embedder(lvlm).save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()

"""Options of `vladva train` override a YAML file; unknown keys are named; the used settings can be run again."""

import inspect
from dataclasses import asdict, fields, replace

import pytest
import typer

import vladva_kit as vk
from vladva_kit.cli.app import app
from vladva_kit.cli.run_config import ATTACH, COMMAND, LOAD, read_run
from vladva_kit.data.hard_batches import Mining


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        return tmp_path / "run.yaml"

    return write


EVERY_FIELD = """
data: my_pairs
model: some/model
max_pixels: 4096
four_bit: true
validation: [my_pairs, winoground_mini]
early_stopping: 3
soft_prompt: false
lora: {r: 8, lora_dropout: 1e-2}
temperature: 5e-2
prompts: ["image:", "text:"]
steps: 7
learning_rate: 1e-4
weight_decay: .5
bf16: null
batches: {groups: 0.25, random: 0.75}
mining: {by: image, margin: null}
trainer: {lr_scheduler_type: constant, adam_beta2: 0.95}
"""


def test_every_field_is_read_and_numbers_as_people_write_them(config):
    run = read_run({"config": config(EVERY_FIELD)})
    assert run.command == {
        "data": "my_pairs", "out": "runs/train", "model": "some/model", "validation": ["my_pairs", "winoground_mini"],
        "early_stopping": 3, "skip_bad": False,
    }  # fmt: skip
    assert run.load == {"device": None, "max_pixels": 4096, "four_bit": True}
    assert run.attach == {
        "soft_prompt": False, "lora": {"r": 8, "lora_dropout": 0.01}, "temperature": 0.05,
        "prompts": ("image:", "text:"),
    }  # fmt: skip
    expected = vk.Settings(
        steps=7, learning_rate=1e-4, weight_decay=0.5, batches={"groups": 0.25, "random": 0.75},
        mining=Mining(by="image", margin=None), trainer={"lr_scheduler_type": "constant", "adam_beta2": 0.95},
        output_dir="runs/train/checkpoints",
    )  # fmt: skip
    assert run.settings == expected


def test_without_a_file_the_defaults_are_those_of_python():
    run = read_run({"data": "emoji_pairs"})
    assert run.settings == vk.Settings(output_dir="runs/train/checkpoints")
    defaults = {name: one.default for name, one in inspect.signature(vk.attach).parameters.items()}
    assert run.attach == {name: defaults[name] for name in ("soft_prompt", "lora", "temperature", "prompts")}
    assert set(run.load) <= inspect.signature(vk.load_lvlm).parameters.keys()


def test_options_override_the_file(config):
    options = {"steps": 9, "lora_rank": 4, "batches": "random=1", "out": "elsewhere", "four_bit": False, "seed": 0}
    run = read_run({"config": config(EVERY_FIELD + "seed: 5\n"), **options})
    assert (run.settings.steps, run.settings.seed, run.settings.batches) == (9, 0, {"random": 1.0})
    assert run.attach["lora"] == {"r": 4, "lora_dropout": 0.01} and not run.load["four_bit"]
    assert run.settings.output_dir == "elsewhere/checkpoints" and run.settings.learning_rate == 1e-4
    assert read_run({"data": "x", "lora_rank": 4}).attach["lora"] == {"r": 4}
    assert read_run({"data": "x", "resume_anyway": True}).settings.resume


def test_the_used_settings_read_as_a_file_are_the_same_run(config):
    for options in ({"config": config(EVERY_FIELD)}, {"data": "emoji_pairs", "lora_rank": 4, "resume": True}):
        run = read_run(options)
        again = read_run({"config": config(run.to_yaml())})
        assert (again.command, again.load, again.attach) == (run.command, run.load, run.attach)
        assert again.settings == replace(run.settings, resume=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize: 3", r"run.yaml: unknown key 'batchsize' \(nearest: 'batch_size'\)$"),
        ("lora_r: 3\nepochs: 2", r"unknown keys 'lora_r' \(nearest: 'lora'\), 'epochs' \(nearest: '"),
        ("mining: {marginn: 3}", r"unknown key 'mining.marginn' \(nearest: 'mining.margin'\)"),
        ("steps: 0", r"Settings\(steps=0\): pass a whole number of at least 1"),
        ("trainer: {max_step: 3}", "no such field; close: max_steps"),
        ("trainer: {gradient_accumulation_steps: 4}", "does not enlarge a contrastive batch"),
        ("batches: half", "write it as groups=0.25"),
        ("- steps", "holds a list: write one setting a line"),
        ("steps: [", "run.yaml is not YAML: "),
        ("steps: 3", "there is no data to train on"),
    ],
    ids=str,
)
def test_an_unusable_file_is_refused_in_one_sentence(config, text, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_run({"config": config(text), **({} if text == "steps: 3" else {"data": "emoji_pairs"})})
    assert "\n" not in str(raised.value)


def test_the_help_states_todays_defaults_and_each_option_is_a_key_of_the_file():
    command = next(command for name, command in typer.main.get_command(app).commands.items() if name == "train")
    values = COMMAND | LOAD | asdict(vk.Settings())
    for option in command.params:
        if option.name in ("config", "lora_rank", "help"):
            continue
        assert option.name in values and option.default in (None, []), option.name
        shown, value = option.show_default, values[option.name]
        if isinstance(value, int | float) and not isinstance(value, bool):
            assert shown == f"{value:g}", option.name
    assert {field.name for field in fields(vk.Settings)}.isdisjoint([*COMMAND, *LOAD, *ATTACH])

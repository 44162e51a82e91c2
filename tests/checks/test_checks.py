"""The eight checks: they pass for all families, and each fails if what it checks is broken."""

import dataclasses
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import tiny_families
import torch
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit import checks
from vladva_kit.checks import adapters, embeddings
from vladva_kit.cli.app import app
from vladva_kit.embedder import embedder, lora
from vladva_kit.models import families
from vladva_kit.models.load import LVLM

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*is unverified"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders of tiny models, built on demand: `folder("llava")`."""
    built = {}

    def folder_of(family):
        if family not in built:
            built[family] = tiny_families.build(family, tmp_path_factory.mktemp(family))
        return str(built[family])

    return folder_of


def failures(lvlm):
    """The details of the failed checks, by number."""
    return {result.number: result.detail for result in vk.check(lvlm) if not result.passed}


@pytest.mark.parametrize("family", [*families.FAMILIES, "llava_next"])
def test_vladva_check_prints_one_line_per_check(folder, family, recwarn):
    result = CliRunner().invoke(app, ["check", folder(family)])
    first, *lines = result.stdout.strip().splitlines()
    assert [line[:7] for line in lines] == [f"{number}  pass" for number in range(1, 9)], result.output
    assert ("(unverified)" in first) == (family == "llava_next")
    assert not any("unverified" in str(warning.message) for warning in recwarn)  # the first line is enough
    assert result.exit_code == 0


@pytest.mark.parametrize(("tied", "dtype"), [(True, torch.float32), (False, torch.bfloat16)], ids=["tied", "bf16"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_all_checks_pass_with_tied_weights_and_in_bfloat16(tmp_path, family, tied, dtype):
    lvlm = vk.load_lvlm(str(tiny_families.build(family, tmp_path / family, tied, dtype)), dtype=dtype)
    assert tiny_families.is_tied(lvlm.model) == (tied and family in tiny_families.TIES) and lvlm.model.dtype == dtype
    assert failures(lvlm) == {}


def test_all_checks_pass_for_the_shipped_model(lvlm):
    assert failures(lvlm) == {}


def test_check_leaves_the_model_and_the_random_state_unchanged(folder):
    checked, untouched = (vk.load_lvlm(folder("llava_next")) for _ in range(2))
    torch.manual_seed(3)
    random_state = torch.get_rng_state()
    vk.check(checked)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert checked.adapter is None and not checked.model.training
    assert [*map(str, checked.model.modules())] == [*map(str, untouched.model.modules())]
    weights, expected = checked.model.state_dict(), untouched.model.state_dict()
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in checked.model.parameters())
    assert "forward" not in vars(checked.model.get_input_embeddings())  # a soft prompt replaces it


def test_check_rejects_an_lvlm_with_an_adapter(lvlm):
    vk.attach(lvlm, quiet=True)
    with pytest.raises(ValueError, match="has an adapter"):
        vk.check(lvlm)


def test_without_a_chat_template_all_checks_fail_and_name_it(folder, monkeypatch):
    path = folder("paligemma")
    monkeypatch.setattr(families, "FAMILIES", {})
    details = failures(vk.load_lvlm(path))
    assert set(details) == set(range(1, 9)) and all("chat_template" in detail for detail in details.values())


def test_a_failed_check_is_printed_and_sets_the_exit_status(folder, monkeypatch):
    paligemma = replace(families.FAMILIES["paligemma"], caption_token_type_id=0)
    monkeypatch.setitem(families.FAMILIES, "paligemma", paligemma)
    result = CliRunner().invoke(app, ["check", folder("paligemma")])
    assert result.exit_code == 1
    assert [line[:7] for line in result.stdout.splitlines() if "FAIL" in line] == ["6  FAIL"]


@pytest.mark.parametrize(
    ("family", "broken", "number"),
    [
        ("paligemma", {"caption_token_type_id": 0}, 6),  # the prompt attends to the caption
        ("paligemma", {"prompt_suffix": ""}, 1),  # the newline after the prompt is missing
        ("mllama", {"repeat_last_along_seq": ()}, 1),  # the prompt does not attend to the image
    ],
)
def test_a_wrong_family_record_fails_a_check(folder, family, broken, number):
    lvlm = vk.load_lvlm(folder(family))
    lvlm.family = replace(lvlm.family, **broken)
    assert number in failures(lvlm)


def test_reading_the_summary_at_the_last_position_fails_check_2(folder, monkeypatch):
    text_inputs = embedder.text_inputs

    def read_last_position(*arguments):
        inputs = text_inputs(*arguments)
        last = inputs.inputs["input_ids"].shape[1] - 1
        return replace(inputs, summary_positions=torch.full_like(inputs.summary_positions, last))

    monkeypatch.setattr(embedder, "text_inputs", read_last_position)
    assert 2 in failures(vk.load_lvlm(folder("llava")))


def test_lora_in_the_image_encoder_fails_check_3(folder, monkeypatch):
    monkeypatch.setattr(lora, "llm_linear_pattern", lambda model: r".*\.(q|v)_proj")
    details = failures(vk.load_lvlm(folder("llava")))
    assert set(details) == {3} and "vision_tower" in details[3]


def test_accepting_targets_that_match_nothing_fails_check_3(folder, monkeypatch):
    monkeypatch.setattr(adapters, "attach", lambda *arguments, **keywords: None)
    details = failures(vk.load_lvlm(folder("llava")))
    assert set(details) == {3} and "match no layer" in details[3]


def test_an_adapter_that_is_not_loaded_fails_check_4(folder, monkeypatch):
    monkeypatch.setattr(peft, "set_peft_model_state_dict", lambda *arguments: None)
    assert set(failures(vk.load_lvlm(folder("llava")))) == {4}


def test_an_adapter_that_stays_on_fails_check_5(folder, monkeypatch):
    monkeypatch.setattr(LVLM, "adapter_off", lambda self: nullcontext())
    assert 5 in failures(vk.load_lvlm(folder("llava")))


def test_an_ignored_image_fails_check_7(folder):
    lvlm = vk.load_lvlm(folder("llava"))
    lvlm.model.model.multi_modal_projector.linear_2.weight.zero_()
    assert "is the image used" in failures(lvlm)[7]


def test_special_tokens_in_captions_fail_check_7(folder, monkeypatch):
    lvlm = vk.load_lvlm(folder("llava"))
    unescaped = lambda tokenizer, text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    monkeypatch.setattr(embeddings, "encode_caption", unescaped)
    assert "becomes special token" in failures(lvlm)[7]


def test_a_loss_that_does_not_fall_fails_check_8(folder, monkeypatch):
    step_losses = adapters.step_losses

    def constant_loss(embedder, batch):
        return {"loss": step_losses(embedder, batch)["loss"] * 0.0 + 1.0}

    monkeypatch.setattr(adapters, "step_losses", constant_loss)
    assert "smallest learning rate" in failures(vk.load_lvlm(folder("llava")))[8]


def test_changed_base_weights_fail_check_8(folder, monkeypatch):
    step_losses, lvlm = adapters.step_losses, vk.load_lvlm(folder("llava"))

    def change_base(embedder, batch):
        with torch.no_grad():
            lvlm.model.lm_head.weight[0, 0] += 1e-3
        return step_losses(embedder, batch)

    monkeypatch.setattr(adapters, "step_losses", change_base)
    assert "changed base weights" in failures(lvlm)[8]


def test_example_images_have_different_shapes():
    assert len({image.size for image in checks.example_images()}) == 3


def test_contributing_names_real_family_fields():
    text = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"^\|.*\| `(\w+)` \|$", text, flags=re.MULTILINE)
    assert named and set(named) <= {field.name for field in dataclasses.fields(families.Family)}

"""The eight checks: that they hold for the families, and that each fails where what it checks is broken."""

import re
import warnings
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import tiny_families
import torch
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit import adapter, checks, embedder, families
from vladva_kit.checks import adapters, embeddings
from vladva_kit.cli import app
from vladva_kit.lvlm import LVLM

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folders of tiny models, built when they are asked for."""
    built = {}

    def of(family):
        if family not in built:
            built[family] = tiny_families.build(family, tmp_path_factory.mktemp(family))
        return str(built[family])

    return of


def failed(lvlm):
    return {check.number: check.detail for check in checks.run_checks(lvlm) if not check.passed}


@pytest.mark.parametrize("family", families.FAMILIES)
def test_vladva_check_prints_eight_lines_for_a_folder_of_each_family(folder, family):
    result = CliRunner().invoke(app, ["check", folder(family)])
    lines = result.stdout.strip().splitlines()
    assert [line[:8] for line in lines[-8:]] == [f"{number}  holds" for number in range(1, 9)], result.output
    assert result.exit_code == 0


@pytest.mark.parametrize(("tied", "dtype"), [(True, torch.float32), (False, torch.bfloat16)], ids=["tied", "bf16"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_all_eight_hold_tied_in_float32_and_untied_in_bfloat16(tmp_path, family, tied, dtype):
    lvlm = vk.load_lvlm(str(tiny_families.build(family, tmp_path / family, tied, dtype)), dtype=dtype)
    assert tiny_families.is_tied(lvlm.model) == (tied and family in tiny_families.TIES) and lvlm.model.dtype == dtype
    assert failed(lvlm) == {}


def test_a_family_without_a_record_takes_the_general_path_says_so_and_can_be_checked(folder):
    with pytest.warns(UserWarning, match="'llava_next'.*no record of it.*vladva check"):
        lvlm = vk.load_lvlm(folder("llava_next"))
    assert not lvlm.family.tested and failed(lvlm) == {}


def test_contributings_line_alone_makes_a_thirteenth_family_trusted(folder, monkeypatch):
    text = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"```python\n(.*)\n```", text)
    name, record = re.fullmatch(r'\s*"(\w+)": Family\("(\w+)"\),', line).groups()
    assert name not in families.FAMILIES
    monkeypatch.setitem(families.FAMILIES, name, families.Family(record))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lvlm = vk.load_lvlm(folder(name))
    assert not any("no record of it" in str(warning.message) for warning in said)
    assert lvlm.family.tested and failed(lvlm) == {}


def test_a_failing_check_is_said_in_its_line_and_by_the_exit_status(folder, monkeypatch):
    paligemma = replace(families.FAMILIES["paligemma"], caption_type=0)
    monkeypatch.setitem(families.FAMILIES, "paligemma", paligemma)
    result = CliRunner().invoke(app, ["check", folder("paligemma")])
    assert result.exit_code == 1
    assert [line[:8] for line in result.stdout.splitlines() if "FAILS" in line] == ["6  FAILS"]


@pytest.mark.parametrize(
    ("family", "broken", "number"),
    [
        ("paligemma", {"caption_type": 0}, 6),  # the prompt sees the caption behind it
        ("paligemma", {"appended": ""}, 1),  # the prompt's newline is lost
        ("mllama", {"carried_on": ()}, 1),  # the prompt does not see the picture
    ],
)
def test_a_record_that_lacks_what_differs_fails_a_check(folder, family, broken, number):
    lvlm = vk.load_lvlm(folder(family))
    lvlm.family = replace(lvlm.family, **broken)
    assert number in failed(lvlm)


def test_a_summary_taken_at_the_last_column_fails_check_2(folder, monkeypatch):
    sequences = embedder.text_sequences

    def last_column(*arguments):
        made = sequences(*arguments)
        return replace(made, summary=torch.full_like(made.summary, made.inputs["input_ids"].shape[1] - 1))

    monkeypatch.setattr(embedder, "text_sequences", last_column)
    assert 2 in failed(vk.load_lvlm(folder("llava")))


def test_lora_outside_the_llm_fails_check_3(folder, monkeypatch):
    monkeypatch.setattr(adapter, "llm_linears", lambda model: r".*\.(q|v)_proj")
    details = failed(vk.load_lvlm(folder("llava")))
    assert set(details) == {3} and "vision_tower" in details[3]


def test_an_adapter_that_is_not_loaded_fails_check_4(folder, monkeypatch):
    monkeypatch.setattr(peft, "set_peft_model_state_dict", lambda *arguments: None)
    assert set(failed(vk.load_lvlm(folder("llava")))) == {4}


def test_an_adapter_that_is_not_off_fails_check_5(folder, monkeypatch):
    monkeypatch.setattr(LVLM, "adapter_off", lambda self: nullcontext())
    assert 5 in failed(vk.load_lvlm(folder("llava")))


def test_a_tower_that_reads_no_picture_and_tokens_that_act_fail_check_7(folder, monkeypatch):
    lvlm = vk.load_lvlm(folder("llava"))
    lvlm.model.model.multi_modal_projector.linear_2.weight.zero_()
    assert "is the picture read" in failed(lvlm)[7]
    lvlm = vk.load_lvlm(folder("llava"))
    acting = lambda tokenizer, text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    monkeypatch.setattr(embeddings, "caption_ids", acting)
    assert "acts as token" in failed(lvlm)[7]


def test_a_loss_that_does_not_fall_and_a_base_that_changes_fail_check_8(folder, monkeypatch):
    losses = adapters.step_losses

    def flat(embedder, batch):
        loss = losses(embedder, batch)["loss"]
        return {"loss": loss * 0.0 + 1.0}

    monkeypatch.setattr(adapters, "step_losses", flat)
    assert "smallest rate" in failed(vk.load_lvlm(folder("llava")))[8]
    lvlm = vk.load_lvlm(folder("llava"))

    def careless(embedder, batch):
        with torch.no_grad():
            lvlm.model.lm_head.weight[0, 0] += 1e-3
        return losses(embedder, batch)

    monkeypatch.setattr(adapters, "step_losses", careless)
    assert "changed weights of the base" in failed(lvlm)[8]


def test_the_lvlm_is_left_as_it_was_and_one_with_an_adapter_is_refused(folder):
    lvlm = vk.load_lvlm(folder("llava"))
    before = vk.Embedder(lvlm).encode_text(checks.CAPTIONS)
    checks.run_checks(lvlm)
    assert lvlm.adapter is None
    assert torch.equal(vk.Embedder(lvlm).encode_text(checks.CAPTIONS), before)
    vk.attach(lvlm)
    with pytest.raises(ValueError, match="carries an adapter"):
        checks.run_checks(lvlm)

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
from vladva_kit import checks
from vladva_kit.checks import adapters, embeddings
from vladva_kit.cli.app import app
from vladva_kit.embedder import adapter, embedder
from vladva_kit.models import families
from vladva_kit.models.load import LVLM

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


@pytest.mark.filterwarnings("error:.*no record of it")  # once is enough: in the first line
@pytest.mark.parametrize("family", [*families.FAMILIES, "llava_next"])
def test_vladva_check_prints_eight_lines_for_a_folder_of_each_family_and_of_one_without_a_record(folder, family):
    result = CliRunner().invoke(app, ["check", folder(family)])
    lines = result.stdout.strip().splitlines()
    assert sum("  holds  " in line for line in lines) == 8
    assert ("(there is no record of it: the general path is used)" in result.stdout) == (family == "llava_next")
    assert [line[:8] for line in lines[-8:]] == [f"{number}  holds" for number in range(1, 9)], result.output
    assert result.exit_code == 0


@pytest.mark.parametrize(("tied", "dtype"), [(True, torch.float32), (False, torch.bfloat16)], ids=["tied", "bf16"])
@pytest.mark.parametrize("family", families.FAMILIES)
def test_all_eight_hold_tied_in_float32_and_untied_in_bfloat16(tmp_path, family, tied, dtype):
    lvlm = vk.load_lvlm(str(tiny_families.build(family, tmp_path / family, tied, dtype)), dtype=dtype)
    assert tiny_families.is_tied(lvlm.model) == (tied and family in tiny_families.TIES) and lvlm.model.dtype == dtype
    assert failed(lvlm) == {}


def test_the_shipped_model_holds_all_eight(lvlm):
    assert failed(lvlm) == {}


def test_a_family_without_a_record_says_so_and_is_held_to_the_checks_before_it_is_handed_out(folder, capsys):
    with pytest.warns(UserWarning, match=r"'llava_next'.*no record of it.*checks now \(check=False leaves them out\)"):
        lvlm = vk.load_lvlm(folder("llava_next"))
    assert not lvlm.family.tested and capsys.readouterr().out == f"{lvlm.name}: all eight checks hold\n"


def test_loading_with_checks_leaves_the_model_and_the_random_numbers_as_they_were(folder):
    path = folder("llava_next")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="no record"):
        checked = vk.load_lvlm(path).model
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.warns(UserWarning, match="nothing here has tested it; run `vladva check`"):
        plain = vk.load_lvlm(path, check=False).model
    assert [*map(str, checked.modules())] == [*map(str, plain.modules())] and not checked.training
    ours, theirs = checked.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in checked.parameters())
    embedding = checked.get_input_embeddings()  # where a soft prompt would hang
    assert not embedding._forward_hooks and not embedding._forward_pre_hooks


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("mllama", r"1 of eight checks fail:\n1  FAILS  embeddings equal the family's own forward: "),
        ("paligemma", r"8 of eight checks fail:\n1  FAILS .*chat_template"),  # without one nothing can be tried
    ],
)
def test_what_fails_in_a_family_without_a_record_is_said_at_loading(folder, monkeypatch, capsys, family, said):
    path = folder(family)
    monkeypatch.setattr(families, "FAMILIES", {})
    with pytest.warns(UserWarning, match=f"is not to be trusted, {said}"):
        lvlm = vk.load_lvlm(path)
    assert lvlm.adapter is None and "all eight" not in capsys.readouterr().out


def test_families_with_a_record_and_those_that_are_not_to_be_checked_are_loaded_without_checks(folder, monkeypatch):
    def run(lvlm):
        raise AssertionError(f"{lvlm.name} is checked")

    monkeypatch.setattr(checks, "run_checks", run)
    vk.load_lvlm(folder("llava"))
    with pytest.warns(UserWarning, match="no record"):
        vk.load_lvlm(folder("llava_next"), check=False)
        with pytest.raises(AssertionError, match="is checked"):
            vk.load_lvlm(folder("llava_next"))


def test_contributings_line_alone_makes_a_thirteenth_family_trusted(folder, monkeypatch):
    text = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
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
    paligemma = replace(families.FAMILIES["paligemma"], caption_token_type_id=0)
    monkeypatch.setitem(families.FAMILIES, "paligemma", paligemma)
    result = CliRunner().invoke(app, ["check", folder("paligemma")])
    assert result.exit_code == 1
    assert [line[:8] for line in result.stdout.splitlines() if "FAILS" in line] == ["6  FAILS"]


@pytest.mark.parametrize(
    ("family", "broken", "number"),
    [
        ("paligemma", {"caption_token_type_id": 0}, 6),  # the prompt sees the caption behind it
        ("paligemma", {"appended": ""}, 1),  # the prompt's newline is lost
        ("mllama", {"repeat_last_along_seq": ()}, 1),  # the prompt does not see the picture
    ],
)
def test_a_record_that_lacks_what_differs_fails_a_check(folder, family, broken, number):
    lvlm = vk.load_lvlm(folder(family))
    lvlm.family = replace(lvlm.family, **broken)
    assert number in failed(lvlm)


def test_a_summary_taken_at_the_last_column_fails_check_2(folder, monkeypatch):
    sequences = embedder.text_inputs_from_ids

    def last_column(*arguments):
        made = sequences(*arguments)
        return replace(made, summary=torch.full_like(made.summary, made.inputs["input_ids"].shape[1] - 1))

    monkeypatch.setattr(embedder, "text_inputs_from_ids", last_column)
    assert 2 in failed(vk.load_lvlm(folder("llava")))


def test_lora_outside_the_llm_fails_check_3(folder, monkeypatch):
    monkeypatch.setattr(adapter, "llm_linear_pattern", lambda model: r".*\.(q|v)_proj")
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
    monkeypatch.setattr(embeddings, "encode_caption", acting)
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

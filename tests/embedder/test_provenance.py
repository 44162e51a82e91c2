"""What an adapter records of its base, and what is reported when it is loaded on another one."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from huggingface_hub import constants
from tiny import randomize_lora, tiny_lvlm

import vladva_kit as vk
from vladva_kit.embedder.adapter import BadAdapter
from vladva_kit.embedder.identity import hash_weights
from vladva_kit.models.load import base_name

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path):
    lvlm = tiny_lvlm()
    lvlm.name, lvlm.revision = "me/base", "a" * 40
    lvlm.family = replace(lvlm.family, max_pixels=4096)
    return vk.attach(lvlm, quiet=True).save_pretrained(tmp_path / "my-adapter")


def base(**changes):
    lvlm = tiny_lvlm()
    lvlm.name, lvlm.revision = changes.get("name", "me/base"), changes.get("revision", "a" * 40)
    lvlm.family = replace(lvlm.family, max_pixels=changes.get("max_pixels", 4096))
    return lvlm


def reports(folder, lvlm):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vk.Embedder.from_pretrained(folder, lvlm)
    return [str(warning.message) for warning in caught if warning.category is UserWarning]


def test_the_recorded_base_is_loaded_without_a_report(folder):
    assert reports(folder, base()) == []


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"name": "me/other"}, "base me/base (loaded: me/other)"),
        ({"revision": "b" * 40}, f"revision {'a' * 40} (loaded: {'b' * 40})"),
        ({"revision": None}, f"revision {'a' * 40} (loaded: None)"),
        ({"max_pixels": None}, "max_pixels 4096 (loaded: None)"),
    ],
    ids=str,
)
def test_a_different_base_is_reported_with_both_values_in_one_sentence(folder, changes, values):
    (report,) = reports(folder, base(**changes))
    assert values in report and str(folder) in report and report.count(". ") == 0


def test_other_weights_are_reported_by_their_hashes_and_equal_weights_under_another_name_as_such(folder):
    lvlm = base(revision=None)
    (report,) = reports(folder, base(revision=None))
    assert "the weights are equal" in report
    with torch.no_grad():
        lvlm.model.lm_head.weight[0] += 1
    recorded = json.loads((folder / "provenance.json").read_text())["weights"]
    (report,) = reports(folder, lvlm)
    assert f"weights {recorded[:16]}… (loaded: {hash_weights(lvlm.model)[:16]}…)" in report


def test_weights_of_another_dtype_are_not_compared(folder):
    lvlm = base()
    lvlm.model.to(torch.bfloat16)
    assert reports(folder, lvlm) == []


def test_an_older_folder_loads_and_reports_what_it_lacks(folder):
    (folder / "provenance.json").unlink()
    (report,) = reports(folder, base())
    assert "does not record base, revision, max_pixels, dtype, weights, versions of its base" in report


def test_a_folder_that_lacks_a_value_names_it(folder):
    file = folder / "provenance.json"
    values = json.loads(file.read_text())
    del values["max_pixels"]
    file.write_text(json.dumps(values))
    (report,) = reports(folder, base())
    assert "does not record max_pixels" in report


def test_the_shipped_adapter_loads_without_a_report():
    assert reports("emoji-llava-vladva", None) == []


def test_recorded_revision_and_resolution_are_used_when_the_base_is_loaded_by_name(folder, monkeypatch):
    asked = []

    def load(**options):
        asked.append(options)
        return base()

    monkeypatch.setattr("vladva_kit.embedder.adapter.load_lvlm", load)
    vk.Embedder.from_pretrained(folder)
    vk.Embedder.from_pretrained(folder, revision="b" * 40, max_pixels=None)
    assert asked == [
        {"name": "me/base", "revision": "a" * 40, "max_pixels": 4096},
        {"name": "me/base", "revision": "b" * 40, "max_pixels": None},
    ]


def test_a_local_base_is_found_again_on_this_computer_but_its_path_is_not_in_the_folder(tmp_path, home):
    lvlm = vk.load_lvlm("emoji-llava")
    lvlm.model.save_pretrained(tmp_path / "bases" / "my-llava")
    lvlm.processor.save_pretrained(tmp_path / "bases" / "my-llava")
    embedder = vk.attach(vk.load_lvlm(str(tmp_path / "bases" / "my-llava")), quiet=True)
    randomize_lora(embedder)
    folder = embedder.save_pretrained(tmp_path / "my-adapter")
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in folder.iterdir())
    assert json.loads((folder / "provenance.json").read_text())["base"] == "my-llava"
    again = vk.Embedder.from_pretrained(folder)
    assert torch.equal(again.encode_text(["a dog"]), embedder.encode_text(["a dog"]))
    (tmp_path / "bases").rename(tmp_path / "moved")
    with pytest.raises(BadAdapter, match="the base of .*'my-llava', was not found .*load_lvlm\\(folder\\)"):
        vk.Embedder.from_pretrained(folder)


def test_a_models_name_is_kept_and_a_path_is_cut(tmp_path):
    assert [base_name(name) for name in ("emoji-llava", "Qwen/Qwen2-VL", str(tmp_path / "llava"))] == [
        "emoji-llava", "Qwen/Qwen2-VL", "llava",
    ]  # fmt: skip

"""A saved folder as a hub repository: its card, what its snippets compute, and what an upload would send."""

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from tiny import randomize_lora, tiny_lvlm

import vladva_kit as vk
from vladva_kit.embedder.card import license_text
from vladva_kit.embedder.identity import versions

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "LICENSE", "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
    "processor_config.json", "provenance.json", "tokenizer.json", "tokenizer_config.json", "vladva.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained():
    """An adapter of a tiny LVLM whose soft prompts differ from their initial values."""
    embedder = vk.attach(tiny_lvlm(), quiet=True)
    randomize_lora(embedder)
    for name, weight in embedder.lvlm.model.named_parameters():
        if "soft_prompt" in name:
            weight.data += 0.3 * torch.randn_like(weight)
    return embedder


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    return trained.save_pretrained(tmp_path_factory.mktemp("saved") / "my-adapter")


def test_a_saved_folder_holds_a_repository_and_a_dry_run_lists_it_without_a_connection(trained, folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    assert {path.name for path in folder.iterdir()} == FILES
    assert trained.push_to_hub("me/my-adapter", dry_run=True) == sorted(FILES)


def test_an_upload_sends_the_listed_files_with_the_repositorys_name_in_the_card(trained, monkeypatch):
    sent = {}

    class Api:
        def __init__(self, token):
            pass

        def create_repo(self, repo_id, private, exist_ok):
            return f"https://huggingface.co/{repo_id}"

        def upload_folder(self, repo_id, folder_path):
            sent.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert trained.push_to_hub("me/adapter", license="mit").endswith("/me/adapter")
    assert set(sent) == FILES and b"mit" in sent["LICENSE"]
    assert b'from_pretrained("me/adapter"' in sent["README.md"]


def test_the_card_has_front_matter_and_records_versions_and_the_base(folder):
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "peft", "feature-extraction", "apache-2.0",
    )  # fmt: skip
    assert "base_model" not in data  # a local base is no hub id
    recorded = json.loads((folder / "provenance.json").read_text())
    assert recorded["versions"] == versions() and len(recorded["weights"]) == 64
    assert (recorded["base"], recorded["dtype"], recorded["max_pixels"]) == ("tiny", "float32", None)
    assert recorded["weights"] in card.text and versions()["transformers"] in card.text
    assert "evaluate it with `vladva eval my-adapter`" in card.text


def test_results_become_a_model_index_with_their_intervals(trained, tmp_path):
    cases = vk.sample("winoground_mini") / "unseen_style"
    result = vk.evaluate_winoground(vk.ClipEmbedder("emoji-clip"), cases)
    saved = trained.save_pretrained(tmp_path / "a", datasets=["me/pairs"], results={"winoground mini": result})
    data = ModelCard.load(saved / "README.md").data
    group = next(row for row in data.eval_results if row.metric_name == "group")
    assert group.metric_value == pytest.approx(result.group.percent, abs=1e-4)
    assert group.metric_args["low"] == pytest.approx(result.group.low, abs=1e-4)
    assert group.dataset_type == "winoground-mini" and data.datasets == ["me/pairs"]
    text = (saved / "README.md").read_text()
    assert f"| winoground mini | group | {result.group.percent:.1f} | {result.group.low:.1f} to " in text
    assert "No results were given" not in text


@pytest.mark.parametrize("options", [{}, {"soft_prompt": False}], ids=str)
def test_the_cards_lines_for_peft_alone_give_the_kits_embeddings(options, pictures, tmp_path):
    embedder = vk.attach(tiny_lvlm(), quiet=True, **options)
    randomize_lora(embedder)
    torch.manual_seed(2)
    for name, weight in embedder.lvlm.model.named_parameters():
        if "soft_prompt" in name:
            weight.data += 0.3 * torch.randn_like(weight)
    saved = embedder.save_pretrained(tmp_path / "my-adapter")
    tiny_lvlm().model.save_pretrained(tmp_path / "base")
    pictures[0].save(tmp_path / "photo.png")
    _, code = re.findall(r"```python\n(.*?)```", (saved / "README.md").read_text(), re.DOTALL)
    for written, here in (
        ('snapshot_download("my-adapter")', repr(str(saved))),
        ('from_pretrained("tiny", ', f"from_pretrained({str(tmp_path / 'base')!r}, "),
        ("photo.jpg", str(tmp_path / "photo.png")),
    ):
        assert written in code
        code = code.replace(written, here)
    names = {}
    exec(code, names)
    assert torch.allclose(names["image_embedding"], embedder.encode_image(pictures[:1]), atol=1e-5)
    assert torch.allclose(names["text_embedding"], embedder.encode_text(["a dog"]), atol=1e-5)
    with embedder.base():
        assert not torch.allclose(names["text_embedding"], embedder.encode_text(["a dog"]), atol=1e-3)


def test_the_license_is_the_projects_apache_text_and_others_are_named():
    assert license_text("apache-2.0") == (ROOT / "LICENSE").read_text()
    assert "licensed under cc-by-4.0" in license_text("cc-by-4.0")

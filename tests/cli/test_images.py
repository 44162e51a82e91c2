"""`vladva embed`, `search` and `caption` with the shipped models."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app
from vladva_kit.data.images import ImageRecord
from vladva_kit.embedder.adapter import SHIPPED_ADAPTER, WEIGHTS_FILE
from vladva_kit.emoji_world.scenes import Scene
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.models.load import SHIPPED
from vladva_kit.search import index as embedding_index
from vladva_kit.search.shards import blocks, embed_images_to_shards, search

pytestmark = pytest.mark.usefixtures("one_thread")

N = 6


@pytest.fixture
def folder(tmp_path, pictures, scenes):
    """Images of known scenes, without captions."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = []
    for number, (image, scene) in enumerate(zip(pictures[:N], scenes[:N], strict=True)):
        image.save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "scene": scene.as_dict()}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def run(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_caption_writes_captions_and_reports_how_many_are_true(folder, tmp_path):
    out = tmp_path / "captioned"
    output = run("caption", folder, "--out", out)
    n_true, n_scored = map(int, re.search(r"true of their scene: (\d+) of (\d+)", output).groups())
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    captioned = [row for row in rows if "short" in row]
    assert n_scored == len(captioned) > 0
    assert n_true == sum(is_true(row["short"], Scene.from_dict(row["scene"])) for row in captioned) > 0
    assert all(row["captioned_by"] == "emoji-llava" and row["synthetic"] for row in rows)
    before = (out / "metadata.jsonl").read_bytes()
    run("caption", folder, "--out", out)  # nothing is left to caption
    assert (out / "metadata.jsonl").read_bytes() == before


def test_search_finds_what_two_ranks_embedded(folder, tmp_path, monkeypatch):
    out = tmp_path / "embeddings"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, message in (("1", "rank 1 of 2 is done"), ("0", "all shards are complete")):
        monkeypatch.setenv("RANK", rank)
        assert message in run("embed", folder, "--out", out, "--shard-size", "2")
    embedder = vk.Embedder.from_pretrained("emoji-llava-vladva")
    expected = embedder.encode_image([folder / f"{number}.png" for number in range(N)])
    assert torch.allclose(torch.cat([block for _, _, block in blocks(out)]), expected, atol=1e-5)
    lines = run("search", out, "a dog", "--k", "3").splitlines()  # includes standard error
    names = [line.split()[1] for line in lines if line.startswith("  ")]
    order = embedder.similarity(expected, embedder.encode_text(["a dog"]))[:, 0].argsort(descending=True)
    assert names == [f"{number}.png" for number in order[:3].tolist()]


def test_search_reranks_the_nearest_images_by_likelihood(folder, tmp_path):
    out = tmp_path / "embeddings"
    run("embed", folder, "--out", out)
    lines = run("search", out, "a dog", "--rerank", "4", "--k", "3", "--images", folder).splitlines()
    found = [line.split() for line in lines if line.startswith("  ")]
    names = [line.split()[1] for line in run("search", out, "a dog", "--k", "4").splitlines() if line.startswith("  ")]
    scores = vk.likelihood(vk.load_lvlm("emoji-llava"), [folder / name for name in names], ["a dog"])[:, 0].tolist()
    expected = sorted(zip(scores, names, strict=True), reverse=True)[:3]
    assert found == [[f"{score:.3f}", name] for score, name in expected]
    for arguments, message in (((), "add --images SOURCE"), (("--images", str(tmp_path)), "are not the images in")):
        result = CliRunner().invoke(app, ["search", str(out), "a dog", "--rerank", "4", *arguments])
        assert result.exit_code == 2 and message in " ".join(result.output.replace("│", " ").split())


def test_search_is_exact_and_suggests_an_index_above_a_size(tmp_path, monkeypatch):
    class TextEncoder:
        def encode_text(self, texts):
            return torch.eye(3)[: len(texts)]

    images = [ImageRecord(f"{row}.png", Image.new("RGB", (row + 1, 1))) for row in range(20)]
    vectors = torch.nn.functional.normalize(torch.rand(20, 3, generator=torch.Generator().manual_seed(0)))
    encode = lambda images: vectors[[image.width - 1 for image in images]]  # noqa: E731
    embed_images_to_shards(images, encode, tmp_path / "out", model="known")
    monkeypatch.setattr("vladva_kit.cli.images.load_embedder", lambda name: TextEncoder())
    result = CliRunner().invoke(app, ["search", str(tmp_path / "out"), "a dog", "--k", "2"])
    expected = search(tmp_path / "out", torch.eye(3)[:1], 2)[0]
    assert [line.split()[1] for line in result.stdout.splitlines()[1:]] == [name for _, name in expected]
    assert "vladva index" not in result.output
    monkeypatch.setattr(embedding_index, "MAX_EXACT_ROWS", 19)
    result = CliRunner().invoke(app, ["search", str(tmp_path / "out"), "a dog"])
    assert "20 embeddings; build an index with `vladva index`" in result.stderr


def test_an_adapter_trained_further_in_the_same_folder_is_refused_by_search_and_embed(folder, tmp_path):
    adapter, out = shutil.copytree(SHIPPED / SHIPPED_ADAPTER, tmp_path / "adapter"), tmp_path / "embeddings"
    embed = ["embed", str(folder), "--out", str(out), "--model", str(adapter), "--shard-size", "2"]
    search_dog = ["search", str(out), "a dog", "--k", "1"]
    run(*embed)
    assert "versions" not in (output := run(*search_dog)) and "records" not in output  # no warning
    weights = load_file(adapter / WEIGHTS_FILE)
    save_file({name: 1.5 * weight for name, weight in weights.items()}, adapter / WEIGHTS_FILE)
    for command in (search_dog, embed):
        result = CliRunner().invoke(app, command)
        message = str(result.exception)
        assert result.exit_code != 0 and re.search(r"adapter: [0-9a-f]{12} in the folder, [0-9a-f]{12} now", message)
        assert "another" in message and message.count("\n") == 0
        if command is search_dog:
            (out / "shard-000002.safetensors").unlink()  # embed must not fill the gap with other embeddings
    assert not (out / "shard-000002.safetensors").exists()

"""`vladva embed`, `search` and `caption` from the command line, with the shipped models."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app
from vladva_kit.emoji_world.scenes import Scene
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.search.shards import blocks

N = 6


@pytest.fixture
def folder(tmp_path, pictures, scenes):
    """Pictures of known scenes, without a caption."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for number, (picture, scene) in enumerate(zip(pictures[:N], scenes[:N], strict=True)):
        picture.save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "scene": scene.as_dict()}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def ran(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_emoji_llava_captions_by_default_and_the_share_that_is_true_is_said(folder, tmp_path):
    out = tmp_path / "captioned"
    said = ran("caption", folder, "--out", out)
    true, judged = map(int, re.search(r"true of their scene: (\d+) of (\d+)", said).groups())
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    shorts = [row for row in rows if "short" in row]
    assert judged == len(shorts) > 0
    assert true == sum(is_true(row["short"], Scene.from_dict(row["scene"])) for row in shorts) > 0
    assert all(row["captioned_by"] == "emoji-llava" and row["synthetic"] for row in rows)
    before = (out / "metadata.jsonl").read_bytes()
    ran("caption", folder, "--out", out)  # nothing is left to be asked
    assert (out / "metadata.jsonl").read_bytes() == before


def test_two_ranks_embed_what_search_then_finds(folder, tmp_path, monkeypatch):
    out = tmp_path / "embeddings"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("1", "rank 1 of 2 is done"), ("0", "all shards are there")):
        monkeypatch.setenv("RANK", rank)
        assert said in ran("embed", folder, "--out", out, "--shard-size", "2")
    embedder = vk.Embedder.from_pretrained("emoji-llava-vladva")
    wanted = embedder.encode_image([folder / f"{number}.png" for number in range(N)])
    assert torch.allclose(torch.cat([block for _, _, block in blocks(out)]), wanted, atol=1e-5)
    said = ran("search", out, "a dog", "--k", "3").splitlines()  # among them what is said on standard error
    found = [line.split()[1] for line in said if line.startswith("  ")]
    order = embedder.similarity(wanted, embedder.encode_text(["a dog"]))[:, 0].argsort(descending=True)
    assert found == [f"{number}.png" for number in order[:3].tolist()]

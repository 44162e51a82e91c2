"""Shards of embeddings: no row lost or doubled, whatever interrupts; exact search in blocks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from vladva_kit.data.images import ImageRecord, list_images
from vladva_kit.models.images import BadInput
from vladva_kit.search.shards import (
    blocks,
    clear_leftovers,
    embed_images_to_shards,
    read_manifest,
    read_names,
    search,
    shard_path,
    shards_of,
)

ROOT = Path(__file__).resolve().parents[2]


def by_color(images):
    """An encoder without a model: a unit vector of a picture's mean color and its second powers."""
    rows = torch.stack([torch.tensor(image.resize((1, 1)).getpixel((0, 0))).float() + 1 for image in images])
    return F.normalize(torch.cat([rows, rows**2 / 100], dim=1), dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(23):
        place = folder / ("deep" if number % 2 else "")
        place.mkdir(exist_ok=True)
        color = (number * 11 % 256, number * 29 % 256, number * 71 % 256)
        Image.new("RGB", (8, 8), color).save(place / f"{number:02}.png")
    return folder


def all_rows(out) -> tuple[list[str], torch.Tensor]:
    names = [name for number in range(shards_of(read_manifest(out))) for name in read_names(shard_path(out, number))]
    return names, torch.cat([block for _, _, block in blocks(out)])


def test_every_picture_has_its_embedding_once_and_in_order(folder, tmp_path):
    pictures = list_images(folder)
    embed_images_to_shards(pictures, by_color, tmp_path, model="color", shard_size=5, batch_size=2)
    names, rows = all_rows(tmp_path)
    assert names == [picture.name for picture in pictures] and len(set(names)) == 23
    opened = [Image.open(folder / name) for name in names]
    assert torch.allclose(rows, by_color(opened))


def test_ranks_share_the_shards_and_the_whole_is_the_same(folder, tmp_path):
    pictures = list_images(folder)
    embed_images_to_shards(pictures, by_color, tmp_path / "one", model="color", shard_size=4)
    for rank in (1, 0, 2):
        embed_images_to_shards(pictures, by_color, tmp_path / "three", model="color", shard_size=4, rank=rank, ranks=3)
    one, three = all_rows(tmp_path / "one"), all_rows(tmp_path / "three")
    assert one[0] == three[0] and torch.equal(one[1], three[1])


def test_half_precision_is_half_the_size(folder, tmp_path):
    for dtype in ("float32", "float16"):
        embed_images_to_shards(list_images(folder), by_color, tmp_path / dtype, model="color", dtype=dtype)
    halved, whole = all_rows(tmp_path / "float16")[1], all_rows(tmp_path / "float32")[1]
    assert torch.allclose(halved, whole, atol=1e-3) and not torch.equal(halved, whole)


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from test_embedding_shards import by_color
from vladva_kit.search.shards import embed_images_to_shards
from vladva_kit.data.images import list_images

def slowly(images):
    time.sleep(0.2)
    return by_color(images)

embed_images_to_shards(list_images(sys.argv[1]), slowly, sys.argv[2], model="color", shard_size=4, batch_size=4)
"""


def test_after_kill_9_the_same_command_ends_with_every_row_once(folder, tmp_path):
    script = SLOW.format(tests=str(ROOT / "tests"))
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(out)], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    give_up = time.monotonic() + 300
    while not shard_path(out, 1).exists() and time.monotonic() < give_up and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = sorted(out.glob("shard-*.safetensors"))
    assert 2 <= len(there) < 6  # killed in the middle
    (out / ".shard-000005.safetensors.99.part").write_bytes(b"half a shard")  # what a kill inside a write leaves
    before = {path: path.stat().st_mtime_ns for path in there}
    with pytest.raises(ValueError, match="lacks .* of 6 shards"):
        search(out, torch.zeros(1, 6))
    assert not clear_leftovers(out)
    pictures = list_images(folder)
    embed_images_to_shards(pictures, by_color, out, model="color", shard_size=4, batch_size=4)
    assert clear_leftovers(out) and not list(out.glob(".*.part"))
    assert {path: path.stat().st_mtime_ns for path in there} == before  # done work is not done again
    names, rows = all_rows(out)
    assert names == [picture.name for picture in pictures]
    embed_images_to_shards(pictures, by_color, tmp_path / "whole", model="color", shard_size=4, batch_size=4)
    assert torch.equal(rows, all_rows(tmp_path / "whole")[1])


def test_search_is_exact_whatever_the_block(folder, tmp_path):
    embed_images_to_shards(list_images(folder), by_color, tmp_path, model="color", shard_size=6)
    names, rows = all_rows(tmp_path)
    queries = F.normalize(torch.rand(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    wanted = (queries @ rows.T).topk(7, dim=1)
    for block in (2, 5, 1000):
        found = search(tmp_path, queries, k=7, rows=block)
        for query in range(4):
            assert [name for _, name in found[query]] == [names[row] for row in wanted.indices[query].tolist()]
            assert [score for score, _ in found[query]] == pytest.approx(wanted.values[query].tolist(), abs=1e-6)


def test_more_is_asked_for_than_there_is(folder, tmp_path):
    embed_images_to_shards(list_images(folder), by_color, tmp_path, model="color")
    assert len(search(tmp_path, torch.ones(1, 6) / 6**0.5, k=50)[0]) == 23


def test_a_query_of_another_dim_is_refused(folder, tmp_path):
    embed_images_to_shards(list_images(folder), by_color, tmp_path, model="color")
    with pytest.raises(ValueError, match="dim 3 do not fit embeddings of dim 6"):
        search(tmp_path, torch.ones(1, 3))


def test_another_source_or_model_does_not_mix_in(folder, tmp_path):
    pictures = list_images(folder)
    embed_images_to_shards(pictures, by_color, tmp_path, model="color")
    with pytest.raises(ValueError, match="rows: 23 there, 22 here"):
        embed_images_to_shards(pictures[:-1], by_color, tmp_path, model="color")
    with pytest.raises(ValueError, match="model: color there, other here"):
        embed_images_to_shards(pictures, by_color, tmp_path, model="other")


def test_a_picture_that_cannot_be_read_is_named_and_good_work_stays(folder, tmp_path):
    pictures = list(list_images(folder))
    pictures[9] = ImageRecord("broken.png", b"no picture")
    with pytest.raises(BadInput, match="broken.png cannot be read"):
        embed_images_to_shards(pictures, by_color, tmp_path, model="color", shard_size=4)
    assert shard_path(tmp_path, 1).exists() and not shard_path(tmp_path, 2).exists()
    with pytest.warns(UserWarning, match="broken.png"):
        embed_images_to_shards(pictures, by_color, tmp_path, model="color", shard_size=4, on_error="skip")
    names, rows = all_rows(tmp_path)
    assert len(names) == len(rows) == 22 and "broken.png" not in names
    assert read_names(shard_path(tmp_path, 2), "skipped") == ["broken.png"]

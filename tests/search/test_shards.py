"""Shards of embeddings: every row once after any interruption, and exact search in blocks."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_embedder
from torch.nn import functional as F

from vladva_kit.data.images import ImageRecord, list_images
from vladva_kit.data.store import Store
from vladva_kit.embedder.identity import identity_of
from vladva_kit.models.images import BadInput
from vladva_kit.search import shards
from vladva_kit.search.shards import blocks, check_model, embed_images_to_shards, open_shards, search

ROOT = Path(__file__).resolve().parents[2]


def by_color(images):
    """Encode images without a model: unit vectors of the mean color and its squares."""
    rows = torch.stack([torch.tensor(image.resize((1, 1)).getpixel((0, 0))).float() + 1 for image in images])
    return F.normalize(torch.cat([rows, rows**2 / 100], dim=1), dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(23):
        subfolder = folder / ("deep" if number % 2 else "")
        subfolder.mkdir(exist_ok=True)
        color = (number * 11 % 256, number * 29 % 256, number * 71 % 256)
        Image.new("RGB", (8, 8), color).save(subfolder / f"{number:02}.png")
    return folder


def embed(images, out, **options):
    return embed_images_to_shards(images, by_color, out, model="color", **options)


def all_rows(out) -> tuple[list[str], torch.Tensor]:
    store, shards = open_shards(out)
    names = [name for shard in range(shards) for name in store.read_json(shard, "names")]
    return names, torch.cat([block for _, _, block in blocks(out)])


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_has_one_embedding_in_order(folder, tmp_path, workers):
    images, sizes = list_images(folder), []
    assert embed(images, tmp_path, shard_size=5, batch_size=2, workers=workers, progress=sizes.append)
    names, rows = all_rows(tmp_path)
    assert names == [image.name for image in images] and len(set(names)) == 23 and sizes == [5, 5, 5, 5, 3]
    assert torch.allclose(rows, by_color([Image.open(folder / name) for name in names]))


def test_the_file_format_is_stable(folder, tmp_path):
    """A folder written byte by byte in the documented format is searched, and completed rather than refused."""
    images = list_images(folder)[:3]
    source = hashlib.sha256("\n".join(image.name for image in images).encode()).hexdigest()[:16]
    manifest = {"model": "color", "source": source, "rows": 3, "shard_size": 2, "dtype": "float32", "version": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    vectors = torch.eye(6)[:2]
    texts = {"names": '["x.png", "y.png"]', "skipped": "[]"}
    encoded = {key: torch.tensor(list(text.encode()), dtype=torch.uint8) for key, text in texts.items()}
    save_file({"embeddings": vectors, **encoded}, tmp_path / "shard-000000.safetensors")
    assert embed(images, tmp_path, shard_size=2)
    assert search(tmp_path, vectors, k=1) == [[(1.0, "x.png")], [(1.0, "y.png")]]
    content = load_file(tmp_path / "shard-000001.safetensors")
    assert set(content) == {"embeddings", "names", "skipped", "keys", "stamps", "digest"}
    assert content["embeddings"].shape == (1, 6)
    values = {name: json.loads(bytes(content[name].tolist())) for name in ("names", "keys", "stamps", "digest")}
    status = images[2].image.stat()
    assert values == {
        "names": [images[2].name],
        "keys": [hashlib.sha256(images[2].image.read_bytes()).hexdigest()],
        "stamps": [[status.st_mtime_ns, status.st_size, status.st_ino]],
        "digest": hashlib.sha256(content["embeddings"].numpy().tobytes()).hexdigest(),
    }


def test_an_image_that_is_listed_twice_has_two_rows(folder, tmp_path):
    first = list_images(folder)[0]
    embed([first, first], tmp_path)
    names, rows = all_rows(tmp_path)
    assert names == [first.name] * 2 and torch.equal(rows[0], rows[1])


def test_ranks_share_the_shards(folder, tmp_path):
    images = list_images(folder)
    embed(images, tmp_path / "one", shard_size=4)
    complete = [embed(images, tmp_path / "three", shard_size=4, rank=rank, ranks=3) for rank in (1, 0, 2)]
    assert complete == [False, False, True]
    one, three = all_rows(tmp_path / "one"), all_rows(tmp_path / "three")
    assert one[0] == three[0] and torch.equal(one[1], three[1])


def test_float16_shards_are_close_to_float32(folder, tmp_path):
    for dtype in ("float32", "float16"):
        embed(list_images(folder), tmp_path / dtype, dtype=dtype)
    half, full = all_rows(tmp_path / "float16")[1], all_rows(tmp_path / "float32")[1]
    assert torch.allclose(half, full, atol=1e-3) and not torch.equal(half, full)
    with safe_open(tmp_path / "float16" / "shard-000000.safetensors", framework="pt") as shard:
        assert shard.get_slice("embeddings").get_dtype() == "F16"


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_shards import by_color
from vladva_kit.data.images import list_images
from vladva_kit.search.shards import embed_images_to_shards

def replace_or_die(part, path, replace=os.replace):
    if "shard-000003" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(part, path)

os.replace = replace_or_die
embed_images_to_shards(list_images(sys.argv[1]), by_color, sys.argv[2], model="color", shard_size=4, batch_size=4)
"""


def test_after_kill_9_the_same_command_completes_every_row_once(folder, tmp_path):
    out = tmp_path / "out"
    script = KILLED.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.run([sys.executable, "-c", script, str(folder), str(out)], env=environment)
    assert process.returncode == -signal.SIGKILL
    shards = sorted(out.glob("shard-*.safetensors"))
    assert len(shards) == 3 and len(list(out.glob(".*.part"))) == 1
    before = {path: path.stat().st_mtime_ns for path in shards}
    with pytest.raises(ValueError, match=r"lacks 3 of 6 shards, first shard-000003\.safetensors: .* to resume"):
        search(out, torch.zeros(1, 6))
    images = list_images(folder)
    assert embed(images, out, shard_size=4, batch_size=4)
    assert not list(out.glob(".*.part"))
    assert {path: path.stat().st_mtime_ns for path in shards} == before  # not computed again
    names, rows = all_rows(out)
    assert names == [image.name for image in images]
    embed(images, tmp_path / "uninterrupted", shard_size=4, batch_size=4)
    assert torch.equal(rows, all_rows(tmp_path / "uninterrupted")[1])


def test_search_is_exact_for_any_block_size(folder, tmp_path):
    embed(list_images(folder), tmp_path, shard_size=6)
    names, rows = all_rows(tmp_path)
    queries = F.normalize(torch.rand(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    expected = (queries @ rows.T).topk(7, dim=1)
    for block in (2, 5, 1000):
        found = search(tmp_path, queries, k=7, rows=block)
        for query in range(4):
            assert [name for _, name in found[query]] == [names[row] for row in expected.indices[query].tolist()]
            assert [score for score, _ in found[query]] == pytest.approx(expected.values[query].tolist(), abs=1e-6)


def test_search_returns_all_images_if_k_is_larger(folder, tmp_path):
    embed(list_images(folder), tmp_path)
    assert len(search(tmp_path, torch.ones(1, 6) / 6**0.5, k=50)[0]) == 23


def test_an_embedding_of_nan_ranks_last(folder, tmp_path):
    images = list_images(folder)

    def encode(images):
        vectors = by_color(images)
        vectors[0] = float("nan")
        return vectors

    embed_images_to_shards(images, encode, tmp_path, model="colors", batch_size=len(images))
    query = by_color([Image.open(images[1].image)])
    results = search(tmp_path, query, k=len(images))[0]
    assert results[-1] == (float("-inf"), images[0].name) and results[0][0] == pytest.approx(1)


def test_a_query_of_another_dim_is_refused(folder, tmp_path):
    embed(list_images(folder), tmp_path)
    with pytest.raises(ValueError, match="dim 3 do not fit embeddings of dim 6"):
        search(tmp_path, torch.ones(1, 3))


def test_another_source_or_model_is_refused(folder, tmp_path):
    images = list_images(folder)
    embed(images, tmp_path)
    with pytest.raises(ValueError, match="rows: 23 in the folder, 22 now"):
        embed(images[:-1], tmp_path)
    with pytest.raises(ValueError, match="model: color in the folder, other now"):
        embed_images_to_shards(images, by_color, tmp_path, model="other")


def test_an_unreadable_image_is_named_and_finished_shards_are_kept(folder, tmp_path):
    images = list(list_images(folder))
    images[9] = ImageRecord("broken.png", b"not an image")
    with pytest.raises(BadInput, match="broken.png cannot be read .*--skip-bad"):
        embed(images, tmp_path, shard_size=4)
    store = Store(tmp_path)
    assert 1 in store and 2 not in store
    with pytest.warns(UserWarning, match="skipped: broken.png"):
        embed(images, tmp_path, shard_size=4, on_error="skip")
    names, rows = all_rows(tmp_path)
    assert len(names) == len(rows) == 22 and "broken.png" not in names
    assert store.read_json(2, "skipped") == ["broken.png"]


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy of the images that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "images"))


def test_a_replaced_image_is_named_and_nothing_is_written(own_folder, tmp_path):
    images, out = list_images(own_folder), tmp_path / "out"
    embed(images, out, shard_size=8)
    (out / "shard-000002.safetensors").unlink()
    touched, replaced = images[3].image, images[9]
    os.utime(touched, (1000, 1000))  # another date, but the same image
    key = hashlib.sha256(replaced.image.read_bytes()).hexdigest()
    Image.new("RGB", (8, 8), "white").save(replaced.image)
    with pytest.raises(ValueError) as caught:
        embed(images, out, shard_size=8)
    now = hashlib.sha256(replaced.image.read_bytes()).hexdigest()
    assert str(caught.value).startswith(f"{replaced.name} is not the image that {out / 'shard-000001.safetensors'} was")
    assert f"content {key[:12]} there, {now[:12]} now" in str(caught.value) and 2 not in Store(out)
    (out / "shard-000001.safetensors").unlink()  # the fix that the message names
    assert embed(images, out, shard_size=8)
    names, rows = all_rows(out)
    assert torch.allclose(rows, by_color([Image.open(own_folder / name) for name in names]))


def test_unchanged_files_are_not_read_again(own_folder, tmp_path, monkeypatch):
    images = list_images(own_folder)
    embed(images, tmp_path / "out")
    read_bytes, read = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or read_bytes(path))
    assert embed(images, tmp_path / "out")
    assert not set(read) & {Path(image.name).name for image in images}


def identity(**changes):
    return {"weights": "a" * 64, "adapter": "b" * 64, "max_pixels": None, "versions": {"torch": "2"}, **changes}


def test_shards_of_another_adapter_are_neither_kept_nor_mixed(folder, tmp_path):
    images = list_images(folder)
    embed(images, tmp_path, shard_size=8, identity=identity())
    (tmp_path / "shard-000002.safetensors").unlink()
    for changes, message in (
        ({"adapter": "c" * 64}, "identity.adapter: bbbbbbbbbbbb in the folder, cccccccccccc now"),
        ({"max_pixels": 100}, "identity.max_pixels: None in the folder, 100 now"),
        ({"versions": {"torch": "3"}}, "identity.versions.torch: 2 in the folder, 3 now"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*use another folder or remove this one"):
            embed(images, tmp_path, shard_size=8, identity=identity(**changes))
    with pytest.raises(ValueError, match="identity: recorded in the folder, not given now"):
        embed(images, tmp_path, shard_size=8)
    assert 2 not in Store(tmp_path)
    assert embed(images, tmp_path, shard_size=8, identity=identity())


def test_a_folder_of_an_older_kit_is_not_continued_with_an_identity(folder, tmp_path):
    embed(list_images(folder), tmp_path)
    with pytest.raises(ValueError, match="identity: not recorded in the folder.*use another folder"):
        embed(list_images(folder), tmp_path, identity=identity())
    assert "records its model's name only" in check_model(tmp_path, None)[0]


def test_queries_of_another_adapter_are_refused_and_of_other_versions_warned_about(folder, tmp_path, monkeypatch):
    embedder = tiny_embedder()
    embed(list_images(folder), tmp_path, identity=identity_of(embedder))
    assert check_model(tmp_path, embedder) == []
    with monkeypatch.context() as patch:
        patch.setattr(shards, "identity_of", lambda e: identity_of(e) | {"versions": {"torch": "9.9"}})
        (warning,) = check_model(tmp_path, embedder)
    assert "torch: 2" in warning and "9.9 now" in warning
    randomized = next(p for name, p in embedder.lvlm.model.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        randomized.add_(0.1)
    with pytest.raises(ValueError, match="adapter: [0-9a-f]{12} in the folder, [0-9a-f]{12} now.*embed them again"):
        check_model(tmp_path, embedder)
    with embedder.base(), pytest.raises(ValueError, match="adapter: [0-9a-f]{12} in the folder, None now"):
        check_model(tmp_path, embedder)

"""One store for all resumable results: round trip, interruption, partial files, mismatches."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vladva_kit.data.store import Store, differences, read_manifest, row_ranges

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = {"model": "color", "rows": 10, "sizes": (2, 3)}


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store", MANIFEST)


def test_tensors_and_json_values_are_read_back(store):
    vectors = torch.arange(12.0).reshape(4, 3)
    names = ["a.png", "für.png", "bad \udcff name", {"nested": [1, None]}]  # \udcff: a file name that is not UTF-8
    store.write(7, {"vectors": vectors.T, "half": vectors.half()}, {"names": names})
    tensors = store.read(7)
    assert torch.equal(tensors["vectors"], vectors.T) and tensors["half"].dtype == torch.float16
    assert store.read_json(7, "names") == names
    with store.opened(7) as shard:
        assert torch.equal(shard.get_slice("vectors")[1:2], vectors.T[1:2])


def test_a_shard_is_one_safetensors_file_named_by_number_or_text(store):
    store.write(3, {"x": torch.ones(2)}, {"names": ["a"]})
    store.write("abc", {"x": torch.zeros(1)})
    files = sorted(path.name for path in store.folder.iterdir())
    assert files == ["manifest.json", "shard-000003.safetensors", "shard-abc.safetensors"]
    assert [store.path(name).name for name in (3, "abc")] == files[1:]
    assert store.names() == ["000003", "abc"]
    assert 3 in store and "abc" in store and 4 not in store and "ab" not in store
    assert store.missing(5) == [0, 1, 2, 4]
    content = load_file(store.folder / files[1])
    assert torch.equal(content["x"], torch.ones(2))
    assert json.loads(bytes(content["names"].tolist())) == ["a"]


def test_stores_with_different_prefixes_share_a_folder(store):
    other = Store(store.folder, "features")
    other.write(0, {"x": torch.ones(1)})
    assert 0 in other and 0 not in store and store.names() == [] and other.names() == ["000000"]


def test_the_same_manifest_reopens_a_store_and_another_one_is_refused(store):
    store.write(0, {"x": torch.ones(1)})
    assert 0 in Store.open(store.folder, MANIFEST)
    assert read_manifest(store.folder) == {**MANIFEST, "sizes": [2, 3]}
    with pytest.raises(ValueError) as caught:
        Store.open(store.folder, {**MANIFEST, "rows": 11, "dtype": "float16"})
    message = str(caught.value)
    assert "rows: 10 in the folder, 11 now" in message and "dtype: None in the folder, float16 now" in message
    assert "model" not in message and "use another folder" in message
    assert read_manifest(store.folder)["rows"] == 10


def test_differences_name_nested_values_and_shorten_hashes():
    stored = {"rows": 3, "model": {"adapter": "a" * 64, "versions": {"torch": "2.12"}}, "old": 1}
    now = {"rows": 3, "model": {"adapter": None, "versions": {"torch": "2.13"}}, "identity": {"dtype": "float32"}}
    assert differences(stored, now) == [
        "model.adapter: aaaaaaaaaaaa in the folder, None now",
        "model.versions.torch: 2.12 in the folder, 2.13 now",
        "identity: not recorded in the folder",
        "old: 1 in the folder, None now",
    ]
    assert differences({"identity": {"dtype": "float32"}}, {}) == ["identity: recorded in the folder, not given now"]
    assert differences(stored, stored) == []


def test_shards_without_a_manifest_are_refused(store):
    store.write(0, {"x": torch.ones(1)})
    (store.folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards but no manifest\.json"):
        Store.open(store.folder, MANIFEST)
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        read_manifest(store.folder)


@pytest.mark.parametrize("kept_bytes", [0, 4, 40, -1])
def test_a_truncated_or_missing_shard_is_named_with_the_fix(store, kept_bytes):
    store.write(0, {"x": torch.arange(100.0)})
    content = store.path(0).read_bytes()
    store.path(0).write_bytes(content[:kept_bytes])
    for name in (0, 1):
        with pytest.raises(ValueError, match=f"shard-00000{name}.safetensors is not a complete shard .*delete it"):
            store.read(name)


def test_a_failed_write_keeps_the_previous_shard_and_no_partial_file(store, monkeypatch):
    store.write(0, {"x": torch.ones(1)})

    def fail(*arguments):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            store.write(0, {"x": torch.zeros(1)})
        with pytest.raises(OSError, match="disk full"):
            store.write(1, {"x": torch.zeros(1)})
    assert store.read(0)["x"].tolist() == [1.0] and 1 not in store
    assert len(list(store.folder.iterdir())) == 2


KILLED = """
import os, signal, sys
import torch
from vladva_kit.data.store import Store

store = Store.open(sys.argv[1], {"rows": 6})
replace = os.replace

def replace_or_die(part, path):
    if "000002" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(part, path)

os.replace = replace_or_die
for number in store.missing(6):
    store.write(number, {"x": torch.full((3,), float(number))})
"""


def test_after_kill_9_in_a_write_the_store_holds_complete_shards_only(tmp_path):
    folder = tmp_path / "store"
    process = subprocess.run([sys.executable, "-c", KILLED, folder], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.returncode == -signal.SIGKILL
    assert len(list(folder.glob(".shard-000002*.part"))) == 1
    store = Store.open(folder, {"rows": 6})
    assert store.names() == ["000000", "000001"] and store.missing(6) == [2, 3, 4, 5]
    for number in store.missing(6):
        store.write(number, {"x": torch.full((3,), float(number))})
    store.clear_leftovers()
    assert not list(folder.glob(".*"))
    assert [store.read(number)["x"].tolist() for number in range(6)] == [[float(number)] * 3 for number in range(6)]


@pytest.mark.parametrize(("rows", "size"), [(0, 3), (1, 3), (9, 3), (10, 3), (2, 5)])
def test_row_ranges_cover_every_row_once(rows, size):
    ranges = row_ranges(rows, size)
    assert [row for part in ranges for row in part] == list(range(rows))
    assert all(len(part) == size for part in ranges[:-1]) and all(ranges)

"""Files and folders are written completely or not at all; JSON is standard."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from vladva_kit.models.files import atomic_dir, atomic_write, write_errors, write_json


def test_files_are_written_and_missing_folders_created(tmp_path):
    one, two = tmp_path / "deep" / "one", tmp_path / "two"
    atomic_write({one: b"1", two: b"2"})
    assert (one.read_bytes(), two.read_bytes()) == (b"1", b"2")


def test_if_one_of_two_files_cannot_be_written_both_are_left_unchanged(tmp_path):
    first, second = tmp_path / "first", tmp_path / "blocked" / "second"
    first.write_bytes(b"old")
    (tmp_path / "blocked").write_bytes(b"a file where a folder is needed")
    with pytest.raises(OSError):
        atomic_write({first: b"new", second: b"new"})
    assert first.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["blocked", "first"]


def test_an_interruption_leaves_the_old_file_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text("old")

    def interrupted(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr("vladva_kit.models.files.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"new": 1})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["results.json"]


def test_json_accepts_arrays_tensors_paths_and_dataclasses(tmp_path):
    @dataclass
    class Point:
        x: float

    value = {
        "array": np.arange(4).reshape(2, 2),
        "scalar": np.float32(0.5),
        "float64": np.float64(0.25),
        "truth": np.bool_(True),
        "tensor": torch.tensor([1.0]),
        "path": Path("runs") / "demo",
        "point": Point(2.0),
        "tuple": (1, None, "é"),
        1: "a number as a key",
    }
    assert json.loads(write_json(tmp_path / "value.json", value).read_text(encoding="utf-8")) == {
        "array": [[0, 1], [2, 3]],
        "scalar": 0.5,
        "float64": 0.25,
        "truth": True,
        "tensor": [1.0],
        "path": "runs/demo",
        "point": {"x": 2.0},
        "tuple": [1, None, "é"],
        "1": "a number as a key",
    }


def test_nan_and_infinity_become_null(tmp_path):
    text = write_json(tmp_path / "value.json", {"loss": [float("nan"), np.inf, np.float32("nan"), 1.0]}).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": [None, None, None, 1.0]}


def test_a_type_that_json_lacks_is_rejected_by_name_and_no_file_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"value\['models'\]\[1\] is of type object"):
        write_json(tmp_path / "value.json", {"models": [1, object()]})
    assert not os.listdir(tmp_path)


def test_a_folder_appears_with_all_files_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with atomic_dir(folder) as tmp_dir:
        (tmp_dir / "a").write_text("1")
        (tmp_dir / "deeper").mkdir()
        (tmp_dir / "deeper" / "b").write_text("1")
        assert not folder.exists()
    assert sorted(file.name for file in folder.rglob("*")) == ["a", "b", "deeper"]
    with pytest.raises(KeyboardInterrupt), atomic_dir(folder) as tmp_dir:
        (tmp_dir / "a").write_text("2")
        raise KeyboardInterrupt
    assert (folder / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [folder]


def test_if_one_of_two_files_cannot_be_renamed_the_other_is_put_back(tmp_path):
    first, new, blocked = tmp_path / "first", tmp_path / "new", tmp_path / "blocked"
    first.write_bytes(b"old")
    blocked.mkdir()  # a folder where the file should be
    with pytest.raises(OSError, match="blocked cannot be written .*: free space, or choose a folder"):
        atomic_write({first: b"1", new: b"2", blocked: b"3"})
    assert first.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["blocked", "first"]


def test_the_files_of_a_folder_change_at_one_moment_and_other_files_stay(tmp_path, monkeypatch):
    folder = tmp_path / "adapter"
    (folder / "notes").mkdir(parents=True)
    for name in ("config", "weights", "notes/own"):
        (folder / name).write_text("old")
    replaced = []
    monkeypatch.setattr("vladva_kit.models.files.os.replace", lambda *paths: replaced.append(paths))
    with atomic_dir(folder) as tmp_dir:
        (tmp_dir / "config").write_text("new")
        (tmp_dir / "weights").write_text("new")
    assert {name: (folder / name).read_text() for name in ("config", "weights", "notes/own")} == {
        "config": "new", "weights": "new", "notes/own": "old"
    }  # fmt: skip
    assert not replaced and list(tmp_path.iterdir()) == [folder]  # no file was renamed alone


def test_a_folder_that_cannot_be_exchanged_is_filled_file_by_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a process's current folder must stay where it is
    (tmp_path / "a").write_text("old")
    (tmp_path / "link").symlink_to("a")
    with atomic_dir(tmp_path) as tmp_dir:
        (tmp_dir / "a").write_text("new")
    assert (tmp_path / "link").read_text() == "new" and Path.cwd() == tmp_path


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        PermissionError(13, "Permission denied"),
        RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/0"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_library_s_failure_to_write_is_one_sentence(tmp_path, error):
    (tmp_path / "old").write_text("old")
    expected = rf"{tmp_path} cannot be written \(.*\): free space"
    with pytest.raises(OSError, match=expected) as raised, atomic_dir(tmp_path):
        raise error
    assert "\n" not in str(raised.value) and (tmp_path / "old").read_text() == "old"
    with pytest.raises(RuntimeError, match="shapes differ"), write_errors(tmp_path):
        raise RuntimeError("shapes differ")


def test_json_on_one_line_has_the_same_content(tmp_path):
    value = {"curve": [0.5, 0.25], "name": "LoRA"}
    lines = write_json(tmp_path / "one.json", value, indent=None).read_text().splitlines()
    assert len(lines) == 1 and json.loads(lines[0]) == value

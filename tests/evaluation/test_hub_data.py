"""Datasets of the hub, with fake downloads: no connection is needed."""

import json
import zipfile
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import errors
from PIL import Image

from vladva_kit.data.hub import is_on_hub, open_dataset
from vladva_kit.evaluation import evaluate_winoground, hub_data
from vladva_kit.evaluation.hub_data import winoground_folder
from vladva_kit.models.images import BadInput

RESPONSE = SimpleNamespace(headers={}, request=None, status_code=403, url="")


def raising(error):
    def call(*args, **keywords):
        raise error

    return call


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """facebook/winoground as on the hub: data/examples.jsonl and data/images.zip, downloaded file by file."""
    data = tmp_path / "snapshots" / "abc123" / "data"
    data.mkdir(parents=True)
    rows = []
    with zipfile.ZipFile(data / "images.zip", "w") as archive:
        for case in range(3):
            for place in range(2):
                Image.new("RGB", (3, 3), (case, place, 0)).save(tmp_path / "one.png")
                archive.write(tmp_path / "one.png", f"images/ex_{case}_img_{place}.png")
            images = {f"image_{place}": f"ex_{case}_img_{place}" for place in range(2)}
            captions = {f"caption_{place}": f"case {case} caption {place}" for place in range(2)}
            rows.append({"id": case, **images, **captions, "tag": "Noun", "collapsed_tag": "Object"})
        archive.writestr("../escaped.png", b"no")
    (data / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def download(repo_id, name, repo_type):
        asked.append((repo_id, name, repo_type))
        return str(data.parent / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(hub_data.Path, "home", lambda: tmp_path / "home")
    return asked


def test_winoground_is_downloaded_and_unpacked_once(tmp_path, snapshot, oracle):
    meaning = {f"case {case} caption {place}": (case, place, 0) for case in range(3) for place in range(2)}
    result = evaluate_winoground(oracle(meaning), "facebook/winoground")
    assert (result.n, result.group.percent) == (3, 100)
    assert snapshot[0] == ("facebook/winoground", "data/examples.jsonl", "dataset")
    folder = winoground_folder()
    assert folder.parts[-3:] == ("hub", "facebook--winoground", "abc123")
    assert not list(tmp_path.glob("home/**/../escaped.png")) and not (tmp_path / "escaped.png").exists()
    assert evaluate_winoground(oracle(meaning), folder).data == result.data


@pytest.mark.parametrize(
    "error, advice",
    [
        (errors.GatedRepoError("gated", response=RESPONSE), "is gated: accept its terms at https.*`hf auth login`"),
        (DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."), "is gated: accept its terms"),
        (
            errors.LocalEntryNotFoundError("offline"),
            "unreachable; on a machine .* run `hf download a/b",
        ),
        (errors.OfflineModeIsEnabled("offline"), "unreachable"),
        (ConnectionError("no route"), "unreachable"),
        (errors.RepositoryNotFoundError("404", response=RESPONSE), "not on the hub .*correct the id"),
        (DatasetNotFoundError("Dataset 'a/b' doesn't exist"), "not on the hub"),
        (RuntimeError("Dataset scripts are no longer supported"), "cannot be loaded by datasets .*`hf download a/b"),
    ],
)
def test_errors_of_the_hub_say_what_to_do(monkeypatch, error, advice):
    monkeypatch.setattr(datasets, "load_dataset", raising(error))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", raising(error))
    for call in (lambda: open_dataset("a/b", "test"), lambda: hub_data.hub_file("a/b", ["x.json"])):
        with pytest.raises(BadInput, match=advice) as raised:
            call()
        assert "\n" not in str(raised.value)


def test_an_existing_path_is_not_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "here").mkdir(parents=True)
    assert is_on_hub("facebook/winoground")
    for path in ("data/here", "./facebook/winoground", "../a/b", "winoground", "/a/b", "a/b/c", tmp_path / "a/b"):
        assert not is_on_hub(path), path

"""Pictures of every kind of source, listed without being opened."""

import datasets
import pytest
from PIL import Image

from vladva_kit.data.images import fingerprint, list_images
from vladva_kit.models.images import BadInput, open_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in (2, 0, 1):
        (folder / "deep").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (number, 0, 0)).save(folder / "deep" / f"{number}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def first_pixels(pictures):
    return [open_image(picture.image).getpixel((0, 0))[0] for picture in pictures]


def test_a_folders_pictures_come_sorted_at_any_depth(folder):
    pictures = list_images(folder)
    assert [picture.name for picture in pictures] == ["deep/0.png", "deep/1.png", "deep/2.png"]
    assert first_pixels(pictures) == [0, 1, 2]


def test_an_imagefolders_pictures_come_in_its_order_with_their_record(folder, tmp_path):
    Image.new("RGB", (2, 2), (7, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "short": "a dog"}\n')
    (picture,) = list_images(tmp_path)
    assert picture.name == "a.png" and picture.record["short"] == "a dog"
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "../a.png"}\n')
    with pytest.raises(BadInput, match="leaves the folder"):
        list_images(tmp_path)


@pytest.mark.parametrize("kind", ["dataset", "saved", "parquet"])
def test_a_datasets_rows_are_pictures(kind, folder, tmp_path):
    rows = {"photo": [str(folder / "deep" / f"{n}.png") for n in range(3)], "short": ["x", "y", "z"]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("photo", datasets.Image())
    if kind == "saved":
        dataset.save_to_disk(tmp_path / "saved")
    if kind == "parquet":
        dataset.to_parquet(tmp_path / "rows.parquet")
    source = {"dataset": dataset, "saved": tmp_path / "saved", "parquet": tmp_path}[kind]
    pictures = list_images(source)
    assert len(pictures) == 3 and first_pixels(pictures) == [0, 1, 2]
    assert [picture.record["short"] for picture in pictures] == ["x", "y", "z"]
    assert "photo" not in pictures[0].record


def test_a_source_without_pictures_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no pictures"):
        list_images(tmp_path)
    with pytest.raises(BadInput, match="neither a folder nor a hub id"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="no column of images"):
        list_images(datasets.Dataset.from_dict({"short": ["a"]}))


def test_another_set_or_order_has_another_fingerprint(folder):
    pictures = list_images(folder)
    assert fingerprint(pictures) == fingerprint(list_images(folder))
    assert len({fingerprint(pictures), fingerprint(pictures[:2]), fingerprint(pictures[::-1])}) == 3

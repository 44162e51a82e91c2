"""Images of every kind of source are listed without being decoded."""

import datasets
import pytest
from PIL import Image

from vladva_kit.data.images import list_images, source_fingerprint
from vladva_kit.models.images import BadInput, open_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in (2, 0, 1):
        (folder / "deep").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (number, 0, 0)).save(folder / "deep" / f"{number}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def first_pixels(images):
    return [open_image(image.image).getpixel((0, 0))[0] for image in images]


def test_images_of_a_folder_are_sorted_at_any_depth(folder):
    images = list_images(folder)
    assert [image.name for image in images] == ["deep/0.png", "deep/1.png", "deep/2.png"]
    assert first_pixels(images) == [0, 1, 2]


def test_images_of_an_imagefolder_come_in_its_order_with_metadata(tmp_path):
    for name in "ab":
        Image.new("RGB", (2, 2), (7, 0, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png"}\n{"file_name": "a.png", "short": "a dog"}\n')
    images = list_images(tmp_path)
    assert [image.name for image in images] == ["b.png", "a.png"] and images[1].metadata["short"] == "a dog"
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "../a.png"}\n')
    with pytest.raises(BadInput, match="leaves the folder"):
        list_images(tmp_path)


@pytest.mark.parametrize("kind", ["dataset", "saved", "parquet"])
def test_rows_of_a_dataset_are_images(kind, folder, tmp_path):
    rows = {"photo": [str(folder / "deep" / f"{n}.png") for n in range(3)], "short": ["x", "y", "z"]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("photo", datasets.Image())
    if kind == "saved":
        dataset.save_to_disk(tmp_path / "saved")
    if kind == "parquet":
        dataset.to_parquet(tmp_path / "rows.parquet")
    source = {"dataset": dataset, "saved": tmp_path / "saved", "parquet": tmp_path}[kind]
    images = list_images(source)
    assert len(images) == 3 and first_pixels(images) == [0, 1, 2]
    assert [image.metadata["short"] for image in images] == ["x", "y", "z"]
    assert "photo" not in images[0].metadata


def test_a_source_without_images_is_refused(tmp_path):
    with pytest.raises(BadInput, match="holds no images"):
        list_images(tmp_path)
    with pytest.raises(BadInput, match="neither a folder nor a hub id"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="no image column"):
        list_images(datasets.Dataset.from_dict({"short": ["a"]}))


def test_other_images_or_another_order_have_another_fingerprint(folder):
    images = list_images(folder)
    assert source_fingerprint(images) == source_fingerprint(list_images(folder))
    assert len({source_fingerprint(images), source_fingerprint(images[:2]), source_fingerprint(images[::-1])}) == 3
    rows = {"image": [{"bytes": image.image.read_bytes(), "path": None} for image in images]}
    dataset = datasets.Dataset.from_dict(rows, datasets.Features({"image": datasets.Image()}))
    others = [dataset, dataset.select([0, 1]), dataset.select([2, 1, 0])]
    assert len({source_fingerprint(list_images(other)) for other in others}) == 3

"""Images of every kind of source are listed without being decoded."""

import io
import json
import shutil
import tarfile

import datasets
import pandas as pd
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
    images = shutil.copytree(folder / "deep", tmp_path / "images")
    rows = {"photo": [str(images / f"{n}.png") for n in range(3)], "short": ["x", "y", "z"]}
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


def test_hidden_files_and_those_of_macos_are_left_out(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "dog.jpg")
    for name in (".ipynb_checkpoints/dog-checkpoint.jpg", "__MACOSX/dog.jpg", "@eaDir/dog.jpg", "a/.b/c/dog.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "dog.jpg", tmp_path / name)
    (tmp_path / "._dog.jpg").write_bytes(b"\0\5\x16\7" + bytes(60))
    assert [image.name for image in list_images(tmp_path)] == ["dog.jpg"]


def test_a_source_inside_a_hidden_folder_is_listed(tmp_path):
    (tmp_path / ".cache").mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / ".cache" / "dog.jpg")
    assert len(list_images(tmp_path / ".cache")) == 1


def test_other_suffixes_of_image_files_are_listed_and_unreadable_formats_are_named(tmp_path):
    image = Image.new("RGB", (16, 16), "red")
    for name, format in (
        ("a.jfif", "JPEG"),
        ("b.avif", "AVIF"),
        ("c.jpe", "JPEG"),
        ("d.PPM", "PPM"),
        ("e.JPG", "JPEG"),
    ):
        image.save(tmp_path / name, format)
    (tmp_path / "phone.heic").write_bytes(b"heic")
    with pytest.warns(UserWarning, match="1 files such as phone.heic are left out: convert them"):
        images = list_images(tmp_path)
    assert [image.name for image in images] == ["a.jfif", "b.avif", "c.jpe", "d.PPM", "e.JPG"]
    assert all(pixel > 250 for pixel in first_pixels(images))


def encoded(number, format):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number * 20, 0, 0)).save(buffer, format)
    return buffer.getvalue()


def write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def test_tar_files_may_mix_formats_and_hold_hidden_files(tmp_path):
    files = {"./._0.png": b"\0\5", "./0.png": encoded(0, "PNG"), "./0.json": json.dumps({"short": "a dog"}).encode()}
    files |= {
        "sub/1.JPEG": encoded(1, "JPEG"),
        "sub/1.txt": b"a cat",
        "__MACOSX/1.jpg": b"",
        "2.webp": encoded(2, "WEBP"),
    }
    write_tar(tmp_path / "0.tar", files)
    files = {"3.seg.png": encoded(9, "PNG"), "3.jpg": encoded(3, "JPEG"), "4.txt": b"no image"}
    write_tar(tmp_path / "1.tar", files)
    (tmp_path / "._0.tar").write_bytes(b"\0\5\x16\7")
    images = list_images(tmp_path)
    assert len(images) == 5 and images[4].image is None
    assert [round(pixel / 20) for pixel in first_pixels(images[row] for row in range(4))] == [0, 1, 2, 3]
    assert [images[row].metadata.get("short") for row in range(3)] == ["a dog", "a cat", None]
    assert images[1].metadata["__key__"] == "sub/1" and images[1].name == "000000001"


def test_a_damaged_tar_file_is_named(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(BadInput, match="0.tar is not a complete, uncompressed tar file"):
        list_images(tmp_path)


@pytest.mark.parametrize("column", ["image", "jpg", "PNG"])
def test_parquet_files_may_hold_images_as_plain_bytes(tmp_path, column):
    content = [encoded(number, "PNG") for number in range(3)]
    pd.DataFrame({column: content, "short": list("abc")}).to_parquet(tmp_path / "0.parquet")
    images = list_images(tmp_path)
    assert first_pixels(images) == [0, 20, 40] and images[1].metadata == {"short": "b"}


def test_only_the_files_of_the_split_are_read_from_a_hub_snapshot(tmp_path):
    (tmp_path / "data").mkdir()
    for split, numbers in (("train", (0, 1)), ("test", (2,))):
        frame = pd.DataFrame({"image": [encoded(number, "PNG") for number in numbers]})
        frame.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert first_pixels(list_images(tmp_path, "train")) == [0, 20]
    assert first_pixels(list_images(tmp_path, "test")) == [40]


@pytest.mark.parametrize(
    "folders, listed",
    [
        (("car", "plane", "train"), ["car/0.png", "plane/0.png", "train/0.png"]),  # classes, of which one is "train"
        (("train", "val", ".cache"), ["0.png"]),
        (("train",), ["0.png"]),
    ],
)
def test_a_class_named_train_is_no_split(tmp_path, folders, listed):
    for folder in folders:
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "0.png")
    assert [image.name for image in list_images(tmp_path)] == listed

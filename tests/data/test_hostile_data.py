"""Hostile data is refused by name, or skipped, and never hangs, leaves its folder or acts on a terminal."""

import io
import json
import os
import tarfile
import time
import tracemalloc
import warnings

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from tiny import small, tiny_embedder

import vladva_kit as vk
from vladva_kit.data.captioning import caption_images
from vladva_kit.data.images import list_images
from vladva_kit.data.store import Store, row_ranges
from vladva_kit.data.validation import path_inside
from vladva_kit.models.files import printable
from vladva_kit.models.images import BadInput, WrongType
from vladva_kit.search.shards import embed_images_to_shards, search

RED = "\x1b[31mred\x07\u202egnp.exe"


def encode(images):
    return torch.nn.functional.normalize(torch.ones(len(images), 3), dim=-1)


def png(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_metadata(folder, *lines):
    (folder / "a.png").write_bytes(png())
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps({"short": "a dog", **line}) for line in lines))


def test_a_name_too_long_for_a_file_is_a_missing_image(tmp_path):
    write_metadata(tmp_path, {"file_name": "a.png"}, {"file_name": "b" * 300 + ".png"})
    with pytest.warns(UserWarning, match="bbb.* is not a valid path"):
        assert len(vk.load_pairs(tmp_path, on_error="skip")) == 1
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="skipped: bbb"):
        assert embed_images_to_shards(list_images(tmp_path), encode, out, model="m", on_error="skip")
    assert Store(out).read_json(0, "names") == ["a.png"]


@pytest.mark.parametrize("name", ["p.png", "p.tar", "p.parquet", "metadata.jsonl"])
def test_a_pipe_in_place_of_a_file_is_never_waited_for(tmp_path, name):
    (tmp_path / "a.png").write_bytes(png())
    os.mkfifo(tmp_path / name)
    assert [image.name for image in list_images(tmp_path)] == ["a.png"]
    if name == "p.png":
        write_metadata(tmp_path, {"file_name": "p.png"})
        with pytest.raises(BadInput, match="does not exist|not a regular file"):
            vk.load_pairs(tmp_path)
        with pytest.raises(BadInput, match="not a regular file"):
            caption_images(tiny_embedder(), [list_images(tmp_path)[0]], tmp_path / "out")


def test_a_repeated_key_is_reported(tmp_path):
    write_metadata(tmp_path, {"file_name": "a.png"})
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "short": "x", "short": "y"}')
    for read in (vk.load_pairs, list_images):
        with pytest.raises(BadInput, match="line 1: short occurs twice"):
            read(tmp_path)


def test_a_name_is_shown_without_control_characters(tmp_path, capsys):
    write_metadata(tmp_path, {"file_name": f"{RED}.png"})
    with pytest.raises(BadInput) as error:
        vk.load_pairs(tmp_path)
    assert r"\x1b[31mred\x07\u202egnp.exe.png" in str(error.value) and str(error.value).isprintable()
    assert printable("tab\t, line\n, ünïcode 🐶") == "tab\t, line\n, ünïcode 🐶"


def parquet(folder, path):
    folder.mkdir(exist_ok=True)
    image = [{"bytes": None, "path": path}]
    pyarrow.parquet.write_table(pyarrow.table({"image": image, "short": ["a dog"]}), folder / "train.parquet")
    return folder


@pytest.mark.parametrize("path", ["{0}/secret.png", "../secret.png", "file://{0}/secret.png", "http://127.0.0.1/a.png",
                                  "zip://a.png::{0}/secret.zip", "link/secret.png"])  # fmt: skip
def test_a_dataset_cannot_name_images_outside_its_folder(tmp_path, path):
    (tmp_path / "secret.png").write_bytes(png())
    folder = parquet(tmp_path / "data", path.format(tmp_path))
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="which is not in .*: copy the image there, or store its bytes"):
        list_images(folder)[0]
    with pytest.raises(BadInput, match="which is not in"):
        next(iter(vk.stream_pairs(folder)))


def test_a_dataset_may_name_images_of_its_folder_and_one_in_memory_any(tmp_path):
    folder = parquet(tmp_path / "data", "a.png")
    (folder / "a.png").write_bytes(png())
    assert list_images(folder)[0].image == folder / "a.png"
    (tmp_path / "b.png").write_bytes(png())
    own = datasets.Dataset.from_dict({"image": [str(tmp_path / "b.png")], "short": ["x"]})
    assert len(vk.load_pairs(own.cast_column("image", datasets.Image()))) == 1


@pytest.mark.parametrize("name", ["../a.png", "link/../../a.png", "/etc/a.png", "link/a.png/../../../b.png"])
def test_a_name_that_would_leave_another_folder_is_refused_too(tmp_path, name):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")  # link/../../a.png is inside here, not where it is copied
    known = set()
    for _ in range(2):  # a folder that was checked before stays checked
        with pytest.raises(BadInput, match="leaves the folder"):
            path_inside(tmp_path, name, "here", known=known)
        assert path_inside(tmp_path, "deep/a.png", "here", known=known) == tmp_path / "deep" / "a.png"


def test_a_link_to_a_file_outside_is_refused_in_a_known_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    known = {folder}
    with pytest.raises(BadInput, match="leaves the folder"):
        path_inside(folder, "a.png", "here", known=known)


def tar_of(path, images):
    with tarfile.open(path, "w") as tar:
        for number, image in enumerate(images):
            for name, content in ((f"{number}.png", image), (f"{number}.txt", f"a dog {number}".encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def test_a_stream_leaves_out_batches_of_broken_images_only(tmp_path):
    tar_of(tmp_path / "0.tar", [b"broken"] * 5 + [png((n, 0, 0)) for n in range(3)])
    stream = vk.stream_pairs(tmp_path, on_error="skip", window=8, group_by_length=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = vk.fit(tiny_embedder(), stream, small(batch_size=2, steps=6), progress=False)
    assert len(history) == 6


def test_a_stream_without_any_readable_image_ends_with_a_sentence(tmp_path):
    tar_of(tmp_path / "0.tar", [b"broken"] * 4)
    stream = vk.stream_pairs(tmp_path, on_error="skip", window=8)
    stream.batch_size = 2
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(BadInput, match="100 batches in a row have no image that can be read"),
    ):
        next(iter(stream))


@pytest.mark.parametrize(
    ("rows", "size", "message"),
    [
        (10**15, 10, r"1,000,000,000,000,000 rows .* are 100,000,000,000,000 files"),
        (10**6, 10, "lacks 99999 of 100000 shards"),
        (-1, 10, "rows is -1"),
        ("4", 10, "rows is '4'"),
        (4, 0, "shard_size is 0"),
        (None, 10, "rows is None"),
        (3, 10, "holds 4 rows and the manifest names 3"),
        (0, 10, "shard-000000.safetensors is not of the 0 shards"),
    ],
)
def test_a_manifest_that_does_not_fit_its_files_is_refused_at_once(tmp_path, rows, size, message):
    store = Store.open(tmp_path, {"rows": 4, "shard_size": 10})
    store.write(0, {"embeddings": torch.eye(4)}, {"names": list("abcd"), "skipped": []})
    assert search(tmp_path, torch.eye(4)[:1], k=1) == [[(1.0, "a")]]
    (tmp_path / "manifest.json").write_text(json.dumps({"rows": rows, "shard_size": size}))
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        search(tmp_path, torch.eye(4)[:1])
    assert time.process_time() - start < 2
    with pytest.raises(ValueError, match="shard_size is 0"):
        row_ranges(4, 0)


def test_a_folder_of_shards_that_is_removed_or_renamed_is_not_made_again(tmp_path):
    store = Store.open(tmp_path / "out", {"rows": 4})
    store.write(0, {"embeddings": torch.eye(4)})
    (tmp_path / "out").rename(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="was removed or renamed: run the same command again"):
        store.write(1, {"embeddings": torch.eye(4)})
    assert not (tmp_path / "out").exists()


def test_ten_thousand_lines_are_listed_fast_at_flat_memory(tmp_path):
    lines = (json.dumps({"file_name": f"{n % 10}/{n}.png", "short": "a dog " * 20}) for n in range(10_000))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    start = time.process_time()
    tracemalloc.start()
    images = list_images(tmp_path)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - start < 10  # with tracing; a million take less than a minute without
    assert len(images) == 10_000 and used < 10_000 * 40 and images[9_999].name == "9/9999.png"
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}')
    with pytest.raises(BadInput, match="was changed after its images were listed"):
        images[0]


NO_LISTS = [None, 5, {"a"}, (text for text in ["a"]), {"a": 1}, "a", b"a"]


@pytest.mark.parametrize("value", NO_LISTS, ids=lambda value: type(value).__name__)
def test_what_is_no_list_is_named_in_every_entry_point(value):
    embedder, image = tiny_embedder(), Image.new("RGB", (8, 8))
    calls = [embedder.encode_text, embedder.encode_image, lambda texts: vk.likelihood(embedder, [image], texts)]
    calls += [
        lambda images: vk.likelihood(embedder, images, ["a"]),
        lambda texts: embedder.generate_batch([image], texts),
    ]
    calls += [vk.load_baseline().encode_text, vk.load_baseline().encode_image]
    for call in calls:
        with pytest.raises(WrongType, match="a list of .* is needed; got"):
            call(value)


@pytest.mark.parametrize("value", [None, 5, {"a": 1}, "half \ud800"], ids=lambda value: type(value).__name__)
def test_an_item_that_is_no_image_or_text_is_named(value):
    embedder = tiny_embedder()
    for call in (embedder.encode_text, vk.load_baseline().encode_text):
        with pytest.raises(BadInput, match="caption 0 "):
            call([value])
    if not isinstance(value, str):
        with pytest.raises(BadInput, match=f"image 0 cannot be read .it is of type {type(value).__name__}; pass a PIL"):
            embedder.encode_image([value])
    with pytest.raises(ValueError, match="2 images, 1 prompts, 1 histories: pass equally many"):
        embedder.generate_batch([None, None], ["a"])


@pytest.mark.parametrize("name", ["train.parquet", "dataset_info.json", "metadata.csv"])
def test_a_damaged_table_is_one_sentence(tmp_path, name):
    content = b'file_name,short\n"' + b"x" * 200_000 if name == "metadata.csv" else b"PAR1 no parquet file"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=r"cannot be read \(.*\): download or write it again|line \d+: not CSV") as error:
        list_images(tmp_path)
    assert "\n" not in str(error.value)


def test_large_images_of_one_batch_are_decoded_and_encoded_a_few_at_a_time(tmp_path, monkeypatch):
    for number in range(6):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
    sizes = []

    def record(images):
        sizes.append(len(images))
        return torch.tensor([[float(image.getpixel((0, 0))[0]), 1.0] for image in images])

    monkeypatch.setattr("vladva_kit.search.shards.MAX_BATCH_PIXELS", 700)
    monkeypatch.setattr("vladva_kit.models.images.MAX_BATCH_PIXELS", 800)
    embed_images_to_shards(list_images(tmp_path), record, tmp_path / "out", model="m")
    store = Store(tmp_path / "out")
    assert sizes == [2, 2, 2] and store.read(0)["embeddings"][:, 0].tolist() == list(range(6))
    assert store.read_json(0, "names") == [f"{number}.png" for number in range(6)]
    clip = vk.load_baseline()
    monkeypatch.setattr(clip, "image_features", record)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    assert len(clip.encode_image(paths)) == 6 and sizes[3:] == [2, 2, 2]

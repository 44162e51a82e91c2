"""Pairs come from data frames, dicts, tuples, generators, torch Datasets and the hub, with any column names."""

import re
from collections import namedtuple
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from tiny import small, tiny_embedder

import vladva_kit as vk
from vladva_kit.data.pairs import Pair, load_pairs
from vladva_kit.data.streaming import PairStream
from vladva_kit.models.images import BadInput

COLORS = [(200, 30, 30), (30, 30, 200), (30, 200, 30)]


@pytest.fixture
def paths(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, color in zip(files, COLORS, strict=True):
        Image.new("RGB", (6, 4), color).save(file)
    return files


def colors(pairs):
    return [pair.load_image().getpixel((0, 0)) for pair in pairs]


def captions(pairs):
    return [(pair.short, pair.long) for pair in pairs]


def test_a_data_frame_gives_a_pair_for_each_row(paths):
    table = {"image": map(str, paths), "short": ["a dog", None, "a hen"], "long": [np.nan, "A cat.", "A hen."]}
    frame = pandas.DataFrame({name: list(values) for name, values in table.items()}).assign(group=[7, np.nan, 7])
    pairs = load_pairs(frame)
    assert captions(pairs) == [("a dog", None), (None, "A cat."), ("a hen", "A hen.")]
    assert colors(pairs) == COLORS and [pair.group for pair in pairs] == ["7", None, "7"]
    with pytest.raises(BadInput, match="the data frame has the columns image, title; it needs image and short or long"):
        load_pairs(frame[["image"]].assign(title="a dog"))
    with pytest.raises(BadInput, match="row 1: neither a 'short' nor a 'long'"):
        load_pairs(frame.assign(long=None))


def test_a_parquet_file_of_images_is_read_through_pandas(paths, tmp_path):
    stored = [{"bytes": path.read_bytes(), "path": None} for path in paths]
    table = {"image": stored, "text": ["a", "b", "c"], "negatives": [["d", "e"], [], None]}
    pandas.DataFrame(table).to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(BadInput, match="is a table, not a folder; give pandas.read_csv"):
        load_pairs(tmp_path / "pairs.parquet")
    pairs = load_pairs(pandas.read_parquet(tmp_path / "pairs.parquet"))
    assert colors(pairs) == COLORS and [pair.negatives for pair in pairs] == [("d", "e"), (), ()]


class Squares(torch.utils.data.Dataset):
    """A map-style Dataset that never raises IndexError: only its length ends it."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.tensor(COLORS[index % 3])[:, None, None].expand(3, 4, 6) / 255, f"square {index}"


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(Squares()[index] for index in range(3))


Row = namedtuple("Row", "image caption")
EXPECTED = [(f"square {index}", None) for index in range(3)]


def rows(kind):
    squares = [Squares()[index] for index in range(3)]
    if kind == "dicts":
        return [{"image": image.numpy(), "short": text} for image, text in squares]
    if kind == "namedtuples":
        return [Row(image, text) for image, text in squares]
    return {"tuples": squares, "lists": [list(pair) for pair in squares], "a generator": (pair for pair in squares)}[
        kind
    ]


@pytest.mark.parametrize("kind", ["dicts", "tuples", "lists", "namedtuples", "a generator"])
def test_rows_of_a_list_or_generator_are_pairs(kind):
    pairs = load_pairs(rows(kind))
    assert captions(pairs) == EXPECTED and colors(pairs) == COLORS


@pytest.mark.parametrize(
    "dataset",
    [Squares(), Stream(), torch.utils.data.Subset(Squares(), [0, 1, 2])],
    ids=["mapped", "iterable", "subset"],
)
def test_a_torch_dataset_is_read_once_and_its_length_ends_it(dataset):
    pairs = load_pairs(dataset)
    assert captions(pairs) == EXPECTED and colors(pairs) == COLORS
    assert isinstance(pairs[0].image, Image.Image)


def test_a_tuple_may_have_a_long_caption_and_several_short_ones(paths):
    first, second = load_pairs([(paths[0], "a dog", "A dog lies."), (str(paths[1]), ["a cat", "one cat"])])
    assert (first.short, first.long) == ("a dog", "A dog lies.")
    assert second.captions == ("a cat", "one cat") and second.image == paths[1]


def test_columns_are_named_by_keyword_in_every_kind_of_table(paths, tmp_path):
    names = {"image": "jpg", "short": "title", "long": "body", "negatives": "wrong", "group": "scene"}
    records = [{"jpg": str(path), "title": "a dog", "body": "A dog.", "wrong": "a cat", "scene": 3} for path in paths]
    folder = [{**record, "jpg": Path(record["jpg"]).name} for record in records]
    pandas.DataFrame(folder).to_json(tmp_path / "metadata.jsonl", orient="records", lines=True)
    stored = [{**record, "jpg": Image.open(record["jpg"])} for record in records]
    for source in (records, pandas.DataFrame(records), datasets.Dataset.from_list(stored), tmp_path):
        pairs = load_pairs(source, **names)
        assert captions(pairs) == [("a dog", "A dog.")] * 3 and colors(pairs) == COLORS
        assert {pair.negatives for pair in pairs} == {("a cat",)} and {pair.group for pair in pairs} == {"3"}
    (tmp_path / "metadata.jsonl").unlink()
    pandas.DataFrame(folder).to_csv(tmp_path / "metadata.csv", index=False)
    assert captions(load_pairs(tmp_path, image="jpg", short="title")) == [("a dog", None)] * 3


def test_an_unknown_column_lists_the_known_ones(paths):
    frame = pandas.DataFrame({"image": map(str, paths), "short": "a dog"})
    for source in (frame, datasets.Dataset.from_pandas(frame)):
        with pytest.raises(BadInput, match="has no column 'title'; its columns are image, short"):
            load_pairs(source, short="title")
    with pytest.raises(BadInput, match=r"item 0: no image \(keys: image, short\)"):
        load_pairs(frame.to_dict("records"), image="jpg")
    with pytest.raises(BadInput, match="item 0 is a tuple, which has no column 'title'"):
        load_pairs([(paths[0], "a dog")], short="title")


def test_a_named_column_wins_over_the_kits_own_name(paths):
    (pair,) = load_pairs([{"image": paths[0], "short": "an OCR text", "title": "a dog"}], short="title")
    assert pair.captions == ("a dog",)


def test_the_usual_names_of_images_are_read_with_one_note(paths, tmp_path, caplog):
    frame = pandas.DataFrame({"jpg": map(str, paths), "caption": "a dog"})
    assert colors(load_pairs(frame)) == COLORS
    assert caplog.messages == [
        "row 0: images are read from 'jpg'",
        "row 0: captions are read from 'caption', since there is neither 'short' nor 'long'",
    ]
    caplog.clear()
    (tmp_path / "metadata.csv").write_text("filename,short\n0.png,a dog\n1.png,a cat\n")
    assert len(load_pairs(tmp_path)) == 2
    assert [note.partition("line")[2] for note in caplog.messages] == [" 2: images are read from 'filename'"]


SINGLE = {
    "a PIL image": Image.new("RGB", (4, 4)),
    "an array": np.zeros((4, 4, 3), np.uint8),
    "a tensor": torch.zeros(3, 4, 4),
    "bytes": b"GIF89a",
}


@pytest.mark.parametrize("source", SINGLE.values(), ids=SINGLE.keys())
def test_a_single_image_is_refused_with_what_to_give(source):
    with pytest.raises(BadInput, match=r"is an image \(\w+\), without a caption; give it as load_pairs\(\[\(image"):
        load_pairs(source)


def test_a_single_path_dict_or_other_thing_is_refused_with_what_to_give(paths):
    with pytest.raises(BadInput, match="0.png is a single image, without a caption; give it as"):
        load_pairs(paths[0])
    with pytest.raises(BadInput, match="is one dict with the key 'image'; give a list of such dicts"):
        load_pairs({"image": paths[0], "short": "a dog"})
    with pytest.raises(BadInput, match="of type function; call it first; give a folder, a hub id"):
        load_pairs(lambda: iter([]))
    with pytest.raises(BadInput, match="a DataLoader yields batches, not pairs"):
        load_pairs(torch.utils.data.DataLoader(Squares()))
    with pytest.raises(BadInput, match="a PairStream yields batches"):
        load_pairs(PairStream(None))
    with pytest.raises(BadInput, match="item 0 is a tuple of 4"):
        load_pairs([(paths[0], "a", "b", "c")])
    with pytest.raises(BadInput, match=r"item 1: no image \(keys: text\)"):
        load_pairs([{"image": paths[0], "text": "a"}, {"text": "a"}])


def test_bad_rows_are_named_or_skipped(paths, tmp_path):
    mixed = [(paths[0], "a dog"), (tmp_path / "9.png", "a cat"), (paths[1], 7), (torch.full((3, 4, 6), -2.0), "a"), 5]
    reasons = ["item 1: image .*9.png does not exist", "item 2: 'short' is 7", "item 3: .*undo its", "item 4 of .* int"]
    skipped = []
    with pytest.warns(UserWarning, match="the list of pairs: skipped 4 of 5"):
        assert captions(load_pairs(mixed, on_error="skip", skipped=skipped)) == [("a dog", None)]
    for line, reason in zip(skipped, reasons, strict=True):
        assert re.search(reason, line)


def test_an_address_is_not_opened(monkeypatch):
    monkeypatch.setattr("datasets.utils.file_utils.xopen", lambda *args: pytest.fail("opened"))
    for image in ("https://example.org/0.jpg", {"bytes": None, "path": "https://example.org/0.jpg"}):
        with pytest.raises(BadInput, match="item 0: the image 'https://example.org/0.jpg' is an address"):
            load_pairs([{"image": image, "short": "a dog"}])


@pytest.fixture
def hub(monkeypatch, paths):
    """Make a hub dataset whose rows have these undecoded images; return what was asked of the hub."""
    asked = []

    def make(images):
        table = {"jpg": images, "caption": ["a dog"] * len(images)}
        features = datasets.Features({"jpg": datasets.Image(), "caption": datasets.Value("string")})
        dataset = datasets.Dataset.from_dict(table, features=features)

        def load_dataset(name, split):
            asked.append((name, split))
            return dataset

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return make


def test_a_hub_id_is_loaded_by_datasets(hub, paths):
    asked = hub([{"bytes": path.read_bytes(), "path": "of the repository.png"} for path in paths])
    assert colors(load_pairs("me/pairs", split="test", short="caption")) == COLORS
    assert asked == [("me/pairs", "test")]


@pytest.mark.parametrize("path", ["/etc/hostname", "../0.png", "https://example.org/0.jpg", "zip://0.jpg::/tmp/0.zip"])
def test_a_hub_dataset_cannot_name_files_outside_its_repository(hub, paths, path):
    hub([{"bytes": None, "path": path}])
    with pytest.raises(BadInput, match=f"dataset row 0: the image '{path}' is not part of the hub dataset"):
        load_pairs("me/pairs")


def test_files_downloaded_with_a_hub_dataset_are_read(hub, paths, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    hub([{"bytes": None, "path": str(path)} for path in paths])
    assert colors(load_pairs("me/pairs")) == COLORS


def test_fit_takes_what_load_pairs_takes():
    embedder = tiny_embedder()
    frame = pandas.DataFrame(
        {
            "jpg": [np.full((16, 16, 3), 40 * number, np.uint8) for number in range(6)],
            "text": [f"a square of shade {number}" for number in range(6)],
        }
    )
    validation = [(np.full((16, 16, 3), 99, np.uint8), "a square")] * 2
    settings = small(steps=1, validate_every=1)
    history = vk.fit(embedder, frame, settings, progress=False, validation=validation)
    assert len(history) == 1 and "eval_text_to_image_r1" in history[0]
    tuples = ((pair["jpg"], pair["text"]) for pair in frame.to_dict("records"))
    assert len(vk.fit(embedder, tuples, small(steps=1), progress=False)) == 1


def test_a_pair_of_an_array_holds_an_image():
    pair = Pair(np.full((4, 6, 3), 9, np.uint8), "a dog")
    assert pair.image.size == (6, 4) and pair == Pair(Image.new("RGB", (6, 4), (9, 9, 9)), "a dog")

import json
import sys
import types
import warnings

import datasets
import pytest
from PIL import Image

from vladva_kit.data import samples as data
from vladva_kit.data.pairs import BadInput, Pair, check_lengths, load_pairs
from vladva_kit.data.samples import sample


def write_folder(folder, lines, images=("0.png", "1.png", "2.png")):
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(images):
        Image.new("RGB", (8, 6), (place * 40, 0, 0)).save(folder / name)
    lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


GOOD = {"file_name": "0.png", "short": "a dog", "long": "A dog stands on a lawn."}


def words(text):
    return len(text.split())


def test_a_folder_with_splits_gives_the_split_asked_for(tmp_path):
    write_folder(tmp_path / "train", [GOOD])
    write_folder(tmp_path / "test", [{"file_name": "1.png", "short": "a cat"}])
    (pair,) = load_pairs(tmp_path, split="test")
    assert (pair.short, pair.long, pair.captions) == ("a cat", None, ("a cat",))
    assert pair.load_image().getpixel((0, 0)) == (40, 0, 0)
    assert pair.where.endswith("metadata.jsonl, line 1")


def test_a_folder_without_splits_is_taken_as_it_is(tmp_path):
    assert len(load_pairs(str(write_folder(tmp_path, [GOOD])), split="test")) == 1


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    write_folder(tmp_path / "train", [GOOD])
    write_folder(tmp_path / "validation", [GOOD])
    with pytest.raises(BadInput, match="no split 'test'; it has train, validation"):
        load_pairs(tmp_path, split="test")


def test_a_folder_that_does_not_exist_or_has_no_metadata_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is no folder"):
        load_pairs(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="holds no metadata.jsonl"):
        load_pairs(tmp_path)


def test_several_wordings_negatives_blank_lines_and_a_byte_order_mark_are_read(tmp_path):
    line = {
        "file_name": "0.png",
        "short": " a dog ",
        "long": None,
        "captions": ["one dog", "a dog"],
        "negatives": ["a cat"],
    }
    write_folder(tmp_path, ["\ufeff" + json.dumps(line), "", {"file_name": "1.png", "captions": ["first", "second"]}])
    first, second = load_pairs(tmp_path)
    assert first.captions == ("a dog", "one dog") and first.negatives == ("a cat",) and first.long is None
    assert second.short == "first" and second.where.endswith("line 3")


BAD_LINES = {
    "a line that is not JSON": ('{"file_name": "0.png", "short"', "not JSON"),
    "no file_name": ({"short": "a dog"}, "no 'file_name'"),
    "an image that is not there": ({"file_name": "9.png", "short": "a dog"}, "9.png does not exist"),
    "an image that is text": ({"file_name": "metadata.jsonl", "short": "a dog"}, "cannot be read"),
    "a path that leaves the folder": ({"file_name": "../0.png", "short": "a dog"}, "leaves the folder"),
    "an empty caption": ({"file_name": "0.png", "short": "  ", "long": "A dog."}, "'short' is an empty caption"),
    "an empty wording": ({"file_name": "0.png", "short": "a dog", "captions": [""]}, "'captions' is an empty caption"),
    "no caption": ({"file_name": "0.png", "short": None}, "neither a 'short' nor a 'long'"),
    "a caption that is a number": ({"file_name": "0.png", "long": 7}, "'long' is 7, of type int"),
    "wordings that are one text": ({"file_name": "0.png", "captions": "a dog"}, "must be a list"),
    "half a character": ('{"file_name": "0.png", "short": "a \\ud83d"}', "half a character"),
}


@pytest.mark.parametrize("line, reason", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_an_error_that_names_file_and_line(tmp_path, line, reason):
    write_folder(tmp_path, [GOOD, line, GOOD])
    with pytest.raises(BadInput) as caught:
        load_pairs(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'metadata.jsonl'}, line 2: ")
    assert reason in str(caught.value)


def test_with_skip_all_bad_lines_are_listed_in_one_warning_and_the_rest_is_used(tmp_path):
    write_folder(tmp_path, [GOOD, *(line for line, _ in BAD_LINES.values()), GOOD])
    with pytest.warns(UserWarning) as caught:
        pairs = load_pairs(tmp_path, on_error="skip")
    assert [pair.short for pair in pairs] == ["a dog", "a dog"]
    (warning,) = caught
    listing = str(warning.message).splitlines()
    assert f"{len(BAD_LINES)} of {len(BAD_LINES) + 2} left out" in listing[0]
    for number, (line, (_, reason)) in enumerate(zip(listing[1:], BAD_LINES.values(), strict=True), start=2):
        assert f"metadata.jsonl, line {number}: " in line and reason in line


def test_with_skip_and_nothing_left_it_is_an_error(tmp_path):
    write_folder(tmp_path, ["{", "}"])
    with pytest.raises(BadInput, match="no pair can be used"):
        load_pairs(tmp_path, on_error="skip")
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        load_pairs(tmp_path, on_error="ignore")


def test_a_list_of_pairs_is_checked_and_returned():
    pairs = [Pair(Image.new("RGB", (4, 4)), short="a dog"), Pair(Image.new("RGB", (4, 4)), long="A cat.")]
    assert load_pairs(pairs) == pairs
    with pytest.raises(BadInput, match="pair 1: neither"):
        load_pairs([*pairs[:1], Pair(Image.new("RGB", (4, 4)))])
    with pytest.raises(BadInput, match="item 0 .* of type str"):
        load_pairs(["a dog"])


@pytest.fixture
def dataset(tmp_path):
    for place in range(2):
        Image.new("RGBA", (5, 3), (place * 40, 9, 9, 255)).save(tmp_path / f"{place}.png")
    stored = [
        {"bytes": (tmp_path / "0.png").read_bytes(), "path": None},
        {"bytes": None, "path": str(tmp_path / "1.png")},
    ]
    table = {"image": stored, "short": ["a dog", None], "long": [None, "A cat sits."]}
    features = {"image": datasets.Image(), "short": datasets.Value("string"), "long": datasets.Value("string")}
    return datasets.Dataset.from_dict(table, features=datasets.Features(features))


def test_a_dataset_gives_pairs_without_holding_pixels(dataset):
    first, second = load_pairs(dataset)
    assert isinstance(first.image, bytes) and first.load_image().getpixel((0, 0)) == (0, 9, 9)
    assert second.image.name == "1.png" and second.load_image().mode == "RGB"
    assert (first.short, first.long, second.short, second.long) == ("a dog", None, None, "A cat sits.")
    assert load_pairs(dataset.with_format("numpy")) == [first, second]


def test_a_dataset_dict_gives_the_split_asked_for(dataset):
    both = datasets.DatasetDict(train=dataset, test=dataset.select([1]))
    assert len(load_pairs(both, split="test")) == 1
    with pytest.raises(BadInput, match="no split 'dev'; it has train, test"):
        load_pairs(both, split="dev")


def test_a_dataset_with_other_columns_or_a_broken_image_is_refused(dataset):
    with pytest.raises(BadInput, match="columns image, text, words; needed are image and short"):
        load_pairs(dataset.rename_columns({"short": "text", "long": "words"}))
    broken = datasets.Dataset.from_dict({"image": [{"bytes": b"GIF89a", "path": None}], "short": ["a dog"]})
    with pytest.raises(BadInput, match="dataset row 0: the image cannot be read"):
        load_pairs(broken)
    with pytest.raises(BadInput, match="of type int"):
        load_pairs(3)


def test_captions_are_sorted_by_length():
    image = Image.new("RGB", (4, 4))
    long, short = "word " * 29 + "word", "word " * 28 + "word"
    given = [Pair(image, short=long), Pair(image, long=short), Pair(image, short=short, long=long)]
    moved = check_lengths(given, words)
    assert [(pair.short, pair.long) for pair in moved] == [(None, long), (short, None), (short, long)]
    assert [pair.captions for pair in moved] == [(), (short,), (short,)]
    (kept,) = check_lengths([Pair(image, short=long, captions=("one dog", "a dog"))], words)
    assert (kept.short, kept.long, kept.captions) == ("one dog", long, ("one dog", "a dog"))


@pytest.mark.parametrize(
    "texts, reason",
    [
        ({"short": "w " * 31, "long": "w " * 40}, "a short caption of 31 tokens, the limit is fewer than 30"),
        ({"long": "w " * 501}, "a long caption of 501 tokens, the limit is 500"),
        ({"short": "w " * 501}, "a long caption of 501 tokens, the limit is 500"),
        ({"short": "a dog", "negatives": ("w " * 30,)}, "a short caption of 30 tokens"),
        ({"short": " "}, "'short' is an empty caption"),
    ],
)
def test_a_caption_over_its_limit_is_refused_or_left_out(texts, reason):
    image = Image.new("RGB", (4, 4))
    pairs = [Pair(image, short="a dog"), Pair(image, **texts, where="metadata.jsonl, line 9")]
    with pytest.raises(BadInput, match=f"^metadata.jsonl, line 9: {reason}"):
        check_lengths(pairs, words)
    with pytest.warns(UserWarning, match=f"1 of 2 left out:\n  metadata.jsonl, line 9: {reason}"):
        assert check_lengths(pairs, words, on_error="skip") == pairs[:1]


def test_a_caption_of_exactly_the_long_limit_passes_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_lengths([Pair(Image.new("RGB", (4, 4)), long="w " * 500)], words)


@pytest.fixture
def installed_alone(tmp_path, monkeypatch):
    """The package as it lies in site-packages, with no data_samples beside it, and a `write_sample` of our own."""
    drawn = []

    def write_sample(name, folder):
        drawn.append(name)
        folder.mkdir()
        (folder / "half").write_text("half")
        if "fail" in drawn:
            raise KeyboardInterrupt
        (folder / "whole").write_text(name)

    cases = types.ModuleType("vladva_kit.emoji_world.cases")
    samples.write_sample = write_sample
    monkeypatch.setitem(sys.modules, "vladva_kit.emoji_world.cases", cases)
    monkeypatch.setattr(data, "__file__", str(tmp_path / "site-packages" / "vladva_kit" / "data.py"))
    return drawn


def test_a_sample_is_drawn_once_into_the_cache(tmp_path, installed_alone):
    folder = sample("emoji_pairs", cache_dir=tmp_path / "cache")
    assert (folder / "whole").read_text() == "emoji_pairs" and folder.parent.parent == tmp_path / "cache"
    assert sample("emoji_pairs", cache_dir=tmp_path / "cache") == folder
    assert installed_alone == ["emoji_pairs"]


def test_an_interrupted_drawing_leaves_nothing_behind(tmp_path, installed_alone):
    installed_alone.append("fail")
    with pytest.raises(KeyboardInterrupt):
        sample("emoji_pairs", cache_dir=tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.name != data._version()] == []


def test_a_sample_beside_the_package_comes_first(tmp_path, installed_alone):
    shipped = tmp_path / "site-packages" / "data_samples" / "photos"
    with pytest.raises(FileNotFoundError, match="cannot be drawn; copy"):
        sample("photos", cache_dir=tmp_path)
    shipped.mkdir(parents=True)
    (shipped / "metadata.jsonl").write_text("")
    assert sample("photos") == shipped


def test_an_unknown_sample_lists_the_known_ones():
    with pytest.raises(BadInput, match="'coco'; there are emoji_pairs, winoground_mini, .*photos"):
        sample("coco")

"""Pairs are loaded from folders, datasets and lists; bad entries are named; captions are sorted by length."""

import json
import warnings
from dataclasses import replace

import datasets
import pytest
from PIL import Image

import vladva_kit.data.pairs as pairs_module
from vladva_kit.data.images import list_images
from vladva_kit.data.pairs import Pair, check_lengths, load_pairs, sample_caption
from vladva_kit.data.streaming import stream_pairs
from vladva_kit.models.images import BadInput


def write_folder(folder, lines, images=("0.png", "1.png", "2.png")):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(images):
        Image.new("RGB", (8, 6), (number * 40, 0, 0)).save(folder / name)
    lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


GOOD = {"file_name": "0.png", "short": "a dog", "long": "A dog stands on a lawn."}


def words(text):
    return len(text.split())


def test_the_requested_split_of_a_folder_is_loaded(tmp_path):
    write_folder(tmp_path / "train", [GOOD])
    write_folder(tmp_path / "test", [{"file_name": "1.png", "short": "a cat"}])
    (pair,) = load_pairs(tmp_path, split="test")
    assert (pair.short, pair.long, pair.captions) == ("a cat", None, ("a cat",))
    assert pair.load_image().getpixel((0, 0)) == (40, 0, 0)
    assert pair.where.endswith("metadata.jsonl, line 1")


def test_a_folder_without_splits_is_loaded_for_any_split(tmp_path):
    assert len(load_pairs(str(write_folder(tmp_path, [GOOD])), split="test")) == 1


def test_an_unknown_split_lists_the_known_ones(tmp_path):
    write_folder(tmp_path / "train", [GOOD])
    write_folder(tmp_path / "validation", [GOOD])
    with pytest.raises(BadInput, match="no split 'test'; it has train, validation"):
        load_pairs(tmp_path, split="test")


def test_a_missing_folder_or_metadata_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        load_pairs(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="has no metadata.jsonl"):
        load_pairs(tmp_path)


def test_several_captions_negatives_blank_lines_and_a_byte_order_mark_are_read(tmp_path):
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
    "a missing image": ({"file_name": "9.png", "short": "a dog"}, "9.png does not exist"),
    "an image that is text": ({"file_name": "metadata.jsonl", "short": "a dog"}, "cannot be read"),
    "a path that leaves the folder": ({"file_name": "../0.png", "short": "a dog"}, "leaves the folder"),
    "an empty caption": ({"file_name": "0.png", "short": "  ", "long": "A dog."}, "'short' is an empty caption"),
    "an empty caption in captions": (
        {"file_name": "0.png", "short": "a dog", "captions": [""]},
        "'captions' is an empty caption",
    ),
    "no caption": ({"file_name": "0.png", "short": None}, "neither a 'short' nor a 'long'"),
    "a caption that is a number": ({"file_name": "0.png", "long": 7}, "'long' is 7, of type int"),
    "captions that are one text": ({"file_name": "0.png", "captions": "a dog"}, "must be a list"),
    "half a character": ('{"file_name": "0.png", "short": "a \\ud83d"}', "half a character"),
}


@pytest.mark.parametrize("line, reason", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_refused_with_file_and_line(tmp_path, line, reason):
    write_folder(tmp_path, [GOOD, line, GOOD])
    with pytest.raises(BadInput) as caught:
        load_pairs(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'metadata.jsonl'}, line 2: ")
    assert reason in str(caught.value)


def test_skip_lists_all_bad_lines_in_one_warning_and_returns_the_rest(tmp_path):
    write_folder(tmp_path, [GOOD, *(line for line, _ in BAD_LINES.values()), GOOD])
    skipped = []
    with pytest.warns(UserWarning) as caught:
        pairs = load_pairs(tmp_path, on_error="skip", skipped=skipped)
    assert len(skipped) == len(BAD_LINES)
    assert [pair.short for pair in pairs] == ["a dog", "a dog"]
    (warning,) = caught
    listing = str(warning.message).splitlines()
    assert f"skipped {len(BAD_LINES)} of {len(BAD_LINES) + 2}" in listing[0]
    for number, (line, (_, reason)) in enumerate(zip(listing[1:], BAD_LINES.values(), strict=True), start=2):
        assert f"metadata.jsonl, line {number}: " in line and reason in line


def test_skip_without_any_valid_pair_is_an_error(tmp_path):
    write_folder(tmp_path, ["{", "}"])
    with pytest.raises(BadInput, match="no valid pair"):
        load_pairs(tmp_path, on_error="skip")
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        load_pairs(tmp_path, on_error="ignore")


def test_pairs_that_were_loaded_are_decoded_again_only_if_their_file_has_changed(tmp_path, monkeypatch):
    write_folder(tmp_path, [GOOD])
    content = (tmp_path / "0.png").read_bytes()
    pairs = [*load_pairs(tmp_path), *load_pairs([Pair(content, "a dog")])]
    decoded = []
    original = pairs_module.check_image
    monkeypatch.setattr(
        pairs_module, "check_image", lambda image, where: decoded.append(image) or original(image, where)
    )
    assert load_pairs(load_pairs(pairs)) == pairs and not decoded
    replaced = [replace(pairs[0], image=b"other"), replace(pairs[1], image=content + b"x")]
    for pair in replaced[:1]:
        with pytest.raises(BadInput, match="cannot be read"):
            load_pairs([pair])
    Image.new("RGB", (9, 9)).save(tmp_path / "0.png")
    load_pairs([*pairs, replaced[1]])
    assert decoded == [b"other", tmp_path / "0.png", content + b"x"]
    (tmp_path / "0.png").unlink()
    with pytest.raises(BadInput, match="does not exist"):
        load_pairs(pairs)


def test_a_list_of_pairs_is_checked_and_returned():
    pairs = [Pair(Image.new("RGB", (4, 4)), short="a dog"), Pair(Image.new("RGB", (4, 4)), long="A cat.")]
    assert load_pairs(pairs) == pairs
    with pytest.raises(BadInput, match="pair 1: neither"):
        load_pairs([*pairs[:1], Pair(Image.new("RGB", (4, 4)))])
    with pytest.raises(BadInput, match="item 0 .* of type str"):
        load_pairs(["a dog"])


@pytest.fixture
def dataset(tmp_path):
    for number in range(2):
        Image.new("RGBA", (5, 3), (number * 40, 9, 9, 255)).save(tmp_path / f"{number}.png")
    stored = [
        {"bytes": (tmp_path / "0.png").read_bytes(), "path": None},
        {"bytes": None, "path": str(tmp_path / "1.png")},
    ]
    table = {"image": stored, "short": ["a dog", None], "long": [None, "A cat sits."]}
    features = {"image": datasets.Image(), "short": datasets.Value("string"), "long": datasets.Value("string")}
    return datasets.Dataset.from_dict(table, features=datasets.Features(features))


def test_a_dataset_gives_pairs_without_decoded_pixels(dataset):
    first, second = load_pairs(dataset)
    assert isinstance(first.image, bytes) and first.load_image().getpixel((0, 0)) == (0, 9, 9)
    assert second.image.name == "1.png" and second.load_image().mode == "RGB"
    assert (first.short, first.long, second.short, second.long) == ("a dog", None, None, "A cat sits.")
    assert load_pairs(dataset.with_format("numpy")) == [first, second]


def test_the_requested_split_of_a_dataset_dict_is_loaded(dataset):
    both = datasets.DatasetDict(train=dataset, test=dataset.select([1]))
    assert len(load_pairs(both, split="test")) == 1
    with pytest.raises(BadInput, match="no split 'dev'; it has train, test"):
        load_pairs(both, split="dev")


def test_a_dataset_with_other_columns_or_a_broken_image_is_refused(dataset):
    with pytest.raises(BadInput, match="columns image, title, words; it needs image and short"):
        load_pairs(dataset.rename_columns({"short": "title", "long": "words"}))
    broken = datasets.Dataset.from_dict({"image": [{"bytes": b"GIF89a", "path": None}], "short": ["a dog"]})
    with pytest.raises(BadInput, match="dataset row 0: the image cannot be read"):
        load_pairs(broken)
    with pytest.raises(BadInput, match="of type int"):
        load_pairs(3)


def test_captions_are_sorted_by_length():
    image = Image.new("RGB", (4, 4))
    long, short = "word " * 29 + "word", "word " * 28 + "word"
    pairs = [Pair(image, short=long), Pair(image, long=short), Pair(image, short=short, long=long)]
    checked = check_lengths(pairs, words)
    assert [(pair.short, pair.long) for pair in checked] == [(None, long), (short, None), (short, long)]
    assert [pair.captions for pair in checked] == [(), (short,), (short,)]
    (pair,) = check_lengths([Pair(image, short=long, captions=("one dog", "a dog"))], words)
    assert (pair.short, pair.long, pair.captions) == ("one dog", long, ("one dog", "a dog"))


@pytest.mark.parametrize(
    "texts, reason",
    [
        ({"short": "w " * 31, "long": "w " * 40}, "a short caption has 31 tokens, the limit is fewer than 30"),
        ({"long": "w " * 501}, "a long caption has 501 tokens, the limit is 500"),
        ({"short": "w " * 501}, "a long caption has 501 tokens, the limit is 500"),
        ({"short": "a dog", "negatives": ("w " * 30,)}, "a short caption has 30 tokens"),
        ({"short": " "}, "'short' is an empty caption"),
    ],
)
def test_a_caption_over_its_limit_is_refused_or_skipped(texts, reason):
    image = Image.new("RGB", (4, 4))
    pairs = [Pair(image, short="a dog"), Pair(image, **texts, where="metadata.jsonl, line 9")]
    with pytest.raises(BadInput, match=f"^metadata.jsonl, line 9: {reason}"):
        check_lengths(pairs, words)
    with pytest.warns(UserWarning, match=f"skipped 1 of 2:\n  metadata.jsonl, line 9: {reason}"):
        assert check_lengths(pairs, words, on_error="skip") == pairs[:1]


def test_a_caption_of_exactly_the_long_limit_passes_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_lengths([Pair(Image.new("RGB", (4, 4)), long="w " * 500)], words)


def imagefolder(folder, lines, name="metadata.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(lines)):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / name).write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return folder


def test_the_usual_columns_are_read_with_a_note(tmp_path, caplog):
    text = imagefolder(tmp_path / "text", [{"file_name": f"{n}.png", "text": f"a dog {n}"} for n in range(2)])
    assert [pair.short for pair in load_pairs(text)] == ["a dog 0", "a dog 1"]
    (note,) = caplog.messages  # once, not for each pair
    assert "metadata.jsonl, line 1: captions are read from 'text'" in note
    several = imagefolder(tmp_path / "several", [{"file_name": "0.png", "caption": ["a dog", "a brown dog"]}])
    assert load_pairs(several)[0].captions == ("a dog", "a brown dog")
    rows = datasets.Dataset.from_dict({"image": [Image.new("RGB", (4, 4))], "text": ["a cat"]})
    assert load_pairs(rows)[0].short == "a cat"


def test_a_column_text_is_left_alone_beside_the_kits_own(tmp_path, caplog):
    ocr = imagefolder(tmp_path, [{"file_name": "0.png", "text": "STOP", "long": "a red sign"}])
    pair = load_pairs(ocr)[0]
    assert pair.short is None and pair.long == "a red sign" and not caplog.messages


def test_a_metadata_csv_is_read(tmp_path):
    table = imagefolder(
        tmp_path, ["\ufefffile_name,short,long", '0.png,"a dog, brown",', "1.png,a cat,two lines"], "metadata.csv"
    )
    pairs = load_pairs(table)
    assert [(pair.short, pair.long) for pair in pairs] == [("a dog, brown", None), ("a cat", "two lines")]
    (table / "metadata.csv").write_text("file_name,short\n0.png,a dog\n9.png,a cat\n")
    with pytest.raises(BadInput, match=r"metadata.csv, line 3: image .*9.png does not exist"):
        load_pairs(table)


def test_missing_captions_name_the_keys_and_tables_that_are_there(tmp_path):
    titled = imagefolder(tmp_path / "titled", [{"file_name": "0.png", "title": "a dog"}])
    with pytest.raises(BadInput, match=r"line 1: neither a 'short' nor a 'long' caption \(keys: file_name, title\)"):
        load_pairs(titled)
    imagefolder(tmp_path / "table", ["file_name,text"], "captions.csv")
    with pytest.raises(BadInput, match=r"has no metadata.jsonl \(it holds captions.csv\)"):
        load_pairs(tmp_path / "table")


def test_an_imagefolder_in_a_zip_is_read(zipped):
    pairs = load_pairs(zipped())
    assert [pair.short for pair in pairs] == ["dog 0", "dog 1", "dog 2"]
    assert pairs[0].load_image().size == (6, 4)
    stream = stream_pairs(zipped(streaming=True), group_by_length=False)
    stream.batch_size = 3
    assert sorted(pair.short for pair in next(iter(stream))["batch"]) == ["dog 0", "dog 1", "dog 2"]
    assert [image.image.startswith(b"\x89PNG") for image in list_images(zipped())] == [True] * 3


def test_the_key_of_an_image_follows_its_colors(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([200, 30, 30])
    recolored = image.copy()
    recolored.putpalette([30, 30, 200])
    assert Pair(image, short="red").image_key != Pair(recolored, short="blue").image_key
    assert Pair(image, short="red").image_key == Pair(image.convert("RGB"), short="red").image_key


def test_sampling_takes_each_caption_and_repeats_for_a_seed():
    pair = Pair(Image.new("RGB", (4, 4)), captions=("a", "b", "c"), long="d")
    seen = [sample_caption(pair, f"0 {epoch} 7").short for epoch in range(30)]
    assert set(seen) == {"a", "b", "c"}
    assert seen == [sample_caption(pair, f"0 {epoch} 7").short for epoch in range(30)]
    assert set(sample_caption(pair, "1").captions) == {"a", "b", "c"}
    assert sample_caption(pair, "1").image_key is sample_caption(pair, "2").image_key  # hashed once in all epochs
    single = Pair(pair.image, short="a", long="d")
    assert sample_caption(single, "0") is single


@pytest.mark.parametrize("name", ["captions", "negatives"])
def test_a_text_in_place_of_a_list_is_not_split_into_characters(name):
    with pytest.raises(BadInput, match=f"{name} is the text 'dog'; give a list of captions"):
        Pair(Image.new("RGB", (4, 4)), **{"short": "a dog", name: "dog"})


def test_an_archive_is_refused_with_the_way_out(tmp_path):
    for name in ("pairs.zip", "pairs.tar"):
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(BadInput, match=f"{name} is not a folder; unpack it"):
            load_pairs(tmp_path / name)
        with pytest.raises(BadInput, match=f"{name} is neither .* unpack the archive"):
            list_images(tmp_path / name)

"""Outside input is accepted or refused with an error that names the thing."""

import datasets
import numpy as np
import pytest
from PIL import Image

from vladva_kit.data.validation import (
    check_image,
    clean_caption,
    collect_errors,
    decode_image,
    error_list,
    parse_json_line,
    path_inside,
    read_json,
    read_metadata,
    require_id,
    require_keys,
    resolve_image_folder,
    undecoded_image,
    undecoded_rows,
)
from vladva_kit.models.images import BadInput, open_image


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif"])
def test_a_truncated_image_of_any_format_is_refused(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"complete.{suffix}"
    Image.fromarray(noise).save(path)
    check_image(path, "here")
    truncated = tmp_path / f"truncated.{suffix}"
    truncated.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match=f"^here: image .*truncated.{suffix} cannot be read"):
        check_image(truncated, "here")


def test_a_png_that_decodes_but_lacks_its_end_is_refused_only_when_verified(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "complete.png")
    (tmp_path / "truncated.png").write_bytes((tmp_path / "complete.png").read_bytes()[:-12])
    assert open_image(tmp_path / "truncated.png").size == (8, 8)
    assert decode_image(tmp_path / "truncated.png", "it").size == (8, 8)
    with pytest.raises(BadInput, match="truncated PNG"):
        check_image(tmp_path / "truncated.png", "here")


@pytest.mark.parametrize(
    "name", ["../out.png", "a/../../out.png", "/etc/passwd", "C:\\out.png", "link.png", "up/out.png"]
)
def test_a_path_that_leaves_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "folder"
    (folder / "a").mkdir(parents=True)
    (tmp_path / "out.png").write_bytes(b"")
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    (folder / "up").symlink_to(tmp_path)
    with pytest.raises(BadInput, match="here: 'file_name' .* leaves the folder"):
        path_inside(folder, name, "here")


@pytest.mark.parametrize("name", ["a.png", "sub/a.png", "sub/../a.png", "..a.png"])
def test_a_path_that_stays_inside_is_accepted(tmp_path, name):
    assert path_inside(tmp_path, name, "here") == tmp_path / name


@pytest.mark.parametrize("name", [None, 3, "", " ", "a\0.png", ["a.png"], "x" * 300, "\ud83d.png"])
def test_a_value_that_is_not_a_path_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="here: 'file_name'"):
        path_inside(tmp_path, name, "here")


def test_a_cycle_of_links_is_refused_and_does_not_hang(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(BadInput):
        check_image(path_inside(tmp_path, "a", "here"), "here")


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b'{"a": 1} {"b": 2}', b"[" * 100_000, b"[1]", b"null", b"9" * 5000])
def test_a_line_that_is_not_a_json_object_is_refused(raw):
    with pytest.raises(BadInput, match="^here: "):
        parse_json_line(raw, "here")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("[1, 2", "not JSON .*truncated"), ('{"a": 1, "b": 2, "a": 3}', "json: a occurs twice")],
)
def test_a_truncated_json_file_or_a_repeated_key_is_refused(tmp_path, content, reason):
    path = tmp_path / "file.json"
    with pytest.raises(BadInput, match="file.json does not exist"):
        read_json(path)
    path.write_text('\ufeff{"a": [1]}', encoding="utf-8")
    assert read_json(path) == {"a": [1]}
    path.write_text(content)
    with pytest.raises(BadInput, match=reason):
        read_json(path)


def test_missing_keys_are_named_with_the_keys_found():
    assert require_keys({"a": 1, "b": 2}, ("a",), "here") == {"a": 1, "b": 2}
    with pytest.raises(BadInput, match="here: found a, c; needed are a, b: rename"):
        require_keys({"a": 1, "c": 2}, ("a", "b"), "here")
    with pytest.raises(BadInput, match="here: found list"):
        require_keys([1], ("a",), "here")


def test_the_image_folder_defaults_to_images(tmp_path):
    (tmp_path / "images").mkdir()
    assert resolve_image_folder(tmp_path, None, "hint") == tmp_path / "images"
    assert resolve_image_folder(tmp_path, str(tmp_path), "hint") == tmp_path
    with pytest.raises(BadInput, match="nowhere is not a folder; give image_folder=, which is COCO's"):
        resolve_image_folder(tmp_path, tmp_path / "nowhere", "which is COCO's")


def test_errors_are_collected_with_skip_and_propagate_with_raise():
    errors = error_list("skip")
    for number in range(3):
        with collect_errors(errors):
            if number:
                raise BadInput(f"entry {number}")
    assert errors == ["entry 1", "entry 2"]
    with pytest.raises(BadInput, match="entry 1"), collect_errors(error_list("raise")):
        raise BadInput("entry 1")
    with pytest.raises(KeyError), collect_errors(errors):
        raise KeyError
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        error_list("ignore")


def test_dataset_rows_hold_images_undecoded(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    cells = [{"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}]
    features = datasets.Features({"image": datasets.Image(), "n": datasets.Value("int64")})
    rows = list(undecoded_rows(datasets.Dataset.from_dict({"image": cells, "n": [1, 2]}, features), ["image", "other"]))
    assert [row["image"] for row in rows] == [content, tmp_path / "a.png"] and [row["n"] for row in rows] == [1, 2]


def test_a_csv_file_that_cannot_be_parsed_is_named(tmp_path):
    (tmp_path / "metadata.csv").write_text('file_name,text\n0.png,"' + "a" * 200_000)
    with pytest.raises(BadInput, match="metadata.csv, line .: not CSV .*quotation mark"):
        list(read_metadata(tmp_path / "metadata.csv"))


@pytest.mark.parametrize("text", ["", " \t", "\u200b", "\ufeff\u00a0", "\0"])
def test_a_caption_that_shows_nothing_is_empty(text):
    with pytest.raises(BadInput, match="here: 'short' is an empty caption"):
        clean_caption(text, "short", "here")


def test_an_address_that_cannot_be_opened_is_named_as_it_is():
    image = undecoded_image("missing://example/a.jpg")
    with pytest.raises(BadInput, match="row 0: image missing://example/a.jpg cannot be opened; download it"):
        check_image(image, "row 0")


@pytest.mark.parametrize("value", [None, [], {}])
def test_an_id_that_names_nothing_is_refused(value):
    with pytest.raises(BadInput, match="entry 3: the image_id is .*; it must be a number or text"):
        require_id(value, "image_id", "entry 3")

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladva_kit.data.validation import check_image, json_line, path_inside
from vladva_kit.models.images import BadInput, open_image


def test_a_transparent_picture_lies_on_white_and_keeps_its_hidden_colors_where_a_benchmark_shows_them():
    picture = Image.new("RGBA", (2, 2), (200, 100, 50, 0))
    assert open_image(picture).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(picture, alpha="drop").mode == "RGB"
    assert open_image(picture, alpha="drop").getpixel((0, 0)) == (200, 100, 50)


def test_a_photograph_taken_sideways_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.new("RGB", (4, 2)).save(tmp_path / "sideways.jpg", exif=exif)
    assert open_image(tmp_path / "sideways.jpg").size == (2, 4)
    assert open_image((tmp_path / "sideways.jpg").read_bytes()).size == (2, 4)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif"])
def test_a_truncated_image_of_any_format_is_refused(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"whole.{ending}"
    Image.fromarray(noise).save(path)
    check_image(path, "here")
    cut = tmp_path / f"cut.{ending}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadInput, match=f"^here: image .*cut.{ending} cannot be read"):
        check_image(cut, "here")


def test_a_png_that_decodes_but_lost_its_end_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-12])
    assert open_image(tmp_path / "cut.png").size == (8, 8)
    with pytest.raises(BadInput, match="truncated PNG"):
        check_image(tmp_path / "cut.png", "here")


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
def test_a_path_that_stays_inside_is_taken(tmp_path, name):
    assert path_inside(tmp_path, name, "here") == tmp_path / name


@pytest.mark.parametrize("name", [None, 3, "", " ", "a\0.png", ["a.png"]])
def test_what_is_no_path_is_refused(name):
    with pytest.raises(BadInput, match="here: 'file_name'"):
        path_inside(Path("folder"), name, "here")


def test_links_in_a_ring_are_refused_and_do_not_hang(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(BadInput):
        check_image(path_inside(tmp_path, "a", "here"), "here")


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b'{"a": 1} {"b": 2}', b"[" * 100_000, b"[1]", b"null", b"9" * 5000])
def test_a_line_that_is_no_json_object_is_refused(raw):
    with pytest.raises(BadInput, match="^here: "):
        json_line(raw, "here")

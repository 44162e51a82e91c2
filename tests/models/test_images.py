"""Images are opened as a viewer displays them."""

import io

import numpy as np
import pytest
from PIL import Image

from vladva_kit.models.images import BadInput, Crop, open_image, open_images


def reopened(image, format="PNG", **options):
    """Save an image to bytes and open these."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return open_image(file.getvalue())


def test_gray_bilevel_and_palette_images_become_rgb():
    red = Image.new("RGB", (4, 3), (200, 30, 30))
    assert reopened(red.quantize(8)).getpixel((0, 0)) == pytest.approx((200, 30, 30), abs=3)
    assert reopened(Image.new("L", (4, 3), 77)).getpixel((0, 0)) == (77, 77, 77)
    assert reopened(Image.new("1", (4, 3), 1)).getpixel((0, 0)) == (255, 255, 255)


def test_transparency_is_composited_on_white():
    image = Image.new("RGBA", (4, 3), (255, 0, 0, 0))
    image.putpixel((1, 1), (0, 0, 255, 255))
    image.putpixel((2, 1), (0, 0, 0, 128))
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        opened = reopened(image, format, **options)
        assert opened.getpixel((0, 0)) == (255, 255, 255)
        assert opened.getpixel((1, 1)) == (0, 0, 255)
        assert opened.getpixel((2, 1)) == pytest.approx((127, 127, 127), abs=1)
    palette = Image.new("P", (4, 3), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert reopened(palette, transparency=0).getpixel((0, 0)) == (255, 255, 255)
    assert reopened(Image.new("LA", (4, 3), (0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_dropping_the_alpha_channel_shows_the_hidden_colors():
    image = Image.new("RGBA", (2, 2), (200, 100, 50, 0))
    assert open_image(image, alpha="drop").mode == "RGB"
    assert open_image(image, alpha="drop").getpixel((0, 0)) == (200, 100, 50)


def test_a_16_bit_image_keeps_its_gray_values():
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(1, 256)
    opened = np.asarray(reopened(Image.fromarray(ramp)))[0]
    assert (np.abs(opened[:, 0].astype(int) - np.arange(256)) <= 1).all()  # clipped, nearly all would be white
    assert (opened[:, 0] == opened[:, 2]).all()


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 2), "white")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to display
    upright = reopened(image, exif=exif)
    assert upright.size == (2, 6) and upright.getpixel((1, 0)) == (255, 0, 0)
    image.save(tmp_path / "sideways.jpg", exif=exif)
    assert open_image(tmp_path / "sideways.jpg").size == (2, 6)


def test_a_crop_is_a_region_of_the_upright_image(tmp_path):
    image = Image.new("RGB", (8, 6), "white")
    image.putpixel((3, 2), (255, 0, 0))
    image.save(tmp_path / "street.png")
    opened = open_image(Crop(tmp_path / "street.png", (2, 1, 6, 5)))
    assert opened.size == (4, 4) and opened.getpixel((1, 1)) == (255, 0, 0)


def test_errors_number_the_images_from_first(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    image = Image.new("RGB", (2, 2))
    with pytest.raises(BadInput, match=r"image 11 \(.*text.png\) cannot be read"):
        open_images([image, tmp_path / "text.png"], first=10)
    with pytest.raises(BadInput, match="image 0 cannot be read"):
        open_images([b"no image"])
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        open_images([image, tmp_path / "nowhere.png"])

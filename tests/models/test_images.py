"""Images are opened as a viewer displays them."""

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

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


GRAY_MODES = ["1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"]
COLOR_MODES = ["P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"]


@pytest.mark.parametrize("mode", GRAY_MODES + COLOR_MODES)
def test_a_ramp_in_any_mode_looks_the_same(mode):
    """A ramp from black to white: no mode turns it black, white or negative."""
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    gray = Image.fromarray(ramp)
    if mode.startswith("I;16"):
        values = ramp.astype(np.uint16) * 257
        image = Image.frombytes(mode, (256, 4), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    elif mode in ("I", "F"):
        image = gray.convert(mode)
    elif mode in ("LA", "La"):
        image = gray.convert("LA").convert(mode)
    elif mode in ("P", "PA"):
        image = gray.convert("P").convert(mode)
    elif mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
        image = ImageCms.applyTransform(gray.convert("RGB"), transform)
    else:
        image = gray.convert("RGB").convert("RGBA" if mode == "RGBa" else mode).convert(mode)
    assert image.mode == mode
    seen = np.asarray(open_image(image)).astype(int)
    if mode == "1":
        assert seen[:, :64].mean() < 80 and seen[:, 192:].mean() > 175
    else:
        assert np.abs(seen - ramp[:, :, None]).max() <= 3


def test_floats_from_0_to_1_are_scaled_to_white(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    Image.fromarray(ramp).save(tmp_path / "ramp.tiff")
    for image in (Image.fromarray(ramp), tmp_path / "ramp.tiff", Image.fromarray(ramp * 255)):
        assert (np.asarray(open_image(image))[0, :, 0] == np.arange(256)).all()


def test_32_bit_integers_that_fit_8_or_16_bits_keep_their_brightness(tmp_path):
    values = np.arange(256, dtype=np.int32)[None]
    Image.fromarray(values * 257).save(tmp_path / "ramp.tiff")
    for image in (Image.fromarray(values), Image.fromarray(values * 257), tmp_path / "ramp.tiff"):
        assert (np.asarray(open_image(image))[0, :, 0] == np.arange(256)).all()
    dark = Image.fromarray(np.full((2, 2), 255, np.uint16))  # 16-bit: nearly black in a viewer too
    assert reopened(dark).getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (np.array([[0, 2**31 - 1]], np.int32), "32-bit gray values .* from 0 to 2.147.*e.09"),
        (np.array([[-5, 100]], np.int32), "from -5 to 100"),
        (np.array([[0.0, 3000.0]], np.float32), "float gray values .* from 0 to 3000"),
        (np.array([[-1.0, 1.0]], np.float32), "from -1 to 1"),
        (np.array([[0.5, np.nan]], np.float32), "nan"),
    ],
)
def test_gray_values_without_a_known_range_are_refused_by_name(values, named):
    with pytest.raises(BadInput, match=named):
        open_image(Image.fromarray(values))
    with pytest.raises(BadInput, match="image 0 cannot be read .*scale them to 0-255"):
        open_images([Image.fromarray(values)])


def test_a_16_bit_tiff_whose_zero_is_white_is_inverted():
    image = Image.fromarray(np.array([[0, 65535]], np.uint16))
    opened = reopened(image, "TIFF", tiffinfo={262: 0})
    assert opened.getpixel((0, 0)) == (255, 255, 255) and opened.getpixel((1, 0)) == (0, 0, 0)


def test_a_transparent_value_of_a_16_bit_image_is_white():
    image = Image.fromarray(np.array([[1000, 40000]], np.uint16))
    opened = reopened(image, transparency=1000)
    assert opened.getpixel((0, 0)) == (255, 255, 255) and opened.getpixel((1, 0)) == (156, 156, 156)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animation_is_its_first_frame(format):
    frames = [Image.new("RGB", (6, 4), color) for color in ((200, 0, 0), (0, 200, 0))]
    opened = reopened(frames[0], format, save_all=True, append_images=frames[1:])
    assert opened.getpixel((2, 2)) == pytest.approx((200, 0, 0), abs=4)


def raw_exif(*entries):
    """Build an EXIF block from (tag, type, count, data), valid or not."""
    table, extra, offset = struct.pack("<H", len(entries)), b"", 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, data in entries:
        value = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", offset + len(extra))
        extra += b"" if len(data) <= 4 else data
        table += struct.pack("<HHI", tag, kind, count) + value
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + table + struct.pack("<I", 0) + extra


def rotation(orientation):
    return (0x0112, 3, 1, struct.pack("<H", orientation))


@pytest.mark.parametrize(
    "other",
    [
        (0x011A, 10, 1, struct.pack("<ii", -1, 0)),  # XResolution -1/0
        (0x0100, 2, 5, b"4000\0"),  # ImageWidth as text
        (0x0213, 2, 8, b"centred\0"),  # YCbCrPositioning as text
    ],
)
def test_exif_that_cannot_be_written_back_still_rotates(other):
    image = Image.new("RGB", (64, 48), "red")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert reopened(image, "JPEG", exif=raw_exif(rotation(6), other)).size == (48, 64)


def test_exif_that_cannot_be_parsed_does_not_hide_the_pixels():
    image = Image.new("RGB", (64, 48), "red")
    assert reopened(image, "PNG", exif=b"Exif\0\0rubbish").size == (64, 48)
    assert reopened(image, "JPEG", exif=raw_exif((0x0112, 2, 4, b"six\0"))).size == (64, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_opened_image_is_not_rotated_again(orientation):
    """Each orientation agrees with Pillow's own transposition, and opening twice changes nothing."""
    from PIL import ImageOps

    image = Image.fromarray(np.arange(6 * 2 * 3, dtype=np.uint8).reshape(2, 6, 3))
    file = io.BytesIO()
    image.save(file, "PNG", exif=raw_exif(rotation(orientation)))
    stored = Image.open(io.BytesIO(file.getvalue()))
    once = open_image(file.getvalue())
    assert (np.asarray(once) == np.asarray(ImageOps.exif_transpose(stored))).all()
    assert (np.asarray(open_image(once)) == np.asarray(once)).all()
    assert (np.asarray(open_image(stored.copy())) == np.asarray(once)).all()


def test_a_crop_outside_the_image_is_refused(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "street.png")
    for box in ((8, 0, 12, 4), (0, 6, 3, 9), (-5, 0, 0, 4), (3, 3, 3, 5)):
        with pytest.raises(BadInput, match="holds no pixel of the image of 8 x 6"):
            open_image(Crop(tmp_path / "street.png", box))


def test_16_bit_values_of_a_12_bit_sensor_are_warned_of():
    ramp = np.linspace(0, 4095, 256, dtype=np.uint16).reshape(1, 256)
    with pytest.warns(UserWarning, match="16-bit gray values below 4096 of 65535 look black"):
        assert np.asarray(open_image(Image.fromarray(ramp))).max() == 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(open_image(Image.fromarray(0 * ramp))).max() == 0  # a black image is black


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(size):
    with pytest.raises(BadInput, match=f"{size[0]} x {size[1]} pixels hold no image"):
        open_image(Image.new("RGB", size))


def test_a_long_message_keeps_its_place_and_its_fix():
    message = str(BadInput(f"line 3: the name {'x' * 5000} is too long; shorten it"))
    assert len(message) < 2000 and message.startswith("line 3: the name x") and message.endswith("; shorten it")


@pytest.mark.parametrize("value", [None, 3, {"bytes": b""}, float("nan")])
def test_what_is_no_image_is_refused_by_its_type(value):
    with pytest.raises(BadInput, match=f"image 4 cannot be read .it is of type {type(value).__name__}; pass a PIL"):
        open_images([value], first=4)

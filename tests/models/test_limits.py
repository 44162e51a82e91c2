"""Hostile images are refused before they are decoded; a shortage of memory is not blamed on an image."""

import io
import os
import struct
import zlib

import pytest
from PIL import Image

import vladva_kit as vk
from vladva_kit.data.validation import decode_image
from vladva_kit.embedder.identity import image_key
from vladva_kit.models import images as opening
from vladva_kit.models.images import BadInput, image_batches, open_image, open_images
from vladva_kit.models.resolution import check_resized


def png(width, height):
    """Return a gray PNG of this size that compresses to a few bytes, without making the image here."""
    part = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(width + 1)) for _ in range(min(height, 50))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels) + part(b"IEND", b"")


@pytest.mark.parametrize("size", [(1, 20_000), (60_000, 1), (20_000, 20_000), (13_000, 13_000)])
def test_a_narrow_or_huge_image_is_refused_before_it_is_decoded(monkeypatch, size):
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(BadInput, match=r"image 0 cannot be read \(.*(narrower than 1:1000|more than|exceeds limit)"):
        open_images([png(*size)])
    with pytest.raises(BadInput, match="the image"):
        decode_image(png(*size), "the image", verify=True)


def test_a_narrow_image_in_memory_is_refused_too():
    with pytest.raises(BadInput, match="1 x 1500 pixels are narrower than 1:1000; crop the image"):
        open_image(Image.new("L", (1, 1500)))
    assert open_image(Image.new("L", (1, 900))).size == (1, 900)


def test_an_image_that_a_processor_would_enlarge_too_far_is_refused():
    processor = vk.load_lvlm("emoji-llava").processor
    processor.image_processor.size = {"shortest_edge": 336}
    check_resized(processor, (640, 480))
    check_resized(processor, (10, 1000))
    with pytest.raises(BadInput, match="an image of 1 x 180 pixels would be enlarged to 336 x 60480: crop it"):
        check_resized(processor, (1, 180))


def test_postscript_named_as_a_photo_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("ran Ghostscript"))
    path = tmp_path / "cat.jpg"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(BadInput, match="cannot identify image file"):
        open_images([path])
    with pytest.raises(BadInput, match="cannot identify image file"):
        decode_image(path, "the image", verify=True)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "JPEG2000", "MPO"])
def test_all_usual_formats_open(format):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(file, format)
    assert open_image(file.getvalue()).size == (8, 6)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (open_image, image_key):
        with pytest.raises(BadInput, match=r"pipe\.png is not a regular file"):
            read(tmp_path / "pipe.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "pipe.png", "short": "a dog"}\n')
    with pytest.raises(BadInput, match=r"line 1: image .*pipe\.png"):
        vk.load_pairs(tmp_path)


@pytest.mark.parametrize("read", [lambda: open_images([b""]), lambda: decode_image(b"", "the image")])
def test_a_memory_error_is_not_a_bad_image(monkeypatch, read):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(opening.Image, "open", fail)
    with pytest.raises(MemoryError):
        read()


def test_batches_of_large_images_are_smaller(monkeypatch):
    monkeypatch.setattr(opening, "MAX_BATCH_PIXELS", 250)
    sizes = [(10, 10), (10, 10), (10, 10), (20, 20), (5, 5)]
    batches = list(image_batches([Image.new("RGB", size) for size in sizes], 3))
    assert [[image.size for image in batch] for batch in batches] == [sizes[:2], sizes[2:3], sizes[3:4], sizes[4:]]
    assert [len(batch) for batch in image_batches([Image.new("RGB", (1, 1))] * 7, 3)] == [3, 3, 1]

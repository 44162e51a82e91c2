"""Decode and resize JPEG photos on one core: images per second by library and size.

Photos are drawn, 640 x 480 pixels each as in COCO, and resized to a square. "kit" is `open_image` and Pillow's bicubic
resize, which is what training does per image before the processor normalizes it; "Pillow draft" lets the decoder skip
detail where the size is less than half the photo's. torchvision and simplejpeg are measured if they are installed.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter

from experiments.benchmarks import measure
from vladva_kit.models.images import open_image

PHOTO = (640, 480)
LIBRARIES = ("torchvision", "simplejpeg")
Load = Callable[[bytes, int], object]


def draw_photos(n: int, size: tuple[int, int] = PHOTO) -> list[bytes]:
    """Return n JPEG files with the detail of photos, about 100 kB each: `draw_photos(2)`."""
    random, files = np.random.default_rng(0), []
    for _ in range(n):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        noise = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        photo = Image.blend(coarse, noise.filter(ImageFilter.GaussianBlur(1)), 0.4)
        photo.save(file := io.BytesIO(), "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def load_with_kit(file: bytes, side: int) -> Image.Image:
    """Open a file as the kit does and resize it: `load_with_kit(file, 336).size`."""
    return open_image(file).resize((side, side), Image.Resampling.BICUBIC)


def load_with_draft(file: bytes, side: int) -> Image.Image:
    """Decode at the smallest of the JPEG's own scales that is large enough, and resize."""
    image = Image.open(io.BytesIO(file))
    image.draft("RGB", (side, side))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def load_with_torchvision(file: bytes, side: int) -> torch.Tensor:
    """Decode and resize with torchvision's operations on tensors."""
    from torchvision.io import decode_jpeg
    from torchvision.transforms.v2.functional import resize

    data = torch.frombuffer(bytearray(file), dtype=torch.uint8)
    return resize(decode_jpeg(data), [side, side], antialias=True)


def load_with_simplejpeg(file: bytes, side: int) -> Image.Image:
    """Decode with libjpeg-turbo, and resize with Pillow."""
    import simplejpeg

    return Image.fromarray(simplejpeg.decode_jpeg(file)).resize((side, side), Image.Resampling.BICUBIC)


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(__doc__, images=200, sides=[336, 512])
    torch.set_num_threads(1)
    files = draw_photos(args.images)
    loaders: dict[str, Load] = {"kit": load_with_kit, "Pillow draft": load_with_draft}
    found = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
    loaders.update({name: globals()[f"load_with_{name}"] for name in found})
    seconds, rows = {}, [["size", "loader", measure.SECONDS, "images per second and core", "relative to the kit"]]
    for side in args.sides:
        methods = {
            name: lambda load=load, side=side: [load(file, side) for file in files] for name, load in loaders.items()
        }
        timed = measure.time_interleaved(methods, args.runs)
        for name, times in timed.items():
            rate, ratio = args.images / sorted(times)[len(times) // 2], measure.median_ratio(timed, "kit", name)
            rows.append([f"{side} px", name, measure.median_and_range(times), f"{rate:.0f}", f"{ratio:.2f}"])
        seconds[str(side)] = timed
    missing = [f"{name}: not measured, since it is not installed." for name in LIBRARIES if name not in found]
    average = sum(map(len, files)) / len(files) / 1000
    parts = [f"{args.images} photos of {average:.0f} kB, one thread.", measure.table(rows), *missing]
    measure.write_page(args.out, "images", __doc__, parts, {"seconds": seconds})


if __name__ == "__main__":
    main()

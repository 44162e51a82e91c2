"""Likelihood of captions: with each image's prefix computed once, and with one full forward pass per pair.

Scores of both agree; the benchmark stops if they differ by more than 1e-3.
"""

from __future__ import annotations

import vladva_kit as vk
from experiments.benchmarks import measure
from experiments.benchmarks.shapes import random_lvlm, sample_pairs

TARGET = {"at_least": 3.0}


def main() -> None:
    """Run the benchmark and write its page."""
    args = measure.parse_arguments(
        __doc__, shape="smolvlm-2-layers", images=4, captions=8, batch=8, image_side=256, device="cpu", dtype="float32"
    )
    lvlm = random_lvlm(args.shape, args.device, args.dtype, args.image_side)
    pairs = sample_pairs(max(args.images, args.captions))
    images, captions = [pair.load_image() for pair in pairs[: args.images]], [p.short for p in pairs[: args.captions]]

    def score(share_prefix: bool):
        options = {"batch_size": args.batch, "share_prefix": share_prefix, "progress": False}
        return vk.likelihood(lvlm, images, captions, **options)

    image_tokens = (lvlm.model.config.vision_config.image_size // lvlm.model.config.vision_config.patch_size) ** 2
    difference = float((score(True) - score(False)).abs().max())
    if args.dtype == "float32" and not difference < 1e-3:
        raise RuntimeError(f"the scores differ by {difference:.1e}: the shared prefix is wrong")
    methods = {"shared prefix": lambda: score(True), "plain pairs": lambda: score(False)}
    seconds = measure.time_interleaved(methods, args.runs, warmed_up=True)
    ratio = measure.median_ratio(seconds, "plain pairs", "shared prefix")
    n = len(images) * len(captions)
    rows = [
        [name, measure.median_and_range(times), f"{n / sorted(times)[len(times) // 2]:.1f}"]
        for name, times in seconds.items()
    ]
    targets = [measure.target("Plain pairs / shared prefix", ratio, **TARGET)]
    parts = [
        f"{args.images} images of {image_tokens} tokens, {args.captions} captions each, {args.shape}.",
        measure.table([["method", measure.SECONDS, "scores per second"], *rows]),
        *measure.with_profile(targets, "the shared prefix", methods["shared prefix"]),
        f"The scores differ by at most {difference:.1e}.",
    ]
    values = {"seconds": seconds, "ratio": ratio, "difference": difference}
    measure.write_page(args.out, "likelihood", __doc__, parts, values)


if __name__ == "__main__":
    main()

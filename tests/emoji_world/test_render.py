import random

import numpy as np
import pytest
from PIL import Image, ImageOps

from vladva_kit.emoji_world.drawings import drawing
from vladva_kit.emoji_world.nouns import GROUNDS, SEEN_STYLES, SIZES
from vladva_kit.emoji_world.render import placements, render
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene

RED, BLUE = Thing("penguin", color="red"), Thing("elephant", color="blue")


def many(layout, n=60):
    rng, scenes = random.Random(3), []
    while len(scenes) < n:
        scene = sample_scene(rng)
        if scene.layout == layout and len(scene.things) > 1:
            scenes.append(scene)
    return scenes


def mask(image, channel):
    """Mark the pixels in which a channel clearly exceeds both others."""
    values = np.asarray(image).astype(int)
    others = [values[..., other] for other in range(3) if other != channel]
    return values[..., channel] > np.maximum(*others) + 60


def red_and_blue(layout, seed):
    image = render(Scene((RED, BLUE), layout, "stone", SEEN_STYLES[seed % len(SEEN_STYLES)], seed), 128)
    return mask(image, 0), mask(image, 2)


def test_the_scene_determines_the_pixels():
    scene = Scene((RED, BLUE), seed=4)
    assert np.array_equal(render(scene), render(Scene((RED, BLUE), seed=4)))
    assert not np.array_equal(render(scene), render(Scene((RED, BLUE), seed=5)))


@pytest.mark.parametrize("size", [96, 130, 224])
def test_an_image_has_the_given_size(size):
    image = render(Scene((RED, BLUE)), size)
    assert (image.size, image.mode) == ((size, size), "RGB")


def test_an_image_looks_alike_at_any_size():
    scene = Scene((RED, BLUE), ground="snow", seed=2)
    small, large = render(scene, 96), render(scene, 192).resize((96, 96))
    assert np.abs(np.asarray(small, float) - np.asarray(large, float)).mean() < 6


def test_every_ground_looks_different():
    means = [np.asarray(render(Scene((BLUE,), ground=ground)), float)[:12].mean((0, 1)) for ground in GROUNDS]
    for index, mean in enumerate(means):
        assert all(np.abs(mean - other).max() > 15 for other in means[:index])


def test_a_thing_is_placed_as_often_as_its_count():
    for scene in many("row", 20) + many("column", 20):
        placed = [placement.thing for placement in placements(scene)]
        assert placed == [index for index, thing in enumerate(scene.things) for _ in range(thing.count)]


@pytest.mark.parametrize(("layout", "axis"), [("row", "x"), ("column", "y")])
def test_things_in_a_row_or_column_do_not_overlap(layout, axis):
    for scene in many(layout):
        for before in placements(scene):
            for after in placements(scene):
                if before.thing < after.thing:
                    gap = getattr(after, axis) - after.side / 2 - getattr(before, axis) - before.side / 2
                    assert gap > -0.06, scene  # squares may overlap at the corners, which drawings rarely fill


@pytest.mark.parametrize("layout", ["row", "column", "stack"])
def test_every_drawing_has_its_size_and_stays_inside_the_image(layout):
    for scene in many(layout):
        for placement in placements(scene):
            assert placement.side == pytest.approx(SIZES[scene.things[placement.thing].size], rel=0.051)
            for center in (placement.x, placement.y):
                assert placement.side / 2 - 1e-9 <= center <= 1 - placement.side / 2 + 1e-9


def test_things_in_a_stack_overlap_without_hiding_each_other():
    for scene in many("stack"):
        back, front = placements(scene)
        assert (back.thing, front.thing) == (1, 0)  # drawn back to front
        sides = [
            min(getattr(back, axis) + back.side / 2, getattr(front, axis) + front.side / 2)
            - max(getattr(back, axis) - back.side / 2, getattr(front, axis) - front.side / 2)
            for axis in "xy"
        ]
        assert min(sides) > 0
        assert sides[0] * sides[1] / front.side**2 > 0.1
        assert sides[0] * sides[1] / back.side**2 < 0.7


@pytest.mark.parametrize(("layout", "axis"), [("row", 1), ("column", 0)])
def test_left_and_above_hold_in_the_pixels(layout, axis):
    for seed in range(10):
        red, blue = red_and_blue(layout, seed)
        first, second = np.nonzero(red)[axis], np.nonzero(blue)[axis]
        assert min(len(first), len(second)) > 100
        assert np.percentile(first, 95) < np.percentile(second, 5)


def silhouette(scene, placement, size):
    """Compute a drawing's mask from its placement alone."""
    sprite = drawing(scene.things[placement.thing].noun, scene.style).getchannel("A")
    side = round(placement.side * size)
    sprite = sprite.resize((side, round(side * placement.aspect)))
    sprite = ImageOps.mirror(sprite) if placement.mirrored else sprite
    sheet = Image.new("L", (size, size))
    corner = (round(placement.x * size - side / 2), round(placement.y * size - sprite.height / 2))
    sheet.paste(sprite.rotate(placement.tilt), corner)
    return np.asarray(sheet) > 128


def test_the_front_thing_covers_the_back_thing_in_the_pixels():
    things = (Thing("clock", color="red"), Thing("house", color="blue", size="big"))
    for seed in range(12):
        scene = Scene(things, "stack", "stone", SEEN_STYLES[seed % len(SEEN_STYLES)], seed)
        behind, front = (silhouette(scene, placement, 192) for placement in placements(scene))
        values = np.asarray(render(scene, 192)).astype(int)
        shared = values[behind & front]
        assert len(shared) > 0.02 * front.sum()
        assert (shared[:, 0] > shared[:, 2]).mean() > 0.9  # red, not blue
        alone = values[behind & ~front]
        assert (alone[:, 2] > alone[:, 0]).mean() > 0.9


def test_sizes_hold_in_the_pixels():
    for seed in range(6):
        big, small = (
            mask(render(Scene((Thing("penguin", color="red", size=size),), ground="stone", seed=seed), 128), 0).sum()
            for size in ("big", "small")
        )
        assert 1.6 < big / small < 3.2  # (0.42 / 0.28)² = 2.25, ± 5 % per axis, and some shading


def test_draw_replaces_the_sprites():
    scene, calls = Scene((RED, BLUE), style=2), []

    def transparent(noun, style, color):
        calls.append((noun, style, color))
        return Image.new("RGBA", (64, 64))

    image = render(scene, 96, transparent)
    assert calls == [("penguin", 2, "red"), ("elephant", 2, "blue")]
    assert not mask(image, 0).any() and not mask(image, 2).any()

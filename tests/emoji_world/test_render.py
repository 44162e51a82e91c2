import random

import numpy as np
import pytest
from PIL import Image, ImageOps

from vladva_kit.emoji_world.drawings import drawing
from vladva_kit.emoji_world.nouns import GROUNDS, SEEN_STYLES, SIZES
from vladva_kit.emoji_world.render import place, render
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene

RED, BLUE = Thing("penguin", color="red"), Thing("elephant", color="blue")


def many(layout, n=60):
    rng, scenes = random.Random(3), []
    while len(scenes) < n:
        scene = sample_scene(rng)
        if scene.layout == layout and len(scene.things) > 1:
            scenes.append(scene)
    return scenes


def mask(picture, channel):
    """Where a channel outdoes both others by far."""
    values = np.asarray(picture).astype(int)
    others = [values[..., other] for other in range(3) if other != channel]
    return values[..., channel] > np.maximum(*others) + 60


def red_and_blue(layout, seed):
    picture = render(Scene((RED, BLUE), layout, "stone", SEEN_STYLES[seed % len(SEEN_STYLES)], seed), 128)
    return mask(picture, 0), mask(picture, 2)


def test_the_same_scene_gives_the_same_pixels_and_another_seed_others():
    scene = Scene((RED, BLUE), seed=4)
    assert np.array_equal(render(scene), render(Scene((RED, BLUE), seed=4)))
    assert not np.array_equal(render(scene), render(Scene((RED, BLUE), seed=5)))


@pytest.mark.parametrize("size", [96, 130, 224])
def test_a_picture_has_the_size_asked_for(size):
    picture = render(Scene((RED, BLUE)), size)
    assert (picture.size, picture.mode) == ((size, size), "RGB")


def test_a_picture_looks_alike_at_any_size():
    scene = Scene((RED, BLUE), ground="snow", seed=2)
    small, large = render(scene, 96), render(scene, 192).resize((96, 96))
    assert np.abs(np.asarray(small, float) - np.asarray(large, float)).mean() < 6


def test_every_ground_looks_different():
    pictures = [np.asarray(render(Scene((BLUE,), ground=ground)), float)[:12].mean((0, 1)) for ground in GROUNDS]
    for index, color in enumerate(pictures):
        assert all(np.abs(color - other).max() > 15 for other in pictures[:index])


def test_a_thing_in_a_count_is_placed_that_often():
    for scene in many("row", 20) + many("column", 20):
        placed = [device_choice.thing for device_choice in place(scene)]
        assert placed == [index for index, thing in enumerate(scene.things) for _ in range(thing.count)]


@pytest.mark.parametrize(("layout", "axis"), [("row", "x"), ("column", "y")])
def test_things_in_a_row_or_column_lie_one_after_the_other(layout, axis):
    for scene in many(layout):
        for before in place(scene):
            for after in place(scene):
                if before.thing < after.thing:
                    gap = getattr(after, axis) - after.side / 2 - getattr(before, axis) - before.side / 2
                    assert gap > -0.06, scene  # the corners of two squares may touch; drawings seldom fill them


@pytest.mark.parametrize("layout", ["row", "column", "stack"])
def test_everything_lies_within_the_picture_in_its_size(layout):
    for scene in many(layout):
        for device_choice in place(scene):
            assert device_choice.side == pytest.approx(SIZES[scene.things[device_choice.thing].size], rel=0.051)
            for center in (device_choice.x, device_choice.y):
                assert device_choice.side / 2 - 1e-9 <= center <= 1 - device_choice.side / 2 + 1e-9


def test_in_a_stack_both_overlap_and_neither_hides_the_other():
    for scene in many("stack"):
        back, front = place(scene)
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
def test_left_and_above_are_seen_in_the_pixels(layout, axis):
    for seed in range(10):
        red, blue = red_and_blue(layout, seed)
        first, second = np.nonzero(red)[axis], np.nonzero(blue)[axis]
        assert min(len(first), len(second)) > 100
        assert np.percentile(first, 95) < np.percentile(second, 5)


def silhouette(scene, device_choice, size):
    """Where a drawing lies, from its place alone."""
    sprite = drawing(scene.things[device_choice.thing].noun, scene.style).getchannel("A")
    side = round(device_choice.side * size)
    sprite = sprite.resize((side, round(side * device_choice.aspect)))
    sprite = ImageOps.mirror(sprite) if device_choice.mirrored else sprite
    sheet = Image.new("L", (size, size))
    corner = (round(device_choice.x * size - side / 2), round(device_choice.y * size - sprite.height / 2))
    sheet.paste(sprite.rotate(device_choice.tilt), corner)
    return np.asarray(sheet) > 128


def test_what_is_in_front_covers_what_is_behind_in_the_pixels():
    things = (Thing("clock", color="red"), Thing("house", color="blue", size="big"))
    for seed in range(12):
        scene = Scene(things, "stack", "stone", SEEN_STYLES[seed % len(SEEN_STYLES)], seed)
        behind, front = (silhouette(scene, device_choice, 192) for device_choice in place(scene))
        values = np.asarray(render(scene, 192)).astype(int)
        shared = values[behind & front]
        assert len(shared) > 0.02 * front.sum()
        assert (shared[:, 0] > shared[:, 2]).mean() > 0.9  # red, not blue
        alone = values[behind & ~front]
        assert (alone[:, 2] > alone[:, 0]).mean() > 0.9


def test_sizes_are_seen_in_the_pixels():
    for seed in range(6):
        big, small = (
            mask(render(Scene((Thing("penguin", color="red", size=size),), ground="stone", seed=seed), 128), 0).sum()
            for size in ("big", "small")
        )
        assert 1.6 < big / small < 3.2  # (0.42 / 0.28)² = 2.25, ± 5 % in each direction and a little shading

"""Render a scene: a textured ground, soft shadows, and one sprite per drawing."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vladva_kit.emoji_world.drawings import drawing
from vladva_kit.emoji_world.nouns import SIZES
from vladva_kit.emoji_world.scenes import Scene, Thing

_GROUND_COLORS = {
    "grass": (148, 206, 120),
    "sand": (240, 219, 166),
    "snow": (240, 245, 252),
    "water": (134, 196, 238),
    "wood": (196, 152, 108),
    "stone": (186, 188, 194),
}
_N_TEXTURES = 8  # variants of each ground


@dataclass(frozen=True)
class Placement:
    """One drawing in the image: center and side as fractions of the image's side, tilt in degrees."""

    thing: int  # its index in the scene
    x: float
    y: float
    side: float
    tilt: float
    mirrored: bool
    aspect: float


def placements(scene: Scene) -> list[Placement]:
    """Place the drawings of a scene, in back-to-front order; the same scene always gives the same result."""
    rng = random.Random(scene.seed)
    if scene.layout == "stack":
        return _place_stack(scene, rng)
    sides = [SIZES[thing.size] for thing in scene.things]
    room = 1 - sum(sides)
    cuts = sorted(rng.random() for _ in sides)  # divides the free room at random between the gaps and both margins
    shares = [b - a for a, b in zip([0, *cuts], [*cuts, 1], strict=True)]
    even = 1 / (len(sides) + 1)
    along, placed = 0.0, []
    for index, (thing, side) in enumerate(zip(scene.things, sides, strict=True)):
        along += room * (0.6 * even + 0.4 * shares[index])
        placed += _place_thing(index, thing, along + side / 2, scene.layout == "row", rng)
        along += side
    return placed


def _place_thing(index: int, thing: Thing, along: float, in_row: bool, rng: random.Random) -> list[Placement]:
    """Place the copies of one thing next to each other, across the layout's axis."""
    side = SIZES[thing.size]
    spread = min(side * 1.06, (0.99 - side) / max(1, thing.count - 1))
    free = max(0.0, 1 - spread * (thing.count - 1) - side)
    middle = 0.5 + rng.uniform(-0.5, 0.5) * min(free, 0.34)
    placed = []
    for copy in range(thing.count):
        across = middle + spread * (copy - (thing.count - 1) / 2)
        x, y = (along, across) if in_row else (across, along)
        placed.append(_placement(index, x, y, side, rng))
    return placed


def _place_stack(scene: Scene, rng: random.Random) -> list[Placement]:
    front, back = (SIZES[thing.size] for thing in scene.things)
    distance = 0.36 * (front + back)  # between centers: both stay recognizable, and even round drawings overlap
    shift_x, shift_y = rng.choice((-1, 1)) * distance * rng.uniform(0.62, 0.75), distance * rng.uniform(0.35, 0.55)
    back_x, back_y = 0.5 - shift_x / 2 + rng.uniform(-0.1, 0.1), 0.5 - shift_y / 2 + rng.uniform(-0.1, 0.1)
    return [
        _placement(1, back_x, back_y, back, rng),
        _placement(0, back_x + shift_x, back_y + shift_y, front, rng),
    ]


def _placement(index: int, x: float, y: float, side: float, rng: random.Random) -> Placement:
    side *= rng.uniform(0.95, 1.05)
    x, y = (min(max(center + rng.uniform(-0.01, 0.01), side / 2), 1 - side / 2) for center in (x, y))
    return Placement(index, x, y, side, rng.uniform(-8, 8), rng.random() < 0.5, rng.uniform(0.9, 1.1))


def render(scene: Scene, size: int = 96, draw: Callable[[str, int, str | None], Image.Image] = drawing) -> Image.Image:
    """Render a scene as an RGB image of `size` × `size` pixels.

        render(sample_scene(random.Random(0)), size=288)

    The same scene gives the same pixels at the same size. `draw(noun, style, color)` returns the RGBA sprite of a
    drawing; pass another function to augment the sprites.
    """
    image = _ground(scene.ground, scene.seed % _N_TEXTURES, size).copy()
    for placement in placements(scene):
        thing = scene.things[placement.thing]
        side = max(6, round(placement.side * size))
        shape = side, max(6, round(side * placement.aspect))
        sprite = draw(thing.noun, scene.style, thing.color).resize(shape, Image.Resampling.BILINEAR, reducing_gap=2)
        if placement.mirrored:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sprite = sprite.rotate(placement.tilt, Image.Resampling.BILINEAR)
        left, top = round(placement.x * size - sprite.width / 2), round(placement.y * size - sprite.height / 2)
        shadow = _shadow(side)
        image.paste((25, 25, 45), (left + (side - shadow.width) // 2, top + round(side * 0.80)), shadow)
        image.paste(sprite, (left, top), sprite)
    return image


@lru_cache(maxsize=256)
def _shadow(side: int) -> Image.Image:
    """Return a blurred ellipse as a mask, for a drawing `side` pixels wide."""
    width, height = round(side * 1.1), max(4, round(side * 0.30))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse((width * 0.12, height * 0.22, width * 0.88, height * 0.78), fill=95)
    return mask.filter(ImageFilter.GaussianBlur(side * 0.045))


@lru_cache(maxsize=256)
def _ground(ground: str, variant: int, size: int) -> Image.Image:
    """Draw a ground: its color, a vertical gradient and a faint texture."""
    rng = np.random.default_rng([variant, *ground.encode()])
    base = np.array(_GROUND_COLORS[ground], np.float32) + rng.uniform(-7, 7, 3)
    light = np.linspace(6, -8, size)[:, None, None] + np.zeros((1, size, 1))
    rows, columns = np.mgrid[0:size, 0:size] / size
    relief = _relief(ground, rows, columns, rng)[..., None]
    image = Image.fromarray(np.clip(base + light + relief, 0, 255).astype(np.uint8))
    if ground in ("grass", "sand", "snow", "stone"):
        _speckle(image, ground, rng)
    return image


def _relief(ground: str, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the shading of a ground's large forms, about ±10 of 255."""
    phase = rng.uniform(0, 6.28)
    if ground == "water":
        return 9 * np.sin(44 * rows + 2.2 * np.sin(9 * columns + phase) + phase)
    if ground == "wood":
        seam = np.abs((rows * 4 + phase) % 1 - 0.5) > 0.47
        return 5 * np.sin(90 * rows + 3 * np.sin(5 * columns + phase)) - 34 * seam
    if ground == "snow":
        return 4 * np.sin(7 * rows + 3 * columns + phase)
    return np.zeros_like(rows)


def _speckle(image: Image.Image, ground: str, rng: np.random.Generator) -> None:
    """Add small marks, slightly darker or lighter than the ground: blades of grass, grains of sand, cracks."""
    pen, size = ImageDraw.Draw(image), image.width
    unit = size / 96
    for _ in range({"grass": 70, "sand": 110, "snow": 40, "stone": 26}[ground]):
        x, y = rng.uniform(0, size, 2)
        shade = rng.choice([-22, 14])
        pixel = cast("tuple[int, int, int]", image.getpixel((int(x), int(y))))
        color = tuple(int(np.clip(channel + shade, 0, 255)) for channel in pixel)
        if ground == "grass":
            pen.line((x, y, x + rng.uniform(-1.2, 1.2) * unit, y - 3.2 * unit), fill=color, width=max(1, round(unit)))
        elif ground == "stone":
            end = x + rng.uniform(-9, 9) * unit, y + rng.uniform(-5, 5) * unit
            pen.line((x, y, *end), fill=color, width=max(1, round(unit * 0.8)))
        else:
            radius = 0.7 * unit
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

"""Pixels of a scene: a textured ground, soft shadows, and the drawings in their places."""

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from vladva_kit.emoji_world.augment import between_artists, wobbled
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
_TEXTURES = 8  # variants of each ground


@dataclass(frozen=True)
class DeviceChoice:
    """Where one drawing of a scene goes: center and side as parts of the picture's side, tilt in degrees."""

    thing: int
    x: float
    y: float
    side: float
    tilt: float
    mirrored: bool
    aspect: float


def place(scene: Scene) -> list[DeviceChoice]:
    """The drawings of a scene, back to front; the same scene always gives the same places."""
    rng = random.Random(scene.seed)
    if scene.layout == "stack":
        return _place_stack(scene, rng)
    sides = [SIZES[thing.size] for thing in scene.things]
    room = 1 - sum(sides)
    cuts = sorted(rng.random() for _ in sides)  # the free room is shared out by chance, at both ends and between
    shares = [b - a for a, b in zip([0, *cuts], [*cuts, 1], strict=True)]
    even = 1 / (len(sides) + 1)
    along, placements = 0.0, []
    for index, (thing, side) in enumerate(zip(scene.things, sides, strict=True)):
        along += room * (0.6 * even + 0.4 * shares[index])
        placements += _place_thing(index, thing, along + side / 2, scene.layout == "row", rng)
        along += side
    return placements


def _place_thing(index: int, thing: Thing, along: float, in_row: bool, rng: random.Random) -> list[DeviceChoice]:
    """One thing's drawings: side by side across the layout's axis when there are several."""
    side = SIZES[thing.size]
    spread = min(side * 1.06, (0.99 - side) / max(1, thing.count - 1))
    free = max(0.0, 1 - spread * (thing.count - 1) - side)
    middle = 0.5 + rng.uniform(-0.5, 0.5) * min(free, 0.34)
    placements = []
    for copy in range(thing.count):
        across = middle + spread * (copy - (thing.count - 1) / 2)
        x, y = (along, across) if in_row else (across, along)
        placements.append(_placement(index, x, y, side, rng))
    return placements


def _place_stack(scene: Scene, rng: random.Random) -> list[DeviceChoice]:
    front, back = (SIZES[thing.size] for thing in scene.things)
    apart = 0.36 * (front + back)  # of the centers: enough of both is seen, and round drawings overlap too
    shift_x, shift_y = rng.choice((-1, 1)) * apart * rng.uniform(0.62, 0.75), apart * rng.uniform(0.35, 0.55)
    back_x, back_y = 0.5 - shift_x / 2 + rng.uniform(-0.1, 0.1), 0.5 - shift_y / 2 + rng.uniform(-0.1, 0.1)
    return [
        _placement(1, back_x, back_y, back, rng),
        _placement(0, back_x + shift_x, back_y + shift_y, front, rng),
    ]


def _placement(index: int, x: float, y: float, side: float, rng: random.Random) -> DeviceChoice:
    side *= rng.uniform(0.95, 1.05)
    x, y = (min(max(center + rng.uniform(-0.01, 0.01), side / 2), 1 - side / 2) for center in (x, y))
    return DeviceChoice(index, x, y, side, rng.uniform(-8, 8), rng.random() < 0.5, rng.uniform(0.9, 1.1))


def render(scene: Scene, size: int = 96, wobble: random.Random | None = None) -> Image.Image:
    """Draws a scene as an RGB picture of `size` × `size` pixels.

        render(sample_scene(random.Random(0)), size=288)

    The same scene gives the same pixels at the same size. wobble: for training, a source of chance that bends and
    repaints each drawing.
    """
    picture = _ground(scene.ground, scene.seed % _TEXTURES, size).copy()
    for device_choice in place(scene):
        thing = scene.things[device_choice.thing]
        side = max(6, round(device_choice.side * size))
        if wobble is None:
            sprite = drawing(thing.noun, scene.style, thing.color)
        else:
            sprite = wobbled(between_artists(thing.noun, scene.style, thing.color, wobble), wobble)
        sprite = sprite.resize(
            (side, max(6, round(side * device_choice.aspect))), Image.Resampling.BILINEAR, reducing_gap=2
        )
        if device_choice.mirrored:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sprite = sprite.rotate(device_choice.tilt, Image.Resampling.BILINEAR)
        left, top = round(device_choice.x * size - sprite.width / 2), round(device_choice.y * size - sprite.height / 2)
        shadow = _shadow(side)
        picture.paste((25, 25, 45), (left + (side - shadow.width) // 2, top + round(side * 0.80)), shadow)
        picture.paste(sprite, (left, top), sprite)
    return picture


@lru_cache(maxsize=256)
def _shadow(side: int) -> Image.Image:
    """A blurred ellipse as a mask, for a drawing `side` pixels wide."""
    width, height = round(side * 1.1), max(4, round(side * 0.30))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse((width * 0.12, height * 0.22, width * 0.88, height * 0.78), fill=95)
    return mask.filter(ImageFilter.GaussianBlur(side * 0.045))


@lru_cache(maxsize=256)
def _ground(ground: str, variant: int, size: int) -> Image.Image:
    """A ground's color, a vertical gradient and a hint of its texture."""
    rng = np.random.default_rng([variant, *ground.encode()])
    base = np.float32(_GROUND_COLORS[ground]) + rng.uniform(-7, 7, 3)
    light = np.linspace(6, -8, size)[:, None, None] + np.zeros((1, size, 1))
    rows, columns = np.mgrid[0:size, 0:size] / size
    picture = Image.fromarray(
        np.clip(base + light + _relief(ground, rows, columns, rng)[..., None], 0, 255).astype(np.uint8)
    )
    if ground in ("grass", "sand", "snow", "stone"):
        _speckle(picture, ground, rng)
    return picture


def _relief(ground: str, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light and dark of a ground's large forms, about ±10 of 255."""
    phase = rng.uniform(0, 6.28)
    if ground == "water":
        return 9 * np.sin(44 * rows + 2.2 * np.sin(9 * columns + phase) + phase)
    if ground == "wood":
        seam = np.abs((rows * 4 + phase) % 1 - 0.5) > 0.47
        return 5 * np.sin(90 * rows + 3 * np.sin(5 * columns + phase)) - 34 * seam
    if ground == "snow":
        return 4 * np.sin(7 * rows + 3 * columns + phase)
    return np.zeros_like(rows)


def _speckle(picture: Image.Image, ground: str, rng: np.random.Generator) -> None:
    """Blades of grass, grains of sand, crystals, cracks: small marks a little darker or lighter than the ground."""
    pen, size = ImageDraw.Draw(picture), picture.width
    unit = size / 96
    for _ in range({"grass": 70, "sand": 110, "snow": 40, "stone": 26}[ground]):
        x, y = rng.uniform(0, size, 2)
        shade = rng.choice([-22, 14])
        color = tuple(int(np.clip(part + shade, 0, 255)) for part in picture.getpixel((int(x), int(y))))
        if ground == "grass":
            pen.line((x, y, x + rng.uniform(-1.2, 1.2) * unit, y - 3.2 * unit), fill=color, width=max(1, round(unit)))
        elif ground == "stone":
            pen.line(
                (x, y, x + rng.uniform(-9, 9) * unit, y + rng.uniform(-5, 5) * unit),
                fill=color,
                width=max(1, round(unit * 0.8)),
            )
        else:
            radius = 0.7 * unit
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)

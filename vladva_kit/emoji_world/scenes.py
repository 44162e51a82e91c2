"""Scenes of one to three things: what they contain, which are valid, how they are sampled."""

import random
from dataclasses import asdict, dataclass, replace

from vladva_kit.emoji_world.drawings import foreign_colors, native_colors, nouns_in_style
from vladva_kit.emoji_world.nouns import GROUNDS, NOUNS, SEEN_STYLES, SIZES, UNSEEN_STYLE

# For each layout, the relation of an earlier thing to a later one, and the converse.
LAYOUTS = {
    "row": ("to the left of", "to the right of"),
    "column": ("above", "below"),
    "stack": ("in front of", "behind"),
}
CONVERSE = {a: b for pair in LAYOUTS.values() for a, b in (pair, pair[::-1])}
WORDS = tuple(noun.word for noun in NOUNS)
STYLE_GROUPS = {"seen": SEEN_STYLES, "unseen": (UNSEEN_STYLE,)}


@dataclass(frozen=True)
class Thing:
    """One to three copies of a noun, with a color (None: its native colors) and a size."""

    noun: str
    count: int = 1
    color: str | None = None
    size: str = "small"


@dataclass(frozen=True)
class Scene:
    """Things in a layout on a ground; `seed` fixes the random details (position, tilt, texture).

    Scene((Thing("dog", color="blue"), Thing("cat")), layout="row", ground="grass")   # a blue dog left of a cat
    """

    things: tuple[Thing, ...]
    layout: str = "row"
    ground: str = "grass"
    style: int = 0
    seed: int = 0

    def as_dict(self) -> dict:
        """Convert to plain values, as stored in metadata.jsonl."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict) -> "Scene":
        """Rebuild a scene: `Scene.from_dict(scene.as_dict()) == scene`."""
        return Scene(**{**values, "things": tuple(Thing(**thing) for thing in values["things"])})

    def relation(self, first: int, second: int) -> str:
        """Return the relation of thing `first` to thing `second`: "to the left of", "above", "behind", …"""
        return LAYOUTS[self.layout][first > second]


def fits(scene: Scene) -> bool:
    """Check that everything fits in the image and that no two things can be confused."""
    things = scene.things
    if len({thing.noun for thing in things}) < len(things):
        return False
    if any(SIZES[thing.size] * thing.count > 0.85 or thing.color in native_colors(thing.noun) for thing in things):
        return False
    if scene.layout == "stack":
        return len(things) == 2 and all(thing.count == 1 for thing in things) and things[1].size == "big"
    return sum(SIZES[thing.size] for thing in things) <= 0.985


def absent_nouns(scene: Scene) -> list[str]:
    """List the nouns that do not occur in a scene."""
    return [word for word in WORDS if all(word != thing.noun for thing in scene.things)]


def sample_scene(
    rng: random.Random, n_things: int | None = None, styles: tuple[int, ...] = SEEN_STYLES, colored: float | None = None
) -> Scene:
    """Sample a valid scene; the same `rng` state gives the same scene.

        sample_scene(random.Random(0))                             # one to three things in a seen style
        sample_scene(random.Random(0), 2, styles=(UNSEEN_STYLE,))  # two things in the held-out style

    colored: the probability that a thing is recolored; by default 0, 0.5 or 1, sampled for each scene.
    Raises ValueError if `n_things` is not 1, 2 or 3.
    """
    if n_things not in (None, 1, 2, 3):
        raise ValueError(f"n_things={n_things}: a scene holds 1, 2 or 3 things")
    n_things = n_things or rng.choices((1, 2, 3), (25, 50, 25))[0]
    colored = rng.choice((0.0, 0.5, 1.0)) if colored is None else colored
    layout = rng.choices(tuple(LAYOUTS), (40, 40, 20 if n_things == 2 else 0))[0]
    style = rng.choice(styles)
    while True:
        things = tuple(_sample_thing(rng, layout, style, colored) for _ in range(n_things))
        scene = Scene(things, layout, rng.choice(GROUNDS), style, rng.randrange(2**31))
        if fits(scene):
            return scene


def _sample_thing(rng: random.Random, layout: str, style: int, colored: float) -> Thing:
    noun = rng.choice(nouns_in_style(style))
    return Thing(
        noun=noun,
        count=rng.choice((2, 3)) if rng.random() < (0.0 if layout == "stack" else 0.25) else 1,
        color=rng.choice(foreign_colors(noun)) if rng.random() < colored else None,
        size=rng.choice(tuple(SIZES)),
    )


def swapped(scene: Scene, *fields: str) -> Scene:
    """Exchange the given fields of the first two things, or without fields their positions.

    swapped(scene, "color")   # "a red dog and a blue cat" -> "a blue dog and a red cat"
    """
    first, second, *rest = scene.things
    if fields:
        of_first, of_second = ({field: getattr(thing, field) for field in fields} for thing in (first, second))
        first, second = replace(first, **of_second), replace(second, **of_first)
    else:
        first, second = second, first
    return replace(scene, things=(first, second, *rest))


def validation_scenes(name: str, n: int, seed: int = 12345) -> list[Scene]:
    """Sample scenes for validation in the "seen" styles or the "unseen" one. Training uses other seeds.

    Raises ValueError for any other name.
    """
    if name not in STYLE_GROUPS:
        raise ValueError(f"unknown style group '{name}': use {' or '.join(STYLE_GROUPS)}")
    rng = random.Random(f"exam {name} {seed}")
    return [sample_scene(rng, styles=STYLE_GROUPS[name]) for _ in range(n)]

"""What is where: a scene of one to three things, drawn by chance, with its truth known."""

import random
from dataclasses import asdict, dataclass, replace

from vladva_kit.emoji_world.drawings import drawn_in, native_colors
from vladva_kit.emoji_world.nouns import COLORS, GROUNDS, NOUNS, SEEN_STYLES, SIZES, UNSEEN_STYLE

# A layout is the one relation that holds between a scene's things, first to last, and its converse.
LAYOUTS = {
    "row": ("to the left of", "to the right of"),
    "column": ("above", "below"),
    "stack": ("in front of", "behind"),
}
WORDS = tuple(noun.word for noun in NOUNS)


@dataclass(frozen=True)
class Thing:
    """One noun, in a count, a color (None: its own colors) and a size."""

    noun: str
    count: int = 1
    color: str | None = None
    size: str = "small"


@dataclass(frozen=True)
class Scene:
    """Things in a layout on a ground; `seed` fixes the artist's liberties (places, tilt, texture).

    Scene((Thing("dog", color="blue"), Thing("cat")), layout="row", ground="grass")   # a blue dog left of a cat
    """

    things: tuple[Thing, ...]
    layout: str = "row"
    ground: str = "grass"
    style: int = 0
    seed: int = 0

    def as_dict(self) -> dict:
        """Plain values, for metadata.jsonl."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict) -> "Scene":
        """The scene of such values: Scene.from_dict(scene.as_dict()) == scene."""
        return Scene(**{**values, "things": tuple(Thing(**thing) for thing in values["things"])})

    def relation(self, first: int, second: int) -> str:
        """How thing `first` lies to thing `second`: "to the left of", "above", "behind", …"""
        return LAYOUTS[self.layout][first > second]


def span(thing: Thing) -> float:
    """The room that a thing takes across its layout's axis, as a part of the picture's side."""
    return SIZES[thing.size] * thing.count


def fits(scene: Scene) -> bool:
    """Whether everything has room and no two things can be confused."""
    things = scene.things
    if len({thing.noun for thing in things}) < len(things) or any(span(thing) > 0.85 for thing in things):
        return False
    if any(thing.color in native_colors(thing.noun) for thing in things):
        return False
    if scene.layout == "stack":
        return len(things) == 2 and all(thing.count == 1 for thing in things) and things[1].size == "big"
    return sum(SIZES[thing.size] for thing in things) <= 0.985


def sample_thing(
    rng: random.Random, colored: float = 0.5, counted: float = 0.25, words: tuple[str, ...] = WORDS
) -> Thing:
    """One of `words` by chance: colored and more than one with the given probabilities."""
    noun = rng.choice(words)
    foreign = [color for color in COLORS if color not in native_colors(noun)]
    return Thing(
        noun=noun,
        count=rng.choice((2, 3)) if rng.random() < counted else 1,
        color=rng.choice(foreign) if rng.random() < colored else None,
        size=rng.choice(tuple(SIZES)),
    )


def sample_scene(
    rng: random.Random, n_things: int | None = None, styles: tuple[int, ...] = SEEN_STYLES, colored: float | None = None
) -> Scene:
    """A scene by chance; the same `rng` state gives the same scene.

        sample_scene(random.Random(0))                            # one to three things in a seen style
        sample_scene(random.Random(0), 2, styles=(UNSEEN_STYLE,))  # two things in the style kept for testing

    Raises ValueError when `n_things` is not 1, 2 or 3.
    """
    if n_things not in (None, 1, 2, 3):
        raise ValueError(f"n_things={n_things}: a scene holds 1, 2 or 3 things")
    n_things = n_things or rng.choices((1, 2, 3), (25, 50, 25))[0]
    colored = rng.choice((0.0, 0.5, 1.0)) if colored is None else colored
    layout = rng.choices(tuple(LAYOUTS), (40, 40, 20 if n_things == 2 else 0))[0]
    counted = 0.0 if layout == "stack" else 0.25
    style = rng.choice(styles)
    while True:
        things = tuple(sample_thing(rng, colored, counted, drawn_in(style)) for _ in range(n_things))
        scene = Scene(things, layout, rng.choice(GROUNDS), style, rng.randrange(2**31))
        if fits(scene):
            return scene


def swapped(scene: Scene, *fields: str) -> Scene:
    """The scene with the first two things' given fields exchanged; no field: the things change places.

    swapped(scene, "color")   # "a red dog and a blue cat" -> "a blue dog and a red cat"
    """
    first, second, *rest = scene.things
    if fields:
        taken, given = ({field: getattr(thing, field) for field in fields} for thing in (second, first))
        first, second = replace(first, **taken), replace(second, **given)
    else:
        first, second = second, first
    return replace(scene, things=(first, second, *rest))


STYLES = {"seen": SEEN_STYLES, "unseen": (UNSEEN_STYLE,)}


def validation_scenes(name: str, n: int, seed: int = 12345) -> list[Scene]:
    """Fresh scenes in the "seen" styles or the "unseen" one; never those of a lesson.

    Raises ValueError for any other name.
    """
    if name not in STYLES:
        raise ValueError(f"no styles are called '{name}': {' or '.join(STYLES)}")
    rng = random.Random(f"exam {name} {seed}")
    return [sample_scene(rng, styles=STYLES[name]) for _ in range(n)]

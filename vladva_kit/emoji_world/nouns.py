"""The words of the emoji world: what can be drawn, in which styles, colors, sizes and on which grounds."""

from dataclasses import dataclass

# One column of the sprite sheet each.
STYLES = (
    "noto",
    "noto-v1",
    "fluent-emoji-flat",
    "emojione",
    "twemoji",
    "fluent-emoji-high-contrast",
    "emojione-monotone",
    "fxemoji",
    "streamline-emojis",
)
UNSEEN_STYLE = 4  # never trained on: it tests whether anything was understood
TRAINING_STYLES = (0, 1, 2, 3, 5, 6, 7, 8)  # 5 and 6 are in black and white: shape alone has to tell
SEEN_STYLES = (0, 1, 2, 3)  # of the training's, those that samples are drawn in


@dataclass(frozen=True)
class Noun:
    """A thing that can be drawn: its word, its plural and the icon's name in the emoji sets."""

    word: str
    plural: str
    icon: str


def _nouns(text: str) -> tuple[Noun, ...]:
    """Reads "word", "word=icon" or "word/plural=icon"; the plural is the word and an s unless given."""
    nouns = []
    for entry in text.split():
        names, _, icon = entry.partition("=")
        word, _, plural = names.partition("/")
        nouns.append(Noun(word, plural or word + "s", icon or word))
    return tuple(nouns)


# Of 80 at first, 17 are gone that Twemoji draws unlike the others do (shark, fish, snail, tent, lollipop, cow, grape,
# snake, monkey, bee, owl, castle, fox, carrot, octopus, horse) or few others draw (drum): they were named rightly
# least often in the unseen style.
NOUNS = _nouns("""
    dog=dog-face cat=cat-face mouse/mice=mouse-face rabbit=rabbit-face bear panda tiger=tiger-face lion
    pig=pig-face frog chicken penguin duck butterfly/butterflies spider turtle
    crab whale=spouting-whale elephant
    cactus/cactuses tree=deciduous-tree mushroom sunflower rose watermelon banana pineapple
    apple=red-apple cherry/cherries=cherries strawberry/strawberries eggplant
    burger=hamburger pizza donut=doughnut cake=birthday-cake
    car=automobile taxi bus/buses tractor bicycle train=locomotive boat=sailboat rocket helicopter
    plane=airplane
    anchor house umbrella snowman/snowmen star rainbow ball=soccer-ball guitar camera
    key bell balloon crown ghost skull clock=alarm-clock book=open-book
    heart=red-heart
""")

# Saturated enough to be told apart on every ground, under every style's shading.
COLORS = {
    "red": (222, 36, 42),
    "orange": (255, 138, 20),
    "yellow": (250, 218, 40),
    "green": (58, 166, 46),
    "blue": (38, 90, 230),
    "purple": (140, 50, 190),
    "pink": (250, 120, 190),
}
SIZES = {"small": 0.28, "big": 0.42}  # of the picture's side
GROUNDS = ("grass", "sand", "snow", "water", "wood", "stone")
COUNTS = ("zero", "one", "two", "three")

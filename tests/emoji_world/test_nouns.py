from vladva_kit.emoji_world.nouns import (
    COLORS,
    COUNTS,
    GROUNDS,
    NOUNS,
    SEEN_STYLES,
    SIZES,
    STYLES,
    TRAINING_STYLES,
    UNSEEN_STYLE,
    _nouns,
)


def test_there_are_at_least_sixty_things_to_draw():
    assert len(NOUNS) >= 60


def test_no_two_things_share_a_word_a_plural_or_an_icon():
    for field in ("word", "plural", "icon"):
        values = [getattr(noun, field) for noun in NOUNS]
        assert len(set(values)) == len(values)


def test_every_word_is_one_lower_case_word_with_one_meaning():
    said = [noun.word for noun in NOUNS] + [noun.plural for noun in NOUNS]
    said += [*COLORS, *SIZES, *GROUNDS, *COUNTS]
    assert all(word.isascii() and word.isalpha() and word.islower() for word in said)
    assert len(set(said)) == len(said)


def test_plurals_and_icons_are_read_from_an_entry():
    plain, icon, both = _nouns("bear dog=dog-face mouse/mice=mouse-face")
    assert (plain.word, plain.plural, plain.icon) == ("bear", "bears", "bear")
    assert (icon.word, icon.plural, icon.icon) == ("dog", "dogs", "dog-face")
    assert (both.word, both.plural, both.icon) == ("mouse", "mice", "mouse-face")


def test_training_sees_every_style_but_the_unseen_one():
    assert sorted([*TRAINING_STYLES, UNSEEN_STYLE]) == list(range(len(STYLES)))
    assert set(SEEN_STYLES) <= set(TRAINING_STYLES)

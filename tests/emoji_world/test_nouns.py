from vladva_kit.emoji_world.nouns import (
    COLORS,
    COUNTS,
    GROUNDS,
    NOUNS,
    SIZES,
    _nouns,
)


def test_there_are_at_least_sixty_nouns():
    assert len(NOUNS) >= 60


def test_words_plurals_and_icons_are_unique():
    for field in ("word", "plural", "icon"):
        values = [getattr(noun, field) for noun in NOUNS]
        assert len(set(values)) == len(values)


def test_every_word_is_lower_case_and_has_one_meaning():
    words = [noun.word for noun in NOUNS] + [noun.plural for noun in NOUNS]
    words += [*COLORS, *SIZES, *GROUNDS, *COUNTS]
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)
    assert len(set(words)) == len(words)


def test_entries_are_parsed_into_word_plural_and_icon():
    plain, icon, both = _nouns("bear dog=dog-face mouse/mice=mouse-face")
    assert (plain.word, plain.plural, plain.icon) == ("bear", "bears", "bear")
    assert (icon.word, icon.plural, icon.icon) == ("dog", "dogs", "dog-face")
    assert (both.word, both.plural, both.icon) == ("mouse", "mice", "mouse-face")

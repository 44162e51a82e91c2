import pytest

from vladva_kit.emoji_world.scenes import Scene, Thing
from vladva_kit.emoji_world.truth import (
    CaptionParseError,
    caption_facts,
    fact_score,
    is_true,
    nouns_of,
    scene_facts,
    words_of,
)

SCENE = Scene((Thing("dog", color="blue", size="big"), Thing("cat", count=2)), "row", "grass")
THREE = Scene((Thing("dog"), Thing("cat"), Thing("elephant", color="pink")), "column", "sand")


def test_a_sentence_is_parsed_into_facts():
    assert caption_facts("A blue dog to the left of a cat!") == {
        ("count", "dog", "one"),
        ("color", "dog", "blue"),
        ("count", "cat", "one"),
        ("to the left of", "dog", "cat"),
    }


def test_scene_facts_include_relations_of_distant_things():
    assert scene_facts(THREE) == {
        ("kinds", "three"),
        ("ground", "sand"),
        *{("count", noun, "one") for noun in ("dog", "cat", "elephant")},
        *{("size", noun, "small") for noun in ("dog", "cat", "elephant")},
        ("color", "elephant", "pink"),
        ("above", "dog", "cat"),
        ("above", "cat", "elephant"),
        ("above", "dog", "elephant"),
    }


@pytest.mark.parametrize(
    "text",
    [
        "a dog",
        "a blue dog on grass",
        "on grass, two cats",
        "two small cats to the right of a big blue dog",
        "from left to right, a dog and two cats",
        "two cats and a dog",
        "there are two cats",
        "the dog is blue. the cats are small.",
        "the color of the dog is blue.",
        "the ground under the dog is grass.",
        "a picture of two cats and a dog. nothing else is in the picture.",
        "the picture shows two kinds of things on grass.",
    ],
)
def test_a_true_caption_is_true(text):
    assert is_true(text, SCENE)


@pytest.mark.parametrize(
    "text",
    [
        "a red dog",
        "a small dog",
        "two dogs",
        "a cat",
        "three cats",
        "a dog on sand",
        "a dog to the right of two cats",
        "a dog above two cats",
        "from left to right, two cats and a dog",
        "a dog and an elephant",
        "the elephant and a dog",
        "the cats are big.",
        "three kinds of things on grass.",
        "there is a dog. nothing else is in the picture.",
    ],
)
def test_a_false_caption_is_false(text):
    assert not is_true(text, SCENE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "the picture shows",
        "a dog dog",
        "dog",
        "a dog and a dog",
        "two cat",
        "a cats",
        "a dogs",
        "a fluffy dog",
        "a dog in a hat",
        "a blue a dog",
        "a dog to the left of",
        "to the left of two cats",
        "a dog to the left of above two cats",
        "is blue a dog",
        "a dog banana two cats",
        "ein Hund",
        "<unk> a dog",
    ],
)
def test_text_that_cannot_be_parsed_is_not_true(text):
    assert not is_true(text, SCENE)


def test_parse_errors_name_the_words():
    with pytest.raises(CaptionParseError, match=r"\['fluffy', 'dog'\]"):
        caption_facts("a fluffy dog")
    with pytest.raises(CaptionParseError, match="'two cat'.*do not agree"):
        caption_facts("two cat")
    with pytest.raises(CaptionParseError, match="'dog' twice"):
        caption_facts("a dog and a dog")
    with pytest.raises(CaptionParseError, match="lacks a noun after 'above'"):
        caption_facts("a dog above")
    with pytest.raises(CaptionParseError, match="lacks a noun for 'is blue'"):
        caption_facts("is blue a dog")


def test_relations_are_transitive():
    assert is_true("a dog above an elephant", THREE)  # not neighbors
    assert is_true("an elephant below a dog", THREE)
    assert not is_true("an elephant above a cat", THREE)
    assert not is_true("from top to bottom, a dog, an elephant and a cat", THREE)


def test_a_relation_and_its_converse_state_the_same_fact():
    for relation, converse in [("to the left of", "to the right of"), ("above", "below"), ("in front of", "behind")]:
        assert caption_facts(f"a dog {relation} a cat") == caption_facts(f"a cat {converse} a dog")
        assert caption_facts(f"a dog {relation} a cat") != caption_facts(f"a dog {converse} a cat")


def test_fact_score_counts_stated_and_reference_facts():
    reference = "a blue dog to the left of two cats"  # count, color, count, relation
    assert fact_score(reference, reference, SCENE) == (4, 4, 4, 4)
    assert fact_score("a blue dog.", reference, SCENE) == (2, 2, 2, 4)
    assert fact_score("a red dog.", reference, SCENE) == (1, 2, 1, 4)
    assert fact_score("a blue dog. blah blah. three cats.", reference, SCENE) == (2, 4, 2, 4)
    assert fact_score("a blue dog on grass.", reference, SCENE)[:2] == (2 + (SCENE.ground == "grass"), 3)
    assert fact_score("", reference, SCENE) == (0, 0, 0, 4)


def test_nothing_else_states_the_number_of_kinds():
    one = Scene((Thing("dog"),))
    text = "there is a dog. nothing else is in the picture."
    assert is_true(text, one)
    assert fact_score(text, text, one) == (2, 2, 2, 2)


def test_punctuation_and_case_are_ignored():
    assert words_of("A dog, a cat.") == ["a", "dog", "a", "cat"]
    assert nouns_of("The dogs above a CAT; on grass") == {"dog", "cat"}

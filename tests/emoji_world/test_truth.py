import pytest

from vladva_kit.emoji_world.scenes import Scene, Thing
from vladva_kit.emoji_world.truth import NotUnderstood, fact_score, facts, is_true, nouns_of, scene_facts, words_of

SCENE = Scene((Thing("dog", color="blue", size="big"), Thing("cat", count=2)), "row", "grass")
THREE = Scene((Thing("dog"), Thing("cat"), Thing("elephant", color="pink")), "column", "sand")


def test_a_sentence_becomes_facts():
    assert facts("A blue dog to the left of a cat!") == {
        ("count", "dog", "one"),
        ("color", "dog", "blue"),
        ("count", "cat", "one"),
        ("to the left of", "dog", "cat"),
    }


def test_a_scene_becomes_facts():
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
def test_what_holds_is_true(text):
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
def test_what_does_not_hold_is_false(text):
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
def test_nonsense_is_not_true(text):
    assert not is_true(text, SCENE)


def test_what_is_not_understood_is_named():
    with pytest.raises(NotUnderstood, match=r"\['fluffy', 'dog'\]"):
        facts("a fluffy dog")
    with pytest.raises(NotUnderstood, match="'two cat'.*do not agree"):
        facts("two cat")
    with pytest.raises(NotUnderstood, match="'dog' twice"):
        facts("a dog and a dog")
    with pytest.raises(NotUnderstood, match="what 'above' is said of"):
        facts("a dog above")


def test_a_relation_carries_through_three_things():
    assert is_true("a dog above an elephant", THREE)  # not neighbors
    assert is_true("an elephant below a dog", THREE)
    assert not is_true("an elephant above a cat", THREE)
    assert not is_true("from top to bottom, a dog, an elephant and a cat", THREE)


def test_every_relation_and_its_converse_state_one_fact():
    for there, back in [("to the left of", "to the right of"), ("above", "below"), ("in front of", "behind")]:
        assert facts(f"a dog {there} a cat") == facts(f"a cat {back} a dog")
        assert facts(f"a dog {there} a cat") != facts(f"a dog {back} a cat")


def test_the_score_counts_true_stated_and_wanted_facts():
    reference = "a blue dog to the left of two cats"  # count, color, count, relation
    assert fact_score(reference, reference, SCENE) == (4, 4, 4, 4)
    assert fact_score("a blue dog.", reference, SCENE) == (2, 2, 2, 4)
    assert fact_score("a red dog.", reference, SCENE) == (1, 2, 1, 4)
    assert fact_score("a blue dog. blah blah. three cats.", reference, SCENE) == (2, 4, 2, 4)
    assert fact_score("a blue dog on grass.", reference, SCENE)[:2] == (2 + (SCENE.ground == "grass"), 3)
    assert fact_score("", reference, SCENE) == (0, 0, 0, 4)


def test_nothing_else_counts_what_was_named_before():
    one = Scene((Thing("dog"),))
    text = "there is a dog. nothing else is in the picture."
    assert is_true(text, one)
    assert fact_score(text, text, one) == (2, 2, 2, 2)


def test_words_and_nouns_are_read_whatever_the_punctuation():
    assert words_of("A dog, a cat.") == ["a", "dog", "a", "cat"]
    assert nouns_of("The dogs above a CAT; on grass") == {"dog", "cat"}

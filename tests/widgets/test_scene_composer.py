"""The composer's captions are true of its scenes, and the scores are those of the models."""

import re

import numpy as np
import pytest

from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import LAYOUTS, Thing
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.widgets import SceneComposer
from vladva_kit.widgets.case_views import category_label
from vladva_kit.widgets.scene_composer import RELATIONS, SIDE, compose, scene_of

DOG, HOUSE = Thing("dog", color="blue", size="big"), Thing("house", color="purple", size="big")
STREAMLINE = 8  # a style that lacks some drawings


def test_every_relation_of_the_world_can_be_chosen():
    assert set(RELATIONS) == {relation for pair in LAYOUTS.values() for relation in pair}


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_scene_is_the_chosen_one(relation):
    scene = scene_of(DOG, relation, HOUSE, "sand")
    assert is_true(f"a big blue dog {relation} a big purple house on sand", scene)
    assert not is_true(f"a house {relation} a dog", scene)


@pytest.mark.parametrize("swap", ["positions", "objects", "colors", "sizes"])
def test_each_caption_is_true_of_its_own_scene_only_and_uses_the_same_words(swap):
    scene = scene_of(DOG, "above", Thing("house", color="purple", size="small"), "grass", seed=3)
    case = compose(scene, swap)
    truth = [[is_true(caption, one) for one in case.scenes] for caption in case.captions]
    assert truth == [[True, False], [False, True]]
    assert sorted(case.captions[0].split()) == sorted(case.captions[1].split())
    assert [one.seed for one in case.scenes] == [3, 3]  # so that only the swap differs
    assert len(case.negatives) >= 4
    assert all(is_true(true, scene) and not is_true(false, scene) for _, true, false in case.negatives)


@pytest.mark.parametrize(
    ("first", "relation", "second", "message"),
    [
        (DOG, "above", Thing("dog"), "choose two different objects"),
        (DOG, "in front of", Thing("house", size="small"), "make it big"),
        (Thing("dog", 2), "behind", HOUSE, "set both counts to 1"),
        (Thing("dog", 3, size="big"), "above", HOUSE, "make one smaller, or reduce its count"),
        (Thing("frog", color="green"), "above", HOUSE, "'frog' is naturally green .* choose another color"),
        (Thing("dog"), "beside", HOUSE, "unknown relation 'beside': choose from to the left of"),
    ],
)
def test_an_invalid_scene_is_an_error_that_says_what_to_change(first, relation, second, message):
    with pytest.raises(ValueError, match=message):
        scene_of(first, relation, second, "grass")


def test_an_object_without_a_drawing_in_the_style_is_an_error():
    with pytest.raises(ValueError, match="style 'streamline-emojis' has no 'spider'"):
        scene_of(DOG, "above", Thing("spider"), "grass", style=STREAMLINE)


def test_a_swap_that_changes_nothing_is_an_error():
    scene = scene_of(Thing("dog", color="blue"), "above", Thing("house", color="blue"), "grass")
    with pytest.raises(ValueError, match="choose two different colors"):
        compose(scene, "colors")
    with pytest.raises(ValueError, match="unknown swap 'hats': choose from positions"):
        compose(scene, "hats")


def test_the_widget_scores_what_it_draws(colors):
    composer = SceneComposer({"sees": colors})
    composer.work.wait()
    house = composer.things[1]
    house["noun"].value, composer.relation.value, composer.swap.value = "crown", "above", "colors"
    composer.work.wait()
    case = compose(composer.scene(), "colors", composer.seed.value)
    assert case.captions[0] == "a blue dog above a purple crown" and case.scenes[0].layout == "column"
    images = [render(scene, SIDE) for scene in case.scenes]
    grid = np.array(colors.encode_image(images)) @ np.array(colors.encode_text(case.captions)).T
    shown = [float(value) for value in re.findall(r"<td(?: class=\"own\")?>(-?[\d.]+)</td>", composer.view.value)]
    assert np.allclose(np.array(shown).reshape(2, 2).T, grid, atol=0.006)
    category, true, false = case.negatives[0]
    pair = (np.array(colors.encode_image(images[:1])) @ np.array(colors.encode_text([true, false])).T)[0]
    label = category_label(category)
    row = re.search(rf"{label}</th>.*?{true}.*?{false}.*?([+−][\d.]+) ", composer.view.value, re.S)
    assert float(row.group(1).replace("−", "-")) == pytest.approx(pair[0] - pair[1], abs=0.006)


def test_an_invalid_choice_keeps_the_images_and_shows_a_message(colors):
    composer = SceneComposer({"sees": colors})
    composer.work.wait()
    before = composer.view.value
    composer.things[1]["noun"].value = "dog"
    assert 'role="alert"' in composer.message.value and "two different objects" in composer.message.value
    assert composer.view.value == before
    composer.things[1]["noun"].value = "cat"
    composer.work.wait()
    assert composer.message.value == "" and composer.view.value != before


def test_swapping_sizes_makes_equal_sizes_different(colors):
    composer = SceneComposer({"sees": colors})
    composer.swap.value = "sizes"
    composer.work.wait()
    assert [thing["size"].value for thing in composer.things] == ["big", "small"]
    assert composer.message.value == "" and "a big blue dog to the left of a small purple house" in composer.view.value


def test_a_known_image_is_not_encoded_again(colors):
    composer = SceneComposer({"sees": colors})
    composer.work.wait()
    first = len(colors.images)
    composer.swap.value = "colors"
    composer.work.wait()
    assert len(colors.images) == first + 1  # only the second scene is new
    composer.swap.value = "positions"
    composer.work.wait()
    assert len(colors.images) == first + 1


def test_the_scenes_are_drawn_at_once_and_the_scores_of_each_model_follow(colors, confused):
    composer = SceneComposer({"sees": colors, "confused": confused})
    composer.work.wait()
    both = composer.view.value
    assert both.count("<table>") == 3 and composer.work.bar.value == composer.work.bar.max == 6
    seen, encode = [], colors.encode_image

    def cancel_and_encode(images, batch_size=64):
        seen.append(composer.view.value)
        composer.work.cancel.click()
        return encode(images)

    colors.encode_image = cancel_and_encode
    composer.swap.value = "colors"
    composer.work.wait()
    assert seen[0].count("<img ") == 2 and seen[0].count("<table>") == 1  # the negatives, without scores so far
    assert "✓" not in seen[0] and "blue dog" in seen[0]
    assert "canceled after 1 of 6" in composer.work.status.value
    composer.swap.value = "positions"  # known scores are shown at once
    assert composer.view.value == both and len(seen) == 1

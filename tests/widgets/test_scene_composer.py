"""The composer: what it draws is true of its captions, and the scores are the models' own."""

import re

import numpy as np
import pytest

import vladva_kit as vk
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import LAYOUTS, Thing
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.widgets import SceneComposer
from vladva_kit.widgets.scene_composer import RELATIONS, SIDE, composed, scene_of

DOG, HOUSE = Thing("dog", color="blue", size="big"), Thing("house", color="purple", size="big")


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_scene_says_what_was_chosen(relation):
    scene = scene_of(DOG, relation, HOUSE, "sand")
    assert is_true(f"a big blue dog {relation} a big purple house on sand", scene)
    assert not is_true(f"a house {relation} a dog", scene)


@pytest.mark.parametrize("exchange", ["places", "things", "colors", "sizes"])
def test_each_caption_is_true_of_its_own_picture_alone_and_uses_the_same_words(exchange):
    scene = scene_of(DOG, "above", Thing("house", color="purple", size="small"), "grass")
    case = composed(scene, exchange)
    truth = [[is_true(caption, one) for one in case.scenes] for caption in case.captions]
    assert truth == [[True, False], [False, True]]
    assert sorted(case.captions[0].split()) == sorted(case.captions[1].split())
    assert len(case.negatives) >= 4
    assert all(is_true(true, scene) and not is_true(false, scene) for _, true, false in case.negatives)


@pytest.mark.parametrize(
    "first, relation, second, said",
    [
        (DOG, "above", Thing("dog"), "two different things"),
        (DOG, "in front of", Thing("house", size="small"), "make it big"),
        (Thing("dog", 2), "behind", HOUSE, "set both counts to 1"),
        (Thing("dog", 3, size="big"), "above", HOUSE, "make one smaller, or fewer"),
        (Thing("dog"), "beside", HOUSE, "no relation 'beside'; there are to the left of"),
    ],
)
def test_what_does_not_fit_is_said_with_the_way_out(first, relation, second, said):
    with pytest.raises(ValueError, match=said):
        scene_of(first, relation, second, "grass")


def test_an_exchange_that_changes_nothing_is_refused():
    scene = scene_of(Thing("dog", color="blue"), "above", Thing("house", color="blue"), "grass")
    with pytest.raises(ValueError, match="give the two different colors"):
        composed(scene, "colors")


def test_the_widget_scores_what_it_draws(colors):
    composer = SceneComposer({"sees": colors})
    composer.work.wait()
    dog, house = composer.things
    house["noun"].value, composer.relation.value, composer.exchange.value = "crown", "above", "colors"
    composer.work.wait()
    case = composed(composer.scene(), "colors", composer.seed.value)
    assert case.captions[0] == "a blue dog above a purple crown" and case.scenes[0].layout == "column"
    pictures = [render(scene, SIDE) for scene in case.scenes]
    grid = np.array(colors.encode_image(pictures)) @ np.array(colors.encode_text(case.captions)).T
    shown = [float(value) for value in re.findall(r"<td(?: class=\"own\")?>(-?[\d.]+)</td>", composer.view.value)]
    assert np.allclose(np.array(shown).reshape(2, 2).T, grid, atol=0.006)
    kind, true, false = case.negatives[0]
    margin = (np.array(colors.encode_image(pictures[:1])) @ np.array(colors.encode_text([true, false])).T)[0]
    row = re.search(rf"{kind.replace('_', ' ')}</th>.*?{true}.*?{false}.*?([+−][\d.]+) ", composer.view.value, re.S)
    assert float(row.group(1).replace("−", "-")) == pytest.approx(margin[0] - margin[1], abs=0.0006)


def test_what_does_not_fit_is_shown_and_the_next_choice_is_drawn(colors):
    composer = SceneComposer({"sees": colors})
    composer.things[1]["noun"].value = "dog"
    assert 'role="alert"' in composer.view.value and "two different things" in composer.view.value
    composer.things[1]["noun"].value = "cat"
    assert composer.view.value.count("<img ") == 2
    composer.work.wait()


def test_a_change_that_keeps_the_picture_encodes_no_picture_again(colors):
    composer = SceneComposer({"sees": colors})
    composer.work.wait()
    first = len(colors.images)
    composer.exchange.value = "colors"
    composer.work.wait()
    assert len(colors.images) == first + 1  # the second picture alone is new
    composer.exchange.value = "places"
    composer.work.wait()
    assert len(colors.images) == first + 1


def test_the_pictures_are_there_at_once_and_each_models_scores_follow_until_it_is_cancelled(colors, confused):
    composer = SceneComposer({"sees": colors, "confused": confused})
    composer.work.wait()
    both = composer.view.value
    assert both.count("<table>") == 3 and composer.work.bar.value == composer.work.bar.max == 4
    seen, slow = [], colors.encode_image

    def looking(images, batch_size=64):
        seen.append(composer.view.value)
        composer.work.cancel.click()
        return slow(images)

    colors.encode_image = looking
    composer.exchange.value = "colors"
    composer.work.wait()
    assert seen[0].count("<img ") == 2 and seen[0].count("<table>") == 1  # the negatives, still without scores
    assert "✓" not in seen[0] and "blue dog" in seen[0]
    assert "cancelled after 1 of 4" in composer.work.said.value
    composer.exchange.value = "places"  # what is known is drawn at once, and asks for nothing
    assert composer.view.value == both and len(seen) == 1


def test_it_stands_beside_real_models(lvlm):
    composer = SceneComposer({"emoji-clip": vk.load_baseline(), "base": vk.Embedder(lvlm)})
    composer.work.wait()
    assert composer.view.value.count("<table>") == 3 and set(RELATIONS) == {r for p in LAYOUTS.values() for r in p}

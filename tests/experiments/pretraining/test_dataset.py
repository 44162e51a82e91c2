import random

import numpy as np
import pytest
import torch

from experiments.pretraining.dataset import (
    GRID,
    IGNORE_INDEX,
    KIND_SHARES,
    PICTURE_IDS,
    TEXTS,
    PretrainDataset,
    answered,
    collate_packed,
    joined,
    noun_ids,
    packed,
    padded,
    patch_words,
    picture_turns,
    pixels,
    text_turns,
    training_picture,
    word_weights,
)
from experiments.pretraining.train import STAGES
from vladva_kit.emoji_world.nouns import COUNTS, TRAINING_STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.questions import EASY_KINDS, KINDS
from vladva_kit.emoji_world.render import _ground, place, render
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.emoji_world.words import (
    ASSISTANT,
    BOS,
    EOS,
    IMAGE,
    IMAGE_PROMPT,
    IMAGE_SIZE,
    IMAGE_TOKENS,
    LONG_PROMPT,
    PAD,
    REPHRASE_PROMPT,
    SHORT_PROMPT,
    TEXT_PROMPT,
    USER,
    build_image_processor,
    build_processor,
    encode,
    ids,
    vocabulary,
)


@pytest.fixture(scope="module")
def many():
    rng = random.Random(41)
    return [sample_scene(rng) for _ in range(60)]


def read(tokens):
    return " ".join(vocabulary()[token] for token in tokens)


def test_pixels_are_those_of_the_shipped_image_processor(many):
    processor = build_image_processor()
    for scene in many[:6]:
        picture = render(scene, IMAGE_SIZE)
        wanted = processor(picture, return_tensors="pt").pixel_values
        assert torch.allclose(pixels([picture]), wanted, atol=1e-6)


def test_a_larger_picture_is_shrunk_as_the_image_processor_shrinks_it(many):
    class Always:
        random = staticmethod(lambda: 0.9)

    scene = many[0]
    wanted = build_image_processor()(render(scene, 2 * IMAGE_SIZE), return_tensors="pt").pixel_values
    assert torch.allclose(pixels([training_picture(scene, Always, wobble=0)]), wanted, atol=1e-6)


def test_padding_stands_to_the_right():
    assert padded([[5, 6, 7], [8]]).tolist() == [[5, 6, 7], [8, PAD, PAD]]
    assert padded([[5, 6], []], IGNORE_INDEX).tolist() == [[5, 6], [IGNORE_INDEX, IGNORE_INDEX]]


def covering(scene, row, column):
    """The one thing whose drawings touch a patch, when the patch's middle is well within one of them; or None."""
    x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
    apart = [(max(abs(x - p.x), abs(y - p.y)) / p.side, p) for p in place(scene)]
    touching = {p.thing for part, p in apart if part * p.side < 0.5 * p.side + 0.5 / GRID}
    return touching.pop() if len(touching) == 1 and min(part for part, _ in apart) < 0.3 else None


def test_a_patch_in_the_middle_of_a_drawing_names_its_thing(many):
    checked = 0
    for scene in many:
        words = patch_words(scene).reshape(GRID, GRID, 5)
        for row in range(GRID):
            for column in range(GRID):
                index = covering(scene, row, column)
                if index is not None:
                    thing = scene.things[index]
                    named = (thing.noun, thing.color or "natural", thing.size, COUNTS[thing.count])
                    assert words[row, column, :4].tolist() == [ids()[word] for word in named]
                    assert words[row, column, 4] == IGNORE_INDEX
                    checked += 1
    assert checked > 150


def test_a_patch_far_from_every_drawing_names_only_the_ground(many):
    for scene in many:
        words = patch_words(scene).reshape(GRID, GRID, 5)
        for row in range(GRID):
            for column in range(GRID):
                x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
                if all(max(abs(x - p.x), abs(y - p.y)) > 0.5 * p.side + 0.5 / GRID for p in place(scene)):
                    assert words[row, column].tolist() == [IGNORE_INDEX] * 4 + [ids()[scene.ground]]


def test_the_front_thing_names_the_patches_it_shares():
    scene = Scene((Thing("dog", size="big"), Thing("cat", size="big")), "stack", seed=3)
    words = patch_words(scene).reshape(GRID, GRID, 5)[..., 0]
    front = place(scene)[-1]
    middle = words[int(front.y * GRID), int(front.x * GRID)]
    assert vocabulary()[middle] == "dog" and ids()["cat"] in words


def test_patches_that_name_a_thing_are_those_where_the_picture_is_not_ground(many):
    named, bare = [], []
    for scene in many:
        ground = np.asarray(_ground(scene.ground, scene.seed % 8, IMAGE_SIZE), int)
        changed = np.abs(np.asarray(render(scene, IMAGE_SIZE), int) - ground).max(-1) > 12
        shares = changed.reshape(GRID, 16, GRID, 16).mean((1, 3)).ravel()
        is_ground = patch_words(scene)[:, 0] == IGNORE_INDEX
        named += shares[~is_ground].tolist()
        bare += shares[is_ground].tolist()
    assert np.mean(named) > 0.6 and np.mean(bare) < 0.2


def test_what_is_asked_is_not_learned_and_each_answer_ends():
    ids_, labels = joined([answered("what is it?", "a dog"), answered("what color?", "blue")])
    assert read(ids_) == "what is it ? <assistant> a dog <eos> <user> what color ? <assistant> blue <eos>"
    learned = [token for token in labels if token != IGNORE_INDEX]
    assert read(learned) == "a dog <eos> blue <eos>"
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(ids_, labels, strict=True))


def test_a_conversation_has_the_ids_that_the_chat_template_and_processor_give(pictures):
    row = packed([[answered("what is it?", "a dog"), answered("what color is it?", "blue")]])
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "what color is it?"},
        {"role": "assistant", "content": "blue"},
    ]
    processor = build_processor()
    text = processor.apply_chat_template(chat, tokenize=False)
    wanted = processor(images=[pictures[0]], text=[text], add_special_tokens=False)["input_ids"][0]
    assert row["input_ids"] == list(wanted)


def test_a_packed_token_sees_the_picture_and_its_own_past_only(many):
    rng = random.Random(1)
    rows = [packed(picture_turns(scene, rng)) for scene in many[:2]]
    batch = collate_packed(rows)
    mask = batch["attention_mask"]
    n, length = batch["input_ids"].shape
    assert mask.shape == (n, 1, length, length)
    for number, row in enumerate(rows):
        segments = row["segments"]
        wanted = torch.zeros(len(segments), len(segments), dtype=torch.bool)
        for at in range(len(segments)):
            for seen in range(at + 1):
                wanted[at, seen] = segments[seen] in (0, segments[at])
        seen = mask[number, 0] == 0
        assert torch.equal(seen[: len(segments), : len(segments)], wanted)
        assert not seen[: len(segments), len(segments) :].any()  # nothing looks at padding
        assert (mask[number, 0][~seen] == -1e9).all() and seen.any(-1).all()


def test_a_word_counts_less_in_a_longer_answer():
    labels = [IGNORE_INDEX, 5, EOS, IGNORE_INDEX, IGNORE_INDEX, 7, 8, 9, EOS]
    assert word_weights(labels) == pytest.approx([0, 2**-0.5, 2**-0.5, 0, 0, 0.5, 0.5, 0.5, 0.5])
    assert word_weights([IGNORE_INDEX]) == [0]


def test_a_noun_counts_more_where_it_is_asked_for():
    dog, left, cat = encode("dog left cat")
    weights = word_weights([IGNORE_INDEX, dog, left, cat, EOS], noun_weight=3.0)
    assert weights == pytest.approx([0, 1.5, 0.5, 1.5, 0.5])
    batch = PretrainDataset(0, "llava", "read", 2, 1, TRAINING_STYLES, 0.0, noun_weight=3.0)[0]
    same = PretrainDataset(0, "llava", "read", 2, 1, TRAINING_STYLES, 0.0)[0]
    for part in ("pictured", "written"):
        nouns = torch.isin(batch[part]["labels"], torch.tensor(sorted(noun_ids())))
        assert nouns.any() and torch.allclose(batch[part]["weights"][nouns], 3 * same[part]["weights"][nouns])
        assert torch.equal(batch[part]["weights"][~nouns], same[part]["weights"][~nouns])


def test_the_first_steps_show_single_things_in_their_own_colors(monkeypatch):
    drawn = []

    def drawing(rng, n_things=None, styles=(0,), colored=None):
        drawn.append((n_things, colored))
        return sample_scene(rng, n_things, styles, colored)

    monkeypatch.setattr("experiments.pretraining.dataset.sample_scene", drawing)
    lessons = PretrainDataset(0, "clip", "clip", 2, 4, TRAINING_STYLES, 0.0, single=3)
    assert lessons[2] and drawn == [(1, 0.0)] * 2
    assert lessons[3] and drawn[2:] == [(None, None)] * 2


def test_packed_answers_carry_their_own_weights(many):
    for scene in many[:5]:
        conversations = picture_turns(scene, random.Random(2))
        wanted = [len(answer) ** -0.5 for turns in conversations for _, answer in turns for _ in answer]
        row = packed(conversations)
        assert [weight for weight in row["weights"] if weight] == pytest.approx(wanted)


def test_every_packed_conversation_begins_right_behind_the_picture(many):
    row = packed(picture_turns(many[0], random.Random(2)))
    start = len(PICTURE_IDS)
    assert row["input_ids"][:start] == [BOS, USER] + [IMAGE] * IMAGE_TOKENS and row["position_ids"][:start] == list(
        range(start)
    )
    for number in range(1, max(row["segments"]) + 1):
        positions = [p for p, segment in zip(row["position_ids"], row["segments"], strict=True) if segment == number]
        assert positions == list(range(start, start + len(positions)))


def test_what_is_learned_about_a_picture_is_true(many):
    rng, judged = random.Random(3), {read(encode(SHORT_PROMPT)): 0, read(encode(LONG_PROMPT)): 0}
    for scene in many:
        for turns in picture_turns(scene, rng):
            asked, answer = (read(part) for part in turns[0])
            prompt = asked.removesuffix(" <assistant>")
            if prompt in judged:
                assert is_true(answer.removesuffix(" <eos>"), scene)
                judged[prompt] += 1
            elif prompt == read(encode(IMAGE_PROMPT)):
                assert answer.removesuffix(" <eos>") in {thing.noun for thing in scene.things}
    short, long = judged.values()
    assert short == 2 * len(many) and long > len(many) / 4


def test_each_picture_is_asked_about_and_chatted_about(many):
    for scene in many:
        conversations = picture_turns(scene, random.Random(5))
        assert [len(turns) for turns in conversations] == [1] * (len(conversations) - 1) + [2]
        assert sum("?" in read(turns[0][0]) for turns in conversations) >= 5


def test_what_is_learned_from_a_text_follows_from_it(many):
    rng = random.Random(4)
    for scene in many:
        ((asked, answer),) = [(read(a), read(b)) for a, b in text_turns(scene, rng)]
        assert asked.endswith(" <assistant>") and answer.endswith(" <eos>")
        said = answer.removesuffix(" <eos>")
        if read(encode(REPHRASE_PROMPT)) in asked:
            assert is_true(said, scene) and said not in asked
        elif read(encode(TEXT_PROMPT)) in asked:
            assert said in {thing.noun for thing in scene.things}


def test_kinds_of_questions_come_in_their_shares():
    assert tuple(KIND_SHARES) == (*KINDS, *EASY_KINDS)
    rng, asked = random.Random(6), 0
    for _ in range(200):
        turns = picture_turns(sample_scene(rng, 2), rng)
        asked += sum(read(turn[0][0]).startswith("is there") for turn in turns if len(turn) == 1)
    assert asked == 200


@pytest.mark.parametrize("learns", ["read", "clip", "llava"])
def test_a_step_is_always_the_same_and_each_step_another(learns):
    def flat(batch):
        parts = [*batch["pictured"].values(), *batch["written"].values()]
        return [part.float().numpy().tobytes() for part in parts]

    def drawn(seed, name, steps):
        return PretrainDataset(seed, name, learns, 2, steps, TRAINING_STYLES, 0.75)

    one, same, other, later = drawn(5, "a", 10), drawn(5, "a", 99), drawn(6, "a", 10), drawn(5, "b", 10)
    assert len(one) == 10
    assert flat(one[3]) == flat(same[3]) != flat(one[4])
    assert flat(one[3]) != flat(other[3]) and flat(one[3]) != flat(later[3])


def test_clip_lessons_have_pictures_captions_and_what_each_patch_shows():
    batch = PretrainDataset(0, "clip", "clip", 3, 1, TRAINING_STYLES, 0.75)[0]
    pictured = batch["pictured"]
    assert pictured["pixel_values"].shape == (3, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert pictured["pixel_values"].dtype == torch.float32
    assert pictured["patch_words"].shape == (3, GRID * GRID, 5)
    for row in batch["written"]["input_ids"].tolist():
        assert row[0] == BOS and row.count(EOS) == 1 and set(row[row.index(EOS) + 1 :]) <= {PAD}


@pytest.mark.parametrize("learns", ["read", "llava"])
def test_the_llms_lessons_have_conversations_about_pictures_and_texts_without(learns):
    batch = PretrainDataset(0, "a", learns, 2, 1, TRAINING_STYLES, 0.75)[0]
    pictured, written = batch["pictured"], batch["written"]
    assert ("pixel_values" in pictured) == (learns == "llava")  # what is told need not be drawn
    assert pictured["patch_words"].shape == (2, GRID * GRID, 5)
    assert pictured["labels"].shape == pictured["input_ids"].shape == pictured["position_ids"].shape
    assert (pictured["input_ids"] == IMAGE).sum(1).tolist() == [IMAGE_TOKENS] * 2
    assert (
        written["input_ids"][:, :2].tolist() == [[BOS, USER]] * 2 * TEXTS and not (written["input_ids"] == IMAGE).any()
    )
    assert ((written["input_ids"] == ASSISTANT).sum(1) == 1).all()
    learned = written["labels"] != IGNORE_INDEX
    assert torch.equal(written["labels"][learned], written["input_ids"][learned])


def test_no_lesson_is_drawn_in_the_unseen_style(monkeypatch):
    drawn = []
    from experiments.pretraining import dataset as lessons
    from vladva_kit.emoji_world import augment as wobble

    monkeypatch.setattr(lessons, "render", lambda scene, size, hand: drawn.append(scene.style) or render(scene, size))
    for step in range(3):
        for stage in STAGES:
            PretrainDataset(0, stage.name, stage.learns, 4, 9, stage.styles, stage.wobble)[step]
    assert len(drawn) == 12 * sum(stage.learns != "read" for stage in STAGES) and UNSEEN_STYLE not in drawn
    assert UNSEEN_STYLE not in wobble.TRAINING_STYLES

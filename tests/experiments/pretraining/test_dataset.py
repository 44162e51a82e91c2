import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.pretraining.augment import TRAINING_STYLES
from experiments.pretraining.dataset import (
    GRID,
    IGNORE_INDEX,
    IMAGE_PREFIX,
    QUESTIONS_PER_KIND,
    TEXTS_PER_IMAGE,
    PretrainDataset,
    collate_packed,
    ids_and_labels,
    image_conversations,
    loss_weights,
    make_turn,
    noun_ids,
    pack,
    pad,
    patch_labels,
    text_conversation,
    to_pixel_values,
    training_image,
)
from experiments.pretraining.questions import EASY_KINDS
from experiments.pretraining.tokenizer import (
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
    token_ids,
    vocabulary,
)
from experiments.pretraining.train import STAGES
from vladva_kit.emoji_world.nouns import COUNTS, UNSEEN_STYLE
from vladva_kit.emoji_world.questions import KINDS
from vladva_kit.emoji_world.render import placements, render
from vladva_kit.emoji_world.scenes import Scene, Thing, sample_scene
from vladva_kit.emoji_world.truth import is_true


@pytest.fixture(scope="module")
def many():
    rng = random.Random(41)
    return [sample_scene(rng) for _ in range(40)]


def decode(tokens):
    return " ".join(vocabulary()[token] for token in tokens)


def small_dataset(stage, seed=0, batch_size=2, steps=4, augment_prob=0.75, **options):
    return PretrainDataset(seed, stage, batch_size, steps, TRAINING_STYLES, augment_prob, **options)


def test_pixel_values_equal_those_of_the_shipped_image_processor(many):
    processor = build_image_processor()
    for scene in many[:6]:
        image = render(scene, IMAGE_SIZE)
        assert torch.allclose(to_pixel_values([image]), processor(image, return_tensors="pt").pixel_values, atol=1e-6)


def test_larger_training_images_are_resized_like_the_image_processor_does(many):
    class Constant:
        random = staticmethod(lambda: 0.9)

    expected = build_image_processor()(render(many[0], 2 * IMAGE_SIZE), return_tensors="pt").pixel_values
    assert torch.allclose(to_pixel_values([training_image(many[0], Constant, augment_prob=0)]), expected, atol=1e-6)


def test_padding_is_on_the_right():
    assert pad([[5, 6, 7], [8]]).tolist() == [[5, 6, 7], [8, PAD, PAD]]
    assert pad([[5, 6], []], IGNORE_INDEX).tolist() == [[5, 6], [IGNORE_INDEX, IGNORE_INDEX]]


def thing_at(scene, row, column):
    """Return the only thing that touches a patch, if the patch's center is well inside it; else None."""
    x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
    distances = [(max(abs(x - p.x), abs(y - p.y)) / p.side, p) for p in placements(scene)]
    touching = {p.thing for distance, p in distances if distance * p.side < 0.5 * p.side + 0.5 / GRID}
    return touching.pop() if len(touching) == 1 and min(distance for distance, _ in distances) < 0.3 else None


def test_a_patch_inside_a_drawing_is_labeled_with_its_thing(many):
    n_checked = 0
    for scene in many:
        labels = patch_labels(scene).reshape(GRID, GRID, 5)
        for row, column in np.ndindex(GRID, GRID):
            index = thing_at(scene, row, column)
            if index is not None:
                thing = scene.things[index]
                words = (thing.noun, thing.color or "natural", thing.size, COUNTS[thing.count])
                assert labels[row, column].tolist() == [*(token_ids()[word] for word in words), IGNORE_INDEX]
                n_checked += 1
    assert n_checked > 100


def test_a_patch_far_from_every_drawing_is_labeled_with_the_ground_only(many):
    n_checked = 0
    for scene in many:
        labels = patch_labels(scene).reshape(GRID, GRID, 5)
        for row, column in np.ndindex(GRID, GRID):
            x, y = (column + 0.5) / GRID, (row + 0.5) / GRID
            if all(max(abs(x - p.x), abs(y - p.y)) > 0.5 * p.side + 0.5 / GRID for p in placements(scene)):
                assert labels[row, column].tolist() == [IGNORE_INDEX] * 4 + [token_ids()[scene.ground]]
                n_checked += 1
    assert n_checked > 100


def test_overlapping_patches_belong_to_the_front_thing():
    scene = Scene((Thing("dog", size="big"), Thing("cat", size="big")), "stack", seed=3)
    labels = patch_labels(scene).reshape(GRID, GRID, 5)[..., 0]
    front = placements(scene)[-1]
    center = labels[int(front.y * GRID), int(front.x * GRID)]
    assert vocabulary()[center] == "dog" and token_ids()["cat"] in labels


def test_labeled_patches_are_those_whose_pixels_are_not_ground(many):
    labeled, bare = [], []
    for scene in many:
        ground = np.asarray(render(replace(scene, things=(), layout="row"), IMAGE_SIZE), int)
        changed = np.abs(np.asarray(render(scene, IMAGE_SIZE), int) - ground).max(-1) > 12
        shares = changed.reshape(GRID, 16, GRID, 16).mean((1, 3)).ravel()
        is_ground = patch_labels(scene)[:, 0] == IGNORE_INDEX
        labeled += shares[~is_ground].tolist()
        bare += shares[is_ground].tolist()
    assert np.mean(labeled) > 0.6 and np.mean(bare) < 0.2


def test_only_answers_have_labels():
    ids, labels = ids_and_labels([make_turn("what is it?", "a dog"), make_turn("what color?", "blue")])
    assert decode(ids) == "what is it ? <assistant> a dog <eos> <user> what color ? <assistant> blue <eos>"
    assert decode(label for label in labels if label != IGNORE_INDEX) == "a dog <eos> blue <eos>"
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(ids, labels, strict=True))


def test_packed_ids_equal_those_of_the_chat_template_and_processor(many):
    row = pack([[make_turn("what is it?", "a dog"), make_turn("what color is it?", "blue")]])
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "what color is it?"},
        {"role": "assistant", "content": "blue"},
    ]
    processor = build_processor()
    text = processor.apply_chat_template(chat, tokenize=False)
    expected = processor(images=[render(many[0], 160)], text=[text], add_special_tokens=False)["input_ids"][0]
    assert row["input_ids"] == list(expected)


def test_a_packed_token_attends_to_the_image_and_its_own_past_only(many):
    rng = random.Random(1)
    rows = [pack(image_conversations(scene, rng)) for scene in many[:2]]
    batch = collate_packed(rows)
    mask = batch["attention_mask"]
    n, length = batch["input_ids"].shape
    assert mask.shape == (n, 1, length, length)
    for number, row in enumerate(rows):
        segments = row["segments"]
        expected = torch.zeros(len(segments), len(segments), dtype=torch.bool)
        for query in range(len(segments)):
            for key in range(query + 1):
                expected[query, key] = segments[key] in (0, segments[query])
        visible = mask[number, 0] == 0
        assert torch.equal(visible[: len(segments), : len(segments)], expected)
        assert not visible[: len(segments), len(segments) :].any()  # no token attends to padding
        assert (mask[number, 0][~visible] == -1e9).all() and visible.any(-1).all()


def test_tokens_of_longer_answers_weigh_less():
    labels = [IGNORE_INDEX, 5, EOS, IGNORE_INDEX, IGNORE_INDEX, 7, 8, 9, EOS]
    assert loss_weights(labels) == pytest.approx([0, 2**-0.5, 2**-0.5, 0, 0, 0.5, 0.5, 0.5, 0.5])
    assert loss_weights([IGNORE_INDEX]) == [0]


def test_noun_weight_scales_the_weights_of_nouns_only():
    dog, left, cat = encode("dog left cat")
    weights = loss_weights([IGNORE_INDEX, dog, left, cat, EOS], noun_weight=3.0)
    assert weights == pytest.approx([0, 1.5, 0.5, 1.5, 0.5])
    batch, plain = small_dataset("read", noun_weight=3.0)[0], small_dataset("read")[0]
    for part in ("image", "text"):
        nouns = torch.isin(batch[part]["labels"], torch.tensor(sorted(noun_ids())))
        assert nouns.any() and torch.allclose(batch[part]["weights"][nouns], 3 * plain[part]["weights"][nouns])
        assert torch.equal(batch[part]["weights"][~nouns], plain[part]["weights"][~nouns])


def test_the_first_steps_show_single_things_in_native_colors(monkeypatch):
    calls = []

    def recorded(rng, n_things=None, styles=(0,), colored=None):
        calls.append((n_things, colored))
        return sample_scene(rng, n_things, styles, colored)

    monkeypatch.setattr("experiments.pretraining.dataset.sample_scene", recorded)
    dataset = small_dataset("clip", single_steps=3)
    assert dataset[2] and calls == [(1, 0.0)] * 2
    assert dataset[3] and calls[2:] == [(None, None)] * 2


def test_packed_answers_have_the_weights_of_their_lengths(many):
    for scene in many[:5]:
        conversations = image_conversations(scene, random.Random(2))
        expected = [len(answer) ** -0.5 for turns in conversations for _, answer in turns for _ in answer]
        assert [weight for weight in pack(conversations)["weights"] if weight] == pytest.approx(expected)


def test_positions_of_every_packed_conversation_start_after_the_image(many):
    row = pack(image_conversations(many[0], random.Random(2)))
    start = len(IMAGE_PREFIX)
    assert row["input_ids"][:start] == [BOS, USER] + [IMAGE] * IMAGE_TOKENS
    assert row["position_ids"][:start] == list(range(start))
    for number in range(1, max(row["segments"]) + 1):
        positions = [p for p, segment in zip(row["position_ids"], row["segments"], strict=True) if segment == number]
        assert positions == list(range(start, start + len(positions)))


def test_captions_and_nouns_in_image_conversations_are_true(many):
    rng, n_captions = random.Random(3), {decode(encode(SHORT_PROMPT)): 0, decode(encode(LONG_PROMPT)): 0}
    for scene in many:
        for turns in image_conversations(scene, rng):
            question, answer = (decode(part) for part in turns[0])
            prompt, answer = question.removesuffix(" <assistant>"), answer.removesuffix(" <eos>")
            if prompt in n_captions:
                assert is_true(answer, scene)
                n_captions[prompt] += 1
            elif prompt == decode(encode(IMAGE_PROMPT)):
                assert answer in {thing.noun for thing in scene.things}
    short, long = n_captions.values()
    assert short == 2 * len(many) and long > len(many) / 4


def test_every_image_has_questions_and_one_chat(many):
    for scene in many:
        conversations = image_conversations(scene, random.Random(5))
        assert [len(turns) for turns in conversations] == [1] * (len(conversations) - 1) + [2]
        assert sum("?" in decode(turns[0][0]) for turns in conversations) >= 5


def test_answers_about_a_text_follow_from_it(many):
    rng = random.Random(4)
    for scene in many:
        ((question, answer),) = [(decode(q), decode(a)) for q, a in text_conversation(scene, rng)]
        assert question.endswith(" <assistant>") and answer.endswith(" <eos>")
        answer = answer.removesuffix(" <eos>")
        if decode(encode(REPHRASE_PROMPT)) in question:
            assert is_true(answer, scene) and answer not in question
        elif decode(encode(TEXT_PROMPT)) in question:
            assert answer in {thing.noun for thing in scene.things}


def test_question_counts_follow_the_table(monkeypatch):
    assert set(QUESTIONS_PER_KIND) == {*KINDS, *EASY_KINDS}
    monkeypatch.setitem(QUESTIONS_PER_KIND, "exists", 2.0)
    rng = random.Random(6)
    turns = [turn for _ in range(50) for turn in image_conversations(sample_scene(rng, 2), rng) if len(turn) == 1]
    assert sum(decode(question).startswith("is there") for ((question, _),) in turns) == 2 * 50


@pytest.mark.parametrize("stage", ["read", "clip", "llava"])
def test_a_batch_depends_on_seed_and_step_alone(stage):
    def flat(batch):
        return [value.float().numpy().tobytes() for part in batch.values() for value in part.values()]

    first, longer, other = small_dataset(stage, 5, steps=10), small_dataset(stage, 5, steps=99), small_dataset(stage, 6)
    assert len(first) == 10
    assert flat(first[3]) == flat(longer[3]) != flat(first[4])
    assert flat(first[3]) != flat(other[3])


def test_clip_batches_have_images_captions_and_patch_labels():
    batch = small_dataset("clip", batch_size=3)[0]
    assert batch["image"]["pixel_values"].shape == (3, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert batch["image"]["pixel_values"].dtype == torch.float32
    assert batch["image"]["patch_labels"].shape == (3, GRID * GRID, 5)
    for row in batch["text"]["input_ids"].tolist():
        assert row[0] == BOS and row.count(EOS) == 1 and set(row[row.index(EOS) + 1 :]) <= {PAD}


@pytest.mark.parametrize("stage", ["read", "llava"])
def test_llm_batches_have_conversations_about_images_and_texts(stage):
    batch = small_dataset(stage)[0]
    image, text = batch["image"], batch["text"]
    assert ("pixel_values" in image) == (stage == "llava")  # oracle patches need no pixels
    assert image["patch_labels"].shape == (2, GRID * GRID, 5)
    assert image["labels"].shape == image["input_ids"].shape == image["position_ids"].shape
    assert (image["input_ids"] == IMAGE).sum(1).tolist() == [IMAGE_TOKENS] * 2
    assert text["input_ids"][:, :2].tolist() == [[BOS, USER]] * 2 * TEXTS_PER_IMAGE
    assert not (text["input_ids"] == IMAGE).any()
    assert ((text["input_ids"] == ASSISTANT).sum(1) == 1).all()
    labeled = text["labels"] != IGNORE_INDEX
    assert torch.equal(text["labels"][labeled], text["input_ids"][labeled])


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_no_training_image_is_in_the_unseen_style(stage, monkeypatch):
    styles = []

    def recorded(rng, **options):
        scene = sample_scene(rng, **options)
        styles.append(scene.style)
        return scene

    monkeypatch.setattr("experiments.pretraining.dataset.sample_scene", recorded)
    for step in range(2):
        assert replace(stage, batch_size=4).dataset(0)[step]
    assert len(styles) >= 8 and UNSEEN_STYLE not in styles

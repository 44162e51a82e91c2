"""Where pretraining begins: what the first weights already attend to, before any step."""

import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.pretraining.dataset import GRID, PICTURE_IDS, patch_words
from experiments.pretraining.init import ANSWER_WORDS, BESIDE, COPIED, PLACED
from experiments.pretraining.joint_model import JointModel, told_features
from vladva_kit.emoji_world.nouns import NOUNS
from vladva_kit.emoji_world.questions import questions
from vladva_kit.emoji_world.scenes import validation_scenes
from vladva_kit.emoji_world.words import ASSISTANT, encode, ids


@pytest.fixture(scope="module")
def joint_model():
    torch.manual_seed(0)
    return JointModel().eval()


def test_a_plural_begins_beside_its_singular_and_above_beside_top(joint_model):
    table = F.normalize(joint_model.llava.get_input_embeddings().weight, dim=-1)
    for near, word in [*BESIDE.items(), *((noun.plural, noun.word) for noun in NOUNS if noun.plural != noun.word)]:
        assert table[ids()[near]] @ table[ids()[word]] > 0.8, near
    assert abs(table[ids()["ducks"]] @ table[ids()["dog"]]) < 0.4


def test_half_of_the_heads_begin_with_keys_like_queries_but_for_the_fast_turns(joint_model):
    for layer in joint_model.llava.model.language_model.layers:
        query, key = layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight
        assert torch.equal(query[:128].abs(), key[:128].abs()) and not torch.allclose(query[128:], key[128:])
        opposite = (query[:128] == -key[:128]).all(1)
        assert opposite.nonzero().flatten().tolist() == [
            64 * head + row for head in (0, 1) for row in (*range(8), *range(32, 40))
        ]


def test_what_three_quarters_of_the_heads_find_they_copy(joint_model):
    for layer in joint_model.llava.model.language_model.layers:
        output, value = layer.self_attn.o_proj.weight, layer.self_attn.v_proj.weight
        assert torch.equal(output[:, :192], value[:192].T) and not torch.allclose(output[:, 192:], value[192:].T)


def attentions(joint_model, question, words):
    sequence = PICTURE_IDS + encode(question) + [ASSISTANT]
    implementation = joint_model.llava.config.text_config._attn_implementation
    joint_model.llava.model.language_model.set_attn_implementation("eager")
    with torch.no_grad():
        run = joint_model.llava(
            input_ids=torch.tensor([sequence]), mm_encoder_outputs={"image": told_features(joint_model, words)},
            use_cache=False, output_attentions=True,
        )  # fmt: skip
    joint_model.llava.model.language_model.set_attn_implementation(implementation)
    return run.attentions, sequence


def test_before_any_step_a_questions_noun_looks_at_its_own_patches(joint_model):
    shares, chances = [], []
    for scene in validation_scenes("seen", 40):
        thing = random.Random(scene.seed).choice(scene.things)
        words = torch.from_numpy(patch_words(scene))[None]
        question = next(q.text for q in questions(scene, "size") if q.thing is thing)
        layers, sequence = attentions(joint_model, question, words)
        own = (words[0, :, 0] == ids()[thing.noun]).nonzero().flatten() + len(PICTURE_IDS) - GRID * GRID
        shares.append(float(layers[0][0, :2, len(sequence) - 3, own].sum(-1).max()))
        chances.append(len(own) / len(sequence))
    assert np.mean(shares) > 0.6 > 0.3 > np.mean(chances)


def test_before_any_step_the_answer_looks_at_the_last_few_words_whatever_they_are(joint_model):
    scene = validation_scenes("seen", 1)[0]
    words = torch.from_numpy(patch_words(scene))[None]
    for question in ("where in the picture is the dog?", "two big blue ducks and a heart"):
        layers, _ = attentions(joint_model, question, words)
        recent = [float(layer[0, 2, -1, -6:].sum()) for layer in layers]
        assert min(recent) > 0.7, recent


def test_the_head_of_recent_words_carries_the_words_of_answers_and_of_others_little(joint_model):
    table = joint_model.llava.get_input_embeddings().weight
    for layer in joint_model.llava.model.language_model.layers:
        values, output = layer.self_attn.v_proj.weight[128:192], layer.self_attn.o_proj.weight[:, 128:192]

        def kept(words, values=values, output=output):
            there = table[[ids()[word] for word in words]]
            return F.cosine_similarity(there @ values.T @ output.T, there, dim=1).mean()

        assert kept(ANSWER_WORDS) > 0.8 > 0.6 > kept([noun.word for noun in NOUNS])
        carried = values[: len(ANSWER_WORDS)]
        assert torch.allclose(carried @ carried.T, COPIED**2 * torch.eye(len(ANSWER_WORDS)), atol=1e-4)


def test_rows_speak_from_top_to_bottom_and_columns_from_left_to_right(joint_model):
    table = joint_model.llava.get_input_embeddings().weight
    for part, (first, last) in zip(
        joint_model.places.weight.split(GRID), (("top", "bottom"), ("left", "right")), strict=True
    ):
        along = part @ F.normalize(table[ids()[last]] - table[ids()[first]], dim=0)
        assert torch.equal(along.argsort(), torch.arange(GRID))
        assert float(along[-1]) == pytest.approx(PLACED * 2**0.5, rel=0.2)


def test_before_any_step_a_patch_looks_at_its_neighbors_more_than_far_away(joint_model):
    tower = joint_model.clip.vision_model
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        run = tower(pixel_values=torch.randn(4, 3, GRID * 16, GRID * 16), output_attentions=True)
    looks = run.attentions[0][:, :, 1:, 1:].mean((0, 1))
    at = torch.arange(GRID * GRID)
    apart = (at[:, None] // GRID - at // GRID).abs() + (at[:, None] % GRID - at % GRID).abs()
    assert looks[apart == 1].mean() > 1.3 * looks[apart > 6].mean()

"""What the initial weights attend to, before any training step."""

import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.pretraining.dataset import GRID, IMAGE_PREFIX, patch_labels
from experiments.pretraining.init import ANSWER_WORDS, COPY_GAIN, NEAR_SYNONYMS
from experiments.pretraining.joint_model import JointModel, oracle_features
from experiments.pretraining.tokenizer import ASSISTANT, encode, token_ids
from vladva_kit.emoji_world.nouns import NOUNS
from vladva_kit.emoji_world.questions import questions
from vladva_kit.emoji_world.scenes import validation_scenes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def joint_model():
    torch.manual_seed(0)
    model = JointModel().eval()
    model.llava.model.language_model.set_attn_implementation("eager")  # returns attention weights
    model.clip.vision_model.set_attn_implementation("eager")
    return model


def test_plurals_and_near_synonyms_start_close_to_their_word(joint_model):
    table, ids = F.normalize(joint_model.llava.get_input_embeddings().weight, dim=-1), token_ids()
    plurals = {noun.plural: noun.word for noun in NOUNS if noun.plural != noun.word}
    for near, word in (NEAR_SYNONYMS | plurals).items():
        assert table[ids[near]] @ table[ids[word]] > 0.8, near
    assert abs(table[ids["ducks"]] @ table[ids["dog"]]) < 0.4


def test_keys_of_similarity_heads_equal_queries_except_in_fast_rope_pairs(joint_model):
    for layer in joint_model.llava.model.language_model.layers:
        query, key = layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight
        assert torch.equal(query[:128].abs(), key[:128].abs()) and not torch.allclose(query[128:], key[128:])
        negated = (query[:128] == -key[:128]).all(1).nonzero().flatten().tolist()
        assert negated == [64 * head + row for head in (0, 1) for row in (*range(8), *range(32, 40))]


def test_three_quarters_of_the_heads_copy_what_they_attend_to(joint_model):
    for layer in joint_model.llava.model.language_model.layers:
        output, value = layer.self_attn.o_proj.weight, layer.self_attn.v_proj.weight
        assert torch.equal(output[:, :192], value[:192].T) and not torch.allclose(output[:, 192:], value[192:].T)


def attentions(joint_model, question, labels):
    sequence = IMAGE_PREFIX + encode(question) + [ASSISTANT]
    with torch.no_grad():
        output = joint_model.llava(
            input_ids=torch.tensor([sequence]), mm_encoder_outputs={"image": oracle_features(joint_model, labels)},
            use_cache=False, output_attentions=True,
        )  # fmt: skip
    return output.attentions, len(sequence)


def test_a_questions_noun_attends_to_the_patches_of_its_thing(joint_model):
    shares, chances = [], []
    for scene in validation_scenes("seen", 20):
        thing = random.Random(scene.seed).choice(scene.things)
        labels = torch.from_numpy(patch_labels(scene))[None]
        question = next(q.text for q in questions(scene, "size") if q.thing is thing)
        layers, length = attentions(joint_model, question, labels)
        patches = (labels[0, :, 0] == token_ids()[thing.noun]).nonzero().flatten() + len(IMAGE_PREFIX) - GRID * GRID
        shares.append(float(layers[0][0, :2, length - 3, patches].sum(-1).max()))
        chances.append(len(patches) / length)
    assert np.mean(shares) > 0.6 > 0.3 > np.mean(chances)


def test_the_recency_head_attends_to_the_last_few_tokens(joint_model):
    labels = torch.from_numpy(patch_labels(validation_scenes("seen", 1)[0]))[None]
    for question in ("where in the picture is the dog?", "two big blue ducks and a heart"):
        layers, _ = attentions(joint_model, question, labels)
        recent = [float(layer[0, 2, -1, -6:].sum()) for layer in layers]
        assert min(recent) > 0.7, recent


def test_the_recency_head_copies_answer_words_better_than_nouns(joint_model):
    table = joint_model.llava.get_input_embeddings().weight
    for layer in joint_model.llava.model.language_model.layers:
        values, output = layer.self_attn.v_proj.weight[128:192], layer.self_attn.o_proj.weight[:, 128:192]

        def copied(words, values=values, output=output):
            embeddings = table[[token_ids()[word] for word in words]]
            return F.cosine_similarity(embeddings @ values.T @ output.T, embeddings, dim=1).mean()

        assert copied(ANSWER_WORDS) > 0.8 > 0.6 > copied([noun.word for noun in NOUNS])
        basis = values[: len(ANSWER_WORDS)]
        assert torch.allclose(basis @ basis.T, COPY_GAIN**2 * torch.eye(len(ANSWER_WORDS)), atol=1e-4)


def test_patch_positions_are_ordered_along_the_position_words(joint_model):
    table, ids = joint_model.llava.get_input_embeddings().weight, token_ids()
    ends = (("top", "bottom"), ("left", "right"))
    for part, (first, last) in zip(joint_model.patch_positions.weight.split(GRID), ends, strict=True):
        along = part @ F.normalize(table[ids[last]] - table[ids[first]], dim=0)
        assert torch.equal(along.argsort(), torch.arange(GRID))


def test_image_patches_attend_to_neighbors_more_than_to_distant_patches(joint_model):
    with torch.no_grad():
        output = joint_model.clip.vision_model(
            pixel_values=torch.randn(4, 3, GRID * 16, GRID * 16), output_attentions=True
        )
    attention = output.attentions[0][:, :, 1:, 1:].mean((0, 1))
    index = torch.arange(GRID * GRID)
    distance = (index[:, None] // GRID - index // GRID).abs() + (index[:, None] % GRID - index % GRID).abs()
    assert attention[distance == 1].mean() > 1.3 * attention[distance > 6].mean()

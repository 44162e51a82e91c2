"""Every measurement equals the embedder's own functions, on a tiny model of each family."""

import numpy as np
import pytest
import tiny_families
import torch

import vladva_kit as vk
from vladva_kit.analysis import input_pieces, nearest_tokens, parameter_counts, probe_images, probe_texts
from vladva_kit.analysis import word_importance as importance_of
from vladva_kit.checks import CAPTIONS, example_images
from vladva_kit.embedder.prompts import image_inputs, text_inputs
from vladva_kit.models.families import FAMILIES

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=FAMILIES)
def embedder(request, tmp_path_factory):
    """A tiny trained embedder of each family; PaliGemma 2's cap is low enough to change its logits."""
    embedder = tiny_families.embedder_of(request.param, tmp_path_factory.mktemp(request.param))
    if embedder.lvlm.family.capped_logits:
        embedder.lvlm.model.config.get_text_config().final_logit_softcapping = 1.0
    return embedder


def entropies(embedder, batch):
    """Compute the entropy at the summary tokens from the logits of the family's own forward."""
    with torch.inference_mode():
        logits = embedder.lvlm.model(**batch.inputs).logits[
            torch.arange(len(batch.summary_positions)), batch.summary_positions
        ]
    return torch.distributions.Categorical(logits=logits.float()).entropy().numpy()


def test_probes_equal_the_models_own_forward_and_the_embedders_embeddings(embedder):
    processor, images = embedder.lvlm.processor, example_images()[:2]
    probes = [probe_images(embedder, images, batch_size=1), probe_texts(embedder, CAPTIONS)]
    batches = [image_inputs(processor, [image], embedder.image_prompt) for image in images]
    expected = [
        np.concatenate([entropies(embedder, batch) for batch in batches]),
        entropies(embedder, text_inputs(processor.tokenizer, CAPTIONS, embedder.text_prompt)),
    ]
    encoded = [embedder.encode_image(images), embedder.encode_text(CAPTIONS)]
    for probe, entropy, embeddings in zip(probes, expected, encoded, strict=True):
        assert np.allclose(probe.entropy, entropy, atol=1e-4)
        assert np.allclose(probe.embeddings, embeddings, atol=1e-5)


def test_each_row_of_a_prompt_has_a_hand_written_token_and_nearest_ones(embedder):
    for name, prompt in (("image", embedder.image_prompt), ("text", embedder.text_prompt)):
        nearest = nearest_tokens(embedder, name, k=2)
        assert len(nearest.hand_written) == len(nearest.tokens) == len(prompt.ids)
        assert nearest.unchanged == 1 and np.allclose(nearest.cosines[:, 0], 1, atol=1e-5)
        with embedder.base():
            assert nearest_tokens(embedder, name).unchanged == 1


def test_pieces_and_parameters_are_complete(embedder):
    image = example_images()[0]
    pieces = input_pieces(embedder, image, CAPTIONS[0])
    tokenizer, processor = embedder.lvlm.processor.tokenizer, embedder.lvlm.processor
    lengths = {
        "image": image_inputs(processor, [image], embedder.image_prompt).inputs["input_ids"].shape[1],
        "text": text_inputs(tokenizer, CAPTIONS[:1], embedder.text_prompt).inputs["input_ids"].shape[1],
    }
    assert {name: sum(piece.n for piece in row) for name, row in pieces.items()} == lengths
    assert any(piece.part == "image" for piece in pieces["image"])
    counts, model = parameter_counts(embedder), embedder.lvlm.model
    assert sum(count.frozen for count in counts) == sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if not weight.requires_grad and "original" not in name
    )
    assert sum(count.trainable for count in counts) == sum(embedder.trainable().values())


def test_word_importance_is_a_difference_of_the_embedders_similarities(embedder):
    image = example_images()[0]
    scores = embedder.similarity([image], ["a blue dog", "blue dog", "a dog", "a blue"])[0]
    result = importance_of(embedder, image, "a blue dog")
    assert np.allclose(result.importance, scores[0] - scores[1:], atol=1e-5)
    assert isinstance(embedder, vk.Embedder)

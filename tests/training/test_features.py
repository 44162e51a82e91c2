"""Features of a frozen vision encoder replace pixels in every family; rows of a batch, flat pixels included."""

import pytest
import torch
from tiny_families import batch_of, embedder_of

from vladva_kit.embedder.embedder import summary_states
from vladva_kit.models.families import FAMILIES
from vladva_kit.training.features import encode_image_features, take_rows, vision_encoder_is_frozen, with_features

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", FAMILIES)
def test_features_and_selected_rows_give_the_states_of_the_full_batch(tmp_path, family):
    embedder = embedder_of(family, tmp_path)
    images = batch_of(embedder, 4).images
    assert vision_encoder_is_frozen(embedder.lvlm.model)

    def states(inputs):
        return summary_states(embedder.hidden_states(inputs), inputs)

    with torch.no_grad():
        expected = states(images)
        features = encode_image_features(embedder, images)
        assert torch.allclose(states(with_features(embedder, images, features, range(4))), expected, atol=1e-5)
        rows = [3, 1]
        selected = take_rows(images, rows, embedder.lvlm.model.config.image_token_id)
        assert torch.allclose(states(selected), expected[rows], atol=2e-5)
        assert torch.allclose(states(with_features(embedder, selected, features, rows)), expected[rows], atol=2e-5)
        if family == "gemma3":  # all images have the same number of tokens, so another image's features fit
            swapped = with_features(embedder, selected, features, [1, 3])
            assert not torch.allclose(states(swapped), expected[rows], atol=1e-3)

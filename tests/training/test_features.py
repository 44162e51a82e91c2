"""Features of a frozen tower, handed back to families that take them in different forms; flat pixels cut by rows."""

import pytest
import torch
from tiny import gradients, largest_difference
from tiny_batches import FAMILIES, family_batch, tiny_family

from vladva_kit.embedder.embedder import summary_states
from vladva_kit.training.features import encode_image_features, take_rows, vision_encoder_is_frozen, with_features
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.trainer import step_losses


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family_features_stand_in_for_pixels_rows_for_the_batch_and_chunks_for_the_step(family):
    embedder = tiny_family(family)
    batch = family_batch(embedder, family)
    assert vision_encoder_is_frozen(embedder.lvlm.model)
    token = embedder.lvlm.model.config.image_token_id

    with torch.no_grad():
        states = summary_states(embedder.hidden_states(batch.images), batch.images)
        features = encode_image_features(embedder, batch.images)
        own = with_features(embedder, batch.images, features, range(4))
        assert torch.allclose(summary_states(embedder.hidden_states(own), own), states, atol=1e-5)
        rows = [3, 1]
        some = take_rows(batch.images, rows, token)
        assert torch.allclose(summary_states(embedder.hidden_states(some), some), states[rows], atol=2e-5)
        other = with_features(embedder, some, features, rows)
        assert torch.allclose(summary_states(embedder.hidden_states(other), other), states[rows], atol=2e-5)
        wrong = with_features(embedder, some, features, [1, 3]) if family == "gemma3" else None
        if wrong is not None:  # all pictures have as many tokens here: another's features are felt
            assert not torch.allclose(summary_states(embedder.hidden_states(wrong), wrong), states[rows], atol=1e-3)

    step_losses(embedder, batch)["loss"].backward()
    wanted = gradients(embedder)
    cached_step(embedder, batch, rows=3)
    found = gradients(embedder)
    learned = {name for name, gradient in wanted.items() if gradient.abs().sum() > 0}
    assert len(learned) >= 2
    assert largest_difference({n: found[n] for n in learned}, {n: wanted[n] for n in learned}) < 1e-5

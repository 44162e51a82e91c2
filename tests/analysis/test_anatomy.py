"""The pieces are the sequences that the model really reads, and the parts' weights are all that it has."""

import pytest

import vladva_kit as vk
from vladva_kit.analysis import input_pieces, part_weights
from vladva_kit.embedder.prompts import image_inputs, text_inputs


def spelled(pieces):
    return [piece.text for piece in pieces for _ in range(piece.n)]


def test_the_pieces_are_what_the_model_reads_and_end_in_the_summary_token(lvlm, pictures):
    baseline, tokenizer = vk.Embedder(lvlm), lvlm.processor.tokenizer
    caption = "a dog above two cats"
    towers = input_pieces(baseline, pictures[0], caption)
    sequences = {
        "the picture": image_inputs(lvlm.processor, pictures[:1], baseline.image_prompt),
        "the caption": text_inputs(tokenizer, [caption], baseline.text_prompt),
    }
    for name, one in sequences.items():
        ids = one.inputs["input_ids"][0].tolist()
        assert spelled(towers[name]) == [tokenizer.decode([number]) for number in ids]
        assert [piece.part for piece in towers[name]].count("summary token") == 1
        assert towers[name][-1].part == "summary token"
        assert sum(piece.n for piece in towers[name]) - 1 == int(one.summary[0])
    image_id = lvlm.model.config.image_token_id
    patches = [piece for piece in towers["the picture"] if piece.part == "picture"]
    assert [piece.n for piece in patches] == [int((sequences["the picture"].inputs["input_ids"] == image_id).sum())]
    said = [piece.text for piece in towers["the caption"] if piece.part == "caption"]
    assert said == caption.split()
    asked = [piece.text for piece in towers["the caption"] if piece.part == "prompt"]
    assert asked == ["summarize", "the", "provided", "text", "in", "one", "word", ":"]


def test_a_soft_prompt_reads_as_the_words_that_it_began_as(lvlm, pictures):
    before = input_pieces(vk.Embedder(lvlm), pictures[0], "a dog")
    assert input_pieces(vk.attach(lvlm), pictures[0], "a dog") == before


@pytest.mark.parametrize("attached", [False, True])
def test_the_parts_hold_each_weight_once(lvlm, attached):
    everything = sum(weight.numel() for weight in lvlm.model.parameters())  # shared ones once
    embedder = vk.attach(lvlm) if attached else vk.Embedder(lvlm)
    parts = part_weights(embedder)
    assert [part.name for part in parts[:3]] == ["vision tower", "multi modal projector", "language model"]
    assert sum(part.frozen for part in parts) == everything
    learning = {part.name: part.learning for part in parts if part.learning}
    assert learning == (embedder.trainable() if attached else {})
    tower = sum(weight.numel() for weight in lvlm.model.model.vision_tower.parameters())
    assert parts[0].frozen == tower

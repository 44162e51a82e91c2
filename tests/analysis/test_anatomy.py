"""Input pieces against the token ids that the model reads, and parameter counts against the model's parameters."""

import pytest
from tiny import tiny_embedder, tiny_lvlm, tiny_pairs
from tiny_families import PROCESSORS, build

import vladva_kit as vk
from vladva_kit.analysis import input_pieces, nearest_tokens, parameter_counts
from vladva_kit.embedder.prompts import image_inputs, text_inputs

CAPTION = "a dog above two cats"


def token_ids(embedder, image, caption):
    processor = embedder.lvlm.processor
    batches = {
        "image": image_inputs(processor, [image], embedder.image_prompt),
        "text": text_inputs(processor.tokenizer, [caption], embedder.text_prompt),
    }
    return {name: batch.inputs["input_ids"][0].tolist() for name, batch in batches.items()}


def test_pieces_spell_the_tokens_that_the_model_reads():
    embedder, image = vk.Embedder(tiny_lvlm()), tiny_pairs(1)[0].image
    decode, image_token = embedder.lvlm.processor.tokenizer.decode, embedder.lvlm.model.config.image_token_id
    pieces, ids = input_pieces(embedder, image, CAPTION), token_ids(embedder, image, CAPTION)
    for name in ("image", "text"):
        assert [piece.text for piece in pieces[name] for _ in range(piece.n)] == [
            decode([token]) for token in ids[name]
        ]
        assert [piece.part for piece in pieces[name]].count("summary token") == 1
        assert pieces[name][-1].part == "summary token"
    assert [piece.n for piece in pieces["image"] if piece.part == "image"] == [ids["image"].count(image_token)]
    assert [piece.text for piece in pieces["text"] if piece.part == "caption"] == CAPTION.split()
    prompt = [piece.text for piece in pieces["text"] if piece.part == "prompt"]
    assert prompt == ["summarize", "the", "provided", "text", "in", "one", "word", ":"]


def test_a_new_soft_prompt_is_shown_as_its_hand_written_tokens():
    image = tiny_pairs(1)[0].image
    hand_written = input_pieces(vk.Embedder(tiny_lvlm()), image, CAPTION)
    assert input_pieces(tiny_embedder(), image, CAPTION) == hand_written


@pytest.mark.parametrize("family", PROCESSORS)
def test_every_family_has_one_hand_written_token_per_prompt_embedding(family, tmp_path, one_thread):
    embedder = vk.Embedder(vk.load_lvlm(str(build(family, tmp_path))))
    for prompt, current in (("image", embedder.image_prompt), ("text", embedder.text_prompt)):
        nearest = nearest_tokens(embedder, prompt)
        assert len(nearest.hand_written) == len(nearest.tokens) == len(current.ids) and nearest.unchanged == 1
    image = tiny_pairs(1)[0].image
    pieces, ids = input_pieces(embedder, image, CAPTION), token_ids(embedder, image, CAPTION)
    for name in ("image", "text"):
        assert sum(piece.n for piece in pieces[name]) == len(ids[name])
    caption = "".join(piece.text * piece.n for piece in pieces["text"] if piece.part == "caption")
    assert caption.replace(" ", "") == CAPTION.replace(" ", "")


@pytest.mark.parametrize("attached", [False, True])
def test_parameter_counts_sum_to_the_model_and_count_shared_parameters_once(attached):
    lvlm = tiny_lvlm()
    total = sum(parameter.numel() for parameter in lvlm.model.parameters())
    vision = sum(parameter.numel() for parameter in lvlm.model.model.vision_tower.parameters())
    embedder = vk.attach(lvlm) if attached else vk.Embedder(lvlm)
    parts = parameter_counts(embedder)
    assert [part.name for part in parts[:3]] == ["vision tower", "multi modal projector", "language model"]
    assert sum(part.frozen for part in parts) == total and parts[0].frozen == vision
    trainable = {part.name: part.trainable for part in parts if part.trainable}
    assert trainable == (embedder.trainable() if attached else {})

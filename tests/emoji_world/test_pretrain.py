"""Pretraining: one tower in two models, the naming loss by a loop, going on after a kill, and what is exported."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoProcessor, CLIPModel, LlavaForConditionalGeneration

from vladva_kit.emoji_world import pretrain
from vladva_kit.emoji_world.exam import _runs, exam_scenes, examine_llava
from vladva_kit.emoji_world.export import export
from vladva_kit.emoji_world.lessons import GRID, IGNORED, PICTURE_IDS, Lessons, patch_words, pixels
from vladva_kit.emoji_world.nouns import UNSEEN_STYLE
from vladva_kit.emoji_world.pretrain import (
    CLIP_STAGE,
    GROUP_WORDS,
    LLAVA_STAGE,
    NAMING_WEIGHTS,
    READ_STAGE,
    STAGES,
    TOLD_WEIGHTS,
    Pupil,
    clip_losses,
    learning_rate,
    naming,
    next_word_loss,
    told,
    told_features,
    train_stage,
)
from vladva_kit.emoji_world.questions import KINDS, questions
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.words import ASSISTANT, EOS, IMAGE_SIZE, encode, ids
from vladva_kit.lvlm import resolve


@pytest.fixture(scope="module")
def pupil():
    torch.manual_seed(0)
    return Pupil().eval()


def tiny(stage, **changes):
    return replace(stage, **{"steps": 4, "batch_size": 4, "warmup": 1, "save_every": 2, "check_every": 4, **changes})


def test_both_models_share_one_tower(pupil):
    assert pupil.llava.model.vision_tower is pupil.clip.vision_model
    assert pupil.llava.lm_head.weight is pupil.llava.get_input_embeddings().weight


def test_a_told_patch_is_the_sum_of_its_words_its_row_and_its_column(pupil):
    words = torch.from_numpy(np.stack([patch_words(scene) for scene in exam_scenes("seen", 2)]))
    patches, table = told(pupil, words), pupil.llava.get_input_embeddings().weight
    for picture, patch in ((0, 0), (1, 17), (0, 63), (1, 36)):
        wanted = pupil.places.weight[patch // GRID] + pupil.places.weight[GRID + patch % GRID]
        for word, loud in zip(words[picture, patch], TOLD_WEIGHTS, strict=True):
            wanted = wanted + (loud * table[word] if word != IGNORED else 0)
        assert torch.allclose(patches[picture, patch], wanted, atol=1e-6)
    spoken = torch.stack(told_features(pupil, words).pooler_output)
    assert not spoken[:, 0].any() and torch.equal(spoken[:, 1:], patches)


def test_naming_equals_a_plain_loop_over_patches(pupil):
    words = torch.from_numpy(np.stack([patch_words(scene) for scene in exam_scenes("seen", 3)]))
    projected = torch.randn(*words.shape[:2], 256)
    table = pupil.llava.get_input_embeddings().weight
    total = 0.0
    for group, names in enumerate(GROUP_WORDS):
        losses = []
        for picture in range(len(words)):
            for patch in range(words.shape[1]):
                word = int(words[picture, patch, group])
                if word != IGNORED:
                    choices = [ids()[name] for name in names]
                    logits = torch.stack([projected[picture, patch] @ table[choice] for choice in choices])
                    losses.append(F.cross_entropy(logits, torch.tensor(choices.index(word))))
        total += NAMING_WEIGHTS[group] * float(torch.stack(losses).mean())
    wanted = told(pupil, words)
    apart = [
        ((p - w) ** 2).sum() / (w**2).sum() for p, w in zip(projected.flatten(0, 1), wanted.flatten(0, 1), strict=True)
    ]
    total += float(torch.stack(apart).mean())
    loss, right = naming(pupil, projected, words)
    assert float(loss) == pytest.approx(total, rel=1e-4)
    assert right.shape == (5,) and ((right >= 0) & (right <= 1)).all()


def test_naming_leaves_the_llms_words_where_they_are(pupil):
    words = torch.from_numpy(patch_words(exam_scenes("seen", 1)[0]))[None]
    projected = torch.randn(1, GRID * GRID, 256, requires_grad=True)
    naming(pupil, projected, words)[0].backward()
    assert projected.grad.any()
    assert pupil.llava.get_input_embeddings().weight.grad is None and pupil.places.weight.grad is None


def test_a_patch_that_says_what_it_would_be_told_is_no_distance_away(pupil):
    words = torch.from_numpy(patch_words(exam_scenes("seen", 1)[0]))[None]
    at, off = told(pupil, words), told(pupil, words) * 0
    assert float(naming(pupil, at, words)[0]) < float(naming(pupil, off, words)[0]) - 1


def test_the_contrastive_loss_is_clips_own(pupil):
    batch = Lessons(0, "clip", "clip", 5, 1, CLIP_STAGE.styles, 0.0)[0]
    with torch.no_grad():
        ours = clip_losses(pupil, batch)["contrastive"]
        theirs = pupil.clip(batch["written"]["input_ids"], batch["pictured"]["pixel_values"], return_loss=True).loss
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)


def test_the_next_word_loss_is_a_weighted_mean_over_what_is_learnt(pupil):
    batch = Lessons(0, "read", "read", 2, 1, READ_STAGE.styles, 0.0)[0]["written"]
    with torch.no_grad():
        logits = pupil.llava(input_ids=batch["input_ids"]).logits
        ours = next_word_loss(pupil.llava, batch)
    total = weights = 0.0
    for row in range(len(batch["labels"])):
        for at in range(1, batch["labels"].shape[1]):
            if batch["labels"][row, at] != IGNORED:
                weight = float(batch["weights"][row, at])
                total += weight * float(F.cross_entropy(logits[row, at - 1], batch["labels"][row, at]))
                weights += weight
    assert float(ours) == pytest.approx(total / weights, rel=1e-4)


def test_the_rate_warms_up_and_falls_to_a_hundredth():
    rates = [learning_rate(CLIP_STAGE, step) for step in range(CLIP_STAGE.steps + 1)]
    assert rates[0] < rates[CLIP_STAGE.warmup] and rates[-1] == pytest.approx(CLIP_STAGE.learning_rate / 100)


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_goes_on_and_ends_where_an_unbroken_one_ends(stage, tmp_path, monkeypatch):
    quiet = {"say": lambda text: None}
    whole = train_stage(tiny(stage), tmp_path / "whole", **quiet)
    real, taken = pretrain.train_step, []

    def killed(*arguments):
        taken.append(arguments[-1])
        if len(taken) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pretrain, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train_stage(tiny(stage), tmp_path / "killed", **quiet)
    monkeypatch.setattr(pretrain, "train_step", real)
    resumed = train_stage(tiny(stage), tmp_path / "killed", **quiet)
    for (name, one), other in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name


def test_a_stage_starts_from_the_one_before_it_and_a_check_joins_the_curve(tmp_path):
    train_stage(tiny(CLIP_STAGE), tmp_path, say=lambda text: None)
    said = []
    stage = tiny(LLAVA_STAGE, steps=1, learning_rate=0.0, check_every=1)
    pupil = train_stage(
        stage, tmp_path, check=lambda p: {"seen/x": 0.5}, start_from=tmp_path / "clip.safetensors", say=said.append
    )
    before = Pupil()
    pretrain.load_state(tmp_path / "clip.safetensors", before)
    assert torch.equal(pupil.clip.logit_scale, before.clip.logit_scale)
    assert any("seen/x 0.5" in line for line in said)
    _, curve = pretrain.load_state(tmp_path / "llava.safetensors", Pupil())
    assert curve[-1]["seen/x"] == 0.5 and curve[-1]["step"] == 1


def test_the_exported_models_load_with_plain_transformers_and_give_the_pupils_states(pupil, tmp_path):
    for stage in STAGES:
        optimizer = torch.optim.AdamW(pupil.parameters())
        curve = [{"step": 1, "seconds": 2.0, "seen/noun": 0.5, "unseen/noun": 0.25}]
        pretrain.save_state(tmp_path / f"{stage.name}.safetensors", pupil, optimizer, 1, curve)
    clip_folder, llava_folder = export(tmp_path, tmp_path / "out", remark="Made in a test.")
    picture = render(exam_scenes("seen", 1)[0], IMAGE_SIZE)
    llava = LlavaForConditionalGeneration.from_pretrained(llava_folder).eval()
    inputs = AutoProcessor.from_pretrained(llava_folder)(images=picture, text="<bos><user><image>", return_tensors="pt")
    with torch.no_grad():
        ours = pupil.llava.model(input_ids=torch.tensor([PICTURE_IDS]), pixel_values=pixels([picture]))
        theirs = llava.model(**inputs)
        assert torch.allclose(ours.last_hidden_state, theirs.last_hidden_state, atol=1e-4)
        clip = CLIPModel.from_pretrained(clip_folder).eval()
        ours, theirs = (m.get_image_features(pixels([picture])).pooler_output for m in (pupil.clip, clip))
    assert torch.allclose(ours, theirs, atol=1e-4)
    card = (llava_folder / "README.md").read_text()
    assert "| noun | 50.0% | 25.0% |" in card and "Made in a test." in card and "--seed 0" in card


def test_export_writes_only_what_is_there(tmp_path):
    assert export(tmp_path, tmp_path / "out") == []


def test_exam_scenes_of_the_unseen_style_are_all_in_it():
    assert {scene.style for scene in exam_scenes("unseen", 20)} == {UNSEEN_STYLE}


def test_the_quick_examination_agrees_with_greedy_decoding(pupil):
    shipped = LlavaForConditionalGeneration.from_pretrained(resolve("emoji-llava"))
    pupil.llava.load_state_dict(shipped.state_dict())
    figures = examine_llava(pupil, n=4, batch_size=2)
    scenes = exam_scenes("seen", 4)
    import random

    right = []
    for scene in scenes:
        rng = random.Random(scene.seed)
        asked = [rng.choice(questions(scene, kind)) for kind in KINDS if questions(scene, kind)]
        for question in asked:
            prompt = torch.tensor([[*PICTURE_IDS, *encode(question.text), ASSISTANT]])
            wanted = [*encode(question.answer), EOS]
            said = pupil.llava.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt),
                pixel_values=pixels([render(scene, IMAGE_SIZE)]), max_new_tokens=len(wanted), do_sample=False,
            )[0, prompt.shape[1] :].tolist()  # fmt: skip
            right.append(said == wanted)
    assert figures["seen/all questions"] == pytest.approx(sum(right) / len(right))
    assert sum(right) > 0
    assert set(figures) == {f"{s}/{k}" for s in ("seen", "unseen") for k in (*KINDS, "second turn", "all questions")}


def test_neighbouring_places_are_one_run():
    assert _runs([3, 4, 8, 9, 10, 20]) == [[3, 4], [8, 9, 10], [20]]

"""Pretraining: rates, going on after a kill, and what is exported."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoProcessor, CLIPModel, LlavaForConditionalGeneration

from experiments.pretraining import train as pretrain
from experiments.pretraining.dataset import PICTURE_IDS, pixels
from experiments.pretraining.export import export
from experiments.pretraining.joint_model import JointModel
from experiments.pretraining.train import (
    CLIP_STAGE,
    LLAVA_STAGE,
    READ_STAGE,
    STAGES,
    optimizers_of,
    rate_share,
    train_stage,
)
from experiments.pretraining.validate import _runs, validate_llava
from vladva_kit.emoji_world.nouns import UNSEEN_STYLE
from vladva_kit.emoji_world.questions import KINDS, questions
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import validation_scenes
from vladva_kit.emoji_world.words import ASSISTANT, EOS, IMAGE_SIZE, encode
from vladva_kit.models.load import resolve


@pytest.fixture(scope="module")
def joint_model():
    torch.manual_seed(0)
    return JointModel().eval()


def tiny(stage, **changes):
    return replace(stage, **{"steps": 4, "batch_size": 4, "warmup": 1, "save_every": 2, "check_every": 4, **changes})


def test_the_rate_warms_up_and_falls_to_a_hundredth():
    shares = [rate_share(CLIP_STAGE, step) for step in range(CLIP_STAGE.steps + 1)]
    assert shares[0] < shares[CLIP_STAGE.warmup] and shares[-1] == pytest.approx(1 / 100)


def test_muon_has_the_layers_matrices_and_adamw_all_else(joint_model):
    names = {id(parameter): name for name, parameter in joint_model.named_parameters()}
    adamw, muon = (
        {names[id(one)] for group in optimizer.param_groups for one in group["params"]}
        for optimizer in optimizers_of(CLIP_STAGE, joint_model)
    )
    assert adamw | muon == set(names.values()) and not adamw & muon
    assert "clip.vision_model.encoder.layers.0.mlp.fc1.weight" in muon
    assert not any("embed" in name or "norm" in name or name.endswith("bias") for name in muon)
    assert len(optimizers_of(READ_STAGE, joint_model)) == 1


def test_the_tower_learns_slowly_in_the_last_stage(joint_model):
    slow = {id(parameter) for parameter in joint_model.clip.vision_model.parameters()}
    rates = {LLAVA_STAGE.learning_rate, LLAVA_STAGE.matrices_rate}
    for optimizer in optimizers_of(LLAVA_STAGE, joint_model):
        for group in optimizer.param_groups:
            shares = {LLAVA_STAGE.slow_rate if id(one) in slow else 1.0 for one in group["params"]}
            assert len(shares) == 1 and group["full_rate"] in {shares.copy().pop() * rate for rate in rates}


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
    joint_model = train_stage(
        stage, tmp_path, check=lambda p: {"seen/x": 0.5}, start_from=tmp_path / "clip.safetensors", say=said.append
    )
    before = JointModel()
    pretrain.load_state(tmp_path / "clip.safetensors", before)
    assert torch.equal(joint_model.clip.logit_scale, before.clip.logit_scale)
    assert any("seen/x 0.5" in line for line in said)
    _, curve = pretrain.load_state(tmp_path / "llava.safetensors", JointModel())
    assert curve[-1]["seen/x"] == 0.5 and curve[-1]["step"] == 1


def test_the_exported_models_load_with_plain_transformers_and_give_the_pupils_states(joint_model, tmp_path):
    for stage in STAGES:
        curve = [{"step": 1, "seconds": 2.0, "seen/noun": 0.5, "unseen/noun": 0.25}]
        pretrain.save_state(tmp_path / f"{stage.name}.safetensors", joint_model, [], 1, curve)
    clip_folder, llava_folder = export(tmp_path, tmp_path / "out", remark="Made in a test.")
    picture = render(validation_scenes("seen", 1)[0], IMAGE_SIZE)
    llava = LlavaForConditionalGeneration.from_pretrained(llava_folder).eval()
    inputs = AutoProcessor.from_pretrained(llava_folder)(images=picture, text="<bos><user><image>", return_tensors="pt")
    with torch.no_grad():
        ours = joint_model.llava.model(input_ids=torch.tensor([PICTURE_IDS]), pixel_values=pixels([picture]))
        theirs = llava.model(**inputs)
        assert torch.allclose(ours.last_hidden_state, theirs.last_hidden_state, atol=1e-4)
        clip = CLIPModel.from_pretrained(clip_folder).eval()
        ours, theirs = (m.get_image_features(pixels([picture])).pooler_output for m in (joint_model.clip, clip))
    assert torch.allclose(ours, theirs, atol=1e-4)
    card = (llava_folder / "README.md").read_text()
    assert "| noun | 50.0% | 25.0% |" in card and "Made in a test." in card and "--seed 0" in card


def test_export_writes_only_what_is_there(tmp_path):
    assert export(tmp_path, tmp_path / "out") == []


def test_exam_scenes_of_the_unseen_style_are_all_in_it():
    assert {scene.style for scene in validation_scenes("unseen", 20)} == {UNSEEN_STYLE}


def test_the_quick_examination_agrees_with_greedy_decoding(joint_model):
    shipped = LlavaForConditionalGeneration.from_pretrained(resolve("emoji-llava"))
    joint_model.llava.load_state_dict(shipped.state_dict())
    figures = validate_llava(joint_model, n=4, batch_size=2)
    scenes = validation_scenes("seen", 4)
    import random

    right = []
    for scene in scenes:
        rng = random.Random(scene.seed)
        asked = [rng.choice(questions(scene, kind)) for kind in KINDS if questions(scene, kind)]
        for question in asked:
            prompt = torch.tensor([[*PICTURE_IDS, *encode(question.text), ASSISTANT]])
            wanted = [*encode(question.answer), EOS]
            said = joint_model.llava.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt),
                pixel_values=pixels([render(scene, IMAGE_SIZE)]), max_new_tokens=len(wanted), do_sample=False,
            )[0, prompt.shape[1] :].tolist()  # fmt: skip
            right.append(said == wanted)
    assert figures["seen/all questions"] == pytest.approx(sum(right) / len(right))
    assert sum(right) > 0
    assert set(figures) == {f"{s}/{k}" for s in ("seen", "unseen") for k in (*KINDS, "second turn", "all questions")}


def test_neighboring_places_are_one_run():
    assert _runs([3, 4, 8, 9, 10, 20]) == [[3, 4], [8, 9, 10], [20]]

"""Training: schedule, optimizers, and resuming after an interruption."""

from dataclasses import replace

import pytest
import torch

from experiments.pretraining import train
from experiments.pretraining.joint_model import JointModel
from experiments.pretraining.train import (
    CLIP_STAGE,
    LLAVA_STAGE,
    STAGES,
    Stage,
    build_optimizers,
    load_state,
    rate_factor,
    train_stage,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def joint_model():
    return JointModel()


def tiny(stage, **changes):
    return replace(stage, **{"steps": 4, "batch_size": 2, "warmup": 1, "save_every": 2, "validate_every": 4, **changes})


def test_the_rate_warms_up_and_decays_to_one_percent():
    stage = Stage("read", steps=100, batch_size=1, warmup=10)
    factors = [rate_factor(stage, step) for step in range(stage.steps + 1)]
    assert factors[0] < 0.2 and max(factors) == max(factors[5:15]) > 0.9 and factors[-1] == pytest.approx(0.01)


def test_muon_optimizes_the_layers_matrices_and_adamw_the_rest(joint_model):
    names = {id(parameter): name for name, parameter in joint_model.named_parameters()}
    stage = Stage("clip", steps=1, batch_size=1, muon_rate=1e-3)
    adamw, muon = (
        {names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer in build_optimizers(stage, joint_model)
    )
    assert adamw | muon == set(names.values()) and not adamw & muon
    assert "clip.vision_model.encoder.layers.0.mlp.fc1.weight" in muon
    assert not any("embed" in name or "norm" in name or name.endswith("bias") for name in muon)
    assert len(build_optimizers(replace(stage, muon_rate=0.0), joint_model)) == 1


def test_slow_parts_have_a_reduced_rate(joint_model):
    stage = Stage("llava", 1, 1, learning_rate=1.0, muon_rate=2.0, slow=("vision_model",), slow_factor=0.5)
    slow = {id(parameter) for parameter in joint_model.clip.vision_model.parameters()}
    for optimizer, rate in zip(build_optimizers(stage, joint_model), (1.0, 2.0), strict=True):
        for group in optimizer.param_groups:
            assert {0.5 * rate if id(one) in slow else rate for one in group["params"]} == {group["full_rate"]}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_an_interrupted_stage_resumes_to_the_same_weights(stage, tmp_path, monkeypatch):
    complete = train_stage(tiny(stage), tmp_path / "complete", log=lambda line: None)
    train_step, steps = train.train_step, []

    def interrupted(*arguments):
        steps.append(arguments[-1])
        if len(steps) == 4:
            raise KeyboardInterrupt
        return train_step(*arguments)

    monkeypatch.setattr(train, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_stage(tiny(stage), tmp_path / "resumed", log=lambda line: None)
    resumed = train_stage(tiny(stage), tmp_path / "resumed", log=lambda line: None)
    assert steps == [0, 1, 2, 3, 2, 3]  # the state of step 2 was saved
    for (name, one), other in zip(complete.named_parameters(), resumed.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name


def test_a_stage_starts_from_the_previous_one_and_records_validation(tmp_path):
    train_stage(tiny(CLIP_STAGE, steps=1), tmp_path, log=lambda line: None)
    lines = []
    joint_model = train_stage(
        tiny(LLAVA_STAGE, steps=1, learning_rate=0.0, validate_every=1), tmp_path,
        validate=lambda model: {"seen/x": 0.5}, start_from=tmp_path / "clip.safetensors", log=lines.append,
    )  # fmt: skip
    before = JointModel()
    load_state(tmp_path / "clip.safetensors", before)
    assert torch.equal(joint_model.clip.logit_scale, before.clip.logit_scale)
    assert any("seen/x 0.5" in line for line in lines)
    _, curve = load_state(tmp_path / "llava.safetensors", JointModel())
    assert curve[-1]["seen/x"] == 0.5 and curve[-1]["step"] == 1

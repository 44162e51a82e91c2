import pytest
import torch
from transformers import AutoProcessor, CLIPModel, LlavaForConditionalGeneration

from experiments.pretraining.dataset import IMAGE_PREFIX, to_pixel_values
from experiments.pretraining.export import export
from experiments.pretraining.joint_model import JointModel
from experiments.pretraining.tokenizer import IMAGE_SIZE
from experiments.pretraining.train import STAGES, save_state
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import validation_scenes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def joint_model():
    torch.manual_seed(0)
    return JointModel().eval()


@pytest.fixture(scope="module")
def folders(joint_model, tmp_path_factory):
    states = tmp_path_factory.mktemp("states")
    curve = [{"step": 1, "seconds": 2.0, "seen/noun": 0.5, "unseen/noun": 0.25}]
    for stage in STAGES:
        save_state(states / f"{stage.name}.safetensors", joint_model, [], 1, curve)
    return export(states, states / "out")


@torch.no_grad()
def test_exported_models_load_with_plain_transformers_and_give_the_same_features(joint_model, folders):
    clip_folder, llava_folder = folders
    image = render(validation_scenes("seen", 1)[0], IMAGE_SIZE)
    pixel_values = to_pixel_values([image])
    llava = LlavaForConditionalGeneration.from_pretrained(llava_folder).eval()
    inputs = AutoProcessor.from_pretrained(llava_folder)(images=image, text="<bos><user><image>", return_tensors="pt")
    expected = joint_model.llava.model(input_ids=torch.tensor([IMAGE_PREFIX]), pixel_values=pixel_values)
    assert torch.allclose(llava.model(**inputs).last_hidden_state, expected.last_hidden_state, atol=1e-4)
    clip = CLIPModel.from_pretrained(clip_folder).eval()
    features, expected = (model.get_image_features(pixel_values).pooler_output for model in (clip, joint_model.clip))
    assert torch.allclose(features, expected, atol=1e-4)


def test_the_cards_state_scores_command_and_caveats(folders):
    for folder in folders:
        card = (folder / "README.md").read_text()
        assert "| noun | 50.0% | 25.0% |" in card and "python -m experiments.pretraining --seed 0" in card
        for caveat in (
            "17 that were misread",
            "patch-labeling loss",
            "not strictly zero-shot",
            "instruction following",
        ):
            assert card.replace("\n", " ").count(caveat) == 1


def test_without_states_nothing_is_exported(tmp_path):
    assert export(tmp_path, tmp_path / "out") == []

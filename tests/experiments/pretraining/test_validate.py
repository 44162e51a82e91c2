import random

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from experiments.pretraining.dataset import IMAGE_PREFIX, to_pixel_values
from experiments.pretraining.joint_model import JointModel
from experiments.pretraining.tokenizer import ASSISTANT, EOS, IMAGE_SIZE, encode
from experiments.pretraining.validate import _runs, validate_clip, validate_llava
from vladva_kit.emoji_world.questions import KINDS, questions
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import validation_scenes
from vladva_kit.models.load import resolve

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def joint_model():
    model = JointModel().eval()
    model.llava.load_state_dict(LlavaForConditionalGeneration.from_pretrained(resolve("emoji-llava")).state_dict())
    return model


def test_question_accuracy_agrees_with_greedy_decoding(joint_model):
    scores = validate_llava(joint_model, n=4, batch_size=2)
    correct = []
    for scene in validation_scenes("seen", 4):
        rng = random.Random(scene.seed)
        for question in [rng.choice(questions(scene, kind)) for kind in KINDS if questions(scene, kind)]:
            prompt = torch.tensor([[*IMAGE_PREFIX, *encode(question.text), ASSISTANT]])
            expected = [*encode(question.answer), EOS]
            answer = joint_model.llava.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt),
                pixel_values=to_pixel_values([render(scene, IMAGE_SIZE)]), max_new_tokens=len(expected),
                do_sample=False,
            )[0, prompt.shape[1] :].tolist()  # fmt: skip
            correct.append(answer == expected)
    assert scores["seen/all questions"] == pytest.approx(sum(correct) / len(correct)) and any(correct)
    assert set(scores) == {f"{s}/{k}" for s in ("seen", "unseen") for k in (*KINDS, "second turn", "all questions")}


def test_oracle_validation_covers_seen_styles_only(joint_model):
    scores = validate_llava(joint_model, n=6, oracle=True)
    assert set(scores) == {f"seen/{kind}" for kind in (*KINDS, "second turn", "all questions")}


def test_clip_validation_covers_both_style_groups(joint_model):
    scores = validate_clip(joint_model, n=4)
    metrics = ("patch noun", "image→text R@1", "text→image R@1")
    assert set(scores) == {f"{group}/{metric}" for group in ("seen", "unseen") for metric in metrics}
    assert all(0 <= score <= 1 for score in scores.values())


def test_consecutive_indices_form_one_run():
    assert _runs([3, 4, 8, 9, 10, 20]) == [[3, 4], [8, 9, 10], [20]]

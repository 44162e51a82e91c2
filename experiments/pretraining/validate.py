"""Validation during training: patch labels, retrieval, and question accuracy."""

import random
from collections import defaultdict

import numpy as np
import torch
from torch.nn import functional as F

from experiments.pretraining.dataset import (
    IGNORE_INDEX,
    collate_packed,
    make_turn,
    pack,
    pad,
    patch_labels,
    to_pixel_values,
)
from experiments.pretraining.joint_model import JointModel, oracle_features, patch_label_loss
from experiments.pretraining.tokenizer import BOS, EOS, IMAGE_SIZE, encode
from experiments.pretraining.train import to_device
from vladva_kit.emoji_world.captions import short_caption
from vladva_kit.emoji_world.questions import KINDS, questions, sample_chat
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import STYLE_GROUPS, Scene, validation_scenes


def _pixels(scenes: list[Scene]) -> torch.Tensor:
    return to_pixel_values([render(scene, IMAGE_SIZE) for scene in scenes])


def _labels(scenes: list[Scene]) -> torch.Tensor:
    return torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes]))


@torch.inference_mode()
def validate_clip(joint_model: JointModel, n: int = 500) -> dict[str, float]:
    """Return R@1 in both directions among n images and the noun accuracy of patches, in seen and unseen styles."""
    joint_model.eval()
    clip, device, scores = joint_model.clip, joint_model.device, {}
    for name in STYLE_GROUPS:
        scenes = validation_scenes(name, n)
        rng = random.Random(name)
        vision = clip.vision_model(pixel_values=_pixels(scenes).to(device), output_hidden_states=True)
        captions = pad([[BOS, *encode(short_caption(scene, rng)), EOS] for scene in scenes]).to(device)
        images = F.normalize(clip.visual_projection(vision.pooler_output), dim=-1)
        texts = F.normalize(clip.get_text_features(captions).pooler_output, dim=-1)
        similarity, target = images @ texts.T, torch.arange(n, device=device)
        projected = joint_model.llava.model.multi_modal_projector(vision.hidden_states[-1][:, 1:])
        _, accuracies = patch_label_loss(joint_model, projected, _labels(scenes).to(device))
        scores[f"{name}/patch noun"] = float(accuracies[0])
        scores[f"{name}/image→text R@1"] = float((similarity.argmax(1) == target).float().mean())
        scores[f"{name}/text→image R@1"] = float((similarity.argmax(0) == target).float().mean())
    return scores


@torch.inference_mode()
def validate_llava(
    joint_model: JointModel, n: int = 300, batch_size: int = 50, oracle: bool = False
) -> dict[str, float]:
    """Return the accuracy of greedy answers by question kind, and of second turns.

    Greedy decoding gives the reference answer exactly if each of its tokens is the argmax after the previous ones, so
    one forward pass scores all questions about an image.
    oracle: replace image features by oracle patches, in seen styles only (the "read" stage).
    """
    joint_model.eval()
    scores = {}
    for name in ("seen",) if oracle else STYLE_GROUPS:
        correct: dict[str, list[bool]] = defaultdict(list)
        scenes = validation_scenes(name, n)
        for start in range(0, n, batch_size):
            _score_batch(joint_model, scenes[start : start + batch_size], correct, oracle)
        scores |= {f"{name}/{kind}": float(np.mean(correct[kind])) for kind in (*KINDS, "second turn")}
        scores[f"{name}/all questions"] = float(np.mean([x for kind in KINDS for x in correct[kind]]))
    return scores


def _score_batch(joint_model: JointModel, scenes: list[Scene], correct: dict[str, list[bool]], oracle: bool) -> None:
    """Append to `correct`, by kind, whether each answer about these scenes is right."""
    asked, rows = [], []
    for scene in scenes:
        rng = random.Random(scene.seed)
        single = [rng.choice(candidates) for kind in KINDS if (candidates := questions(scene, kind))]
        chat = sample_chat(scene, rng)
        asked.append([question.kind for question in single])
        conversations = [[make_turn(question.text, question.answer)] for question in single]
        rows.append(pack([*conversations, [make_turn(turn.text, turn.answer) for turn in chat]]))
    batch = collate_packed(rows)
    del batch["weights"]
    if not oracle:
        batch["pixel_values"] = _pixels(scenes)
    batch = to_device(batch, joint_model.device)
    labels = batch.pop("labels")[:, 1:]
    if oracle:
        batch["mm_encoder_outputs"] = {"image": oracle_features(joint_model, _labels(scenes).to(joint_model.device))}
    states = joint_model.llava.model(**batch, use_cache=False).last_hidden_state
    predicted = joint_model.llava.lm_head(states)[:, :-1].argmax(-1)
    wrong = (predicted != labels) & (labels != IGNORE_INDEX)
    for row, kinds in enumerate(asked):
        answers = _runs((labels[row] != IGNORE_INDEX).nonzero().flatten().tolist())
        for kind, answer in zip(kinds, answers, strict=False):  # the chat's two answers come last
            correct[kind].append(not wrong[row, answer].any().item())
        correct["second turn"].append(not wrong[row, answers[-1]].any().item())


def _runs(indices: list[int]) -> list[list[int]]:
    """Group consecutive indices: [3, 4, 8] -> [[3, 4], [8]]."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs

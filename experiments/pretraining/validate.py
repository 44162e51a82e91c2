"""Quick examinations during training: what the patches name, what the CLIP finds, which questions are answered."""

import random
from collections import defaultdict

import numpy as np
import torch
from torch.nn import functional as F

from experiments.pretraining.dataset import (
    IGNORE_INDEX,
    answered,
    collate_packed,
    packed,
    padded,
    patch_words,
    pixels,
)
from experiments.pretraining.joint_model import JointModel, naming, told_features
from experiments.pretraining.train import on_device
from vladva_kit.emoji_world.captions import short_caption
from vladva_kit.emoji_world.questions import KINDS, questions, sample_chat
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import STYLES, Scene, validation_scenes
from vladva_kit.emoji_world.words import BOS, EOS, IMAGE_SIZE, encode


@torch.inference_mode()
def validate_clip(joint_model: JointModel, n: int = 500) -> dict[str, float]:
    """R@1 both ways in a gallery of n, and the share of patches that name their noun; seen and unseen style."""
    joint_model.eval()
    device, figures = joint_model.places.weight.device, {}
    for name in STYLES:
        scenes = validation_scenes(name, n)
        rng = random.Random(name)
        seen = joint_model.clip.vision_model(
            pixel_values=pixels([render(scene, IMAGE_SIZE) for scene in scenes]).to(device), output_hidden_states=True
        )
        captions = padded([[BOS, *encode(short_caption(scene, rng)), EOS] for scene in scenes]).to(device)
        images = F.normalize(joint_model.clip.visual_projection(seen.pooler_output), dim=-1)
        texts = F.normalize(joint_model.clip.get_text_features(captions).pooler_output, dim=-1)
        scores, own = images @ texts.T, torch.arange(n, device=device)
        projected = joint_model.llava.model.multi_modal_projector(seen.hidden_states[-1][:, 1:])
        words = torch.from_numpy(np.stack([patch_words(scene) for scene in scenes]))
        _, right = naming(joint_model, projected, words.to(device))
        figures[f"{name}/patch noun"] = float(right[0])
        figures[f"{name}/image→text R@1"] = float((scores.argmax(1) == own).float().mean())
        figures[f"{name}/text→image R@1"] = float((scores.argmax(0) == own).float().mean())
    return figures


@torch.inference_mode()
def validate_llava(joint_model: JointModel, n: int = 300, batch_size: int = 50, told: bool = False) -> dict[str, float]:
    """The share of questions answered exactly by greedy decoding, by kind, and of second turns.

    An answer is what greedy decoding would give just when each of its tokens is the likeliest after those before it,
    so one forward pass over all questions of a picture is enough. told: patches are told, not seen ("read" stage).
    """
    joint_model.eval()
    figures = {}
    for name in ("seen",) if told else STYLES:
        right = defaultdict(list)
        scenes = validation_scenes(name, n)
        for start in range(0, n, batch_size):
            _examine_batch(joint_model, scenes[start : start + batch_size], right, told)
        figures |= {f"{name}/{kind}": float(np.mean(right[kind])) for kind in (*KINDS, "second turn")}
        figures[f"{name}/all questions"] = float(np.mean([x for kind in KINDS for x in right[kind]]))
    return figures


def _examine_batch(joint_model: JointModel, scenes: list[Scene], right: dict[str, list[bool]], told: bool) -> None:
    asked, rows = [], []
    for scene in scenes:
        rng = random.Random(scene.seed)
        single = [(kind, rng.choice(questions(scene, kind))) for kind in KINDS if questions(scene, kind)]
        chat = sample_chat(scene, rng)
        asked.append([kind for kind, _ in single] + ["second turn"])
        conversations = [[answered(question.text, question.answer)] for _, question in single]
        rows.append(packed([*conversations, [answered(turn.text, turn.answer) for turn in chat]]))
    batch = collate_packed(rows)
    del batch["weights"]
    if not told:
        batch["pixel_values"] = pixels([render(scene, IMAGE_SIZE) for scene in scenes])
    batch = on_device(batch, joint_model.places.weight.device)
    labels = batch.pop("labels")
    if told:
        words = torch.from_numpy(np.stack([patch_words(scene) for scene in scenes])).to(labels.device)
        batch["mm_encoder_outputs"] = {"image": told_features(joint_model, words)}
    states = joint_model.llava.model(**batch, use_cache=False).last_hidden_state
    guessed = joint_model.llava.lm_head(states)[:, :-1].argmax(-1)
    wrong = (guessed != labels[:, 1:]) & (labels[:, 1:] != IGNORE_INDEX)
    for row, kinds in enumerate(asked):
        learned = (labels[row, 1:] != IGNORE_INDEX).nonzero().flatten().tolist()
        groups = _runs(learned)
        for kind, group in zip(kinds[:-1], groups, strict=False):
            right[kind].append(not wrong[row, group].any().item())
        right["second turn"].append(not wrong[row, groups[-1]].any().item())


def _runs(places: list[int]) -> list[list[int]]:
    """Neighboring places together: [3, 4, 8] -> [[3, 4], [8]]."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs

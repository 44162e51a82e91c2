"""Writes the trained models as folders that plain transformers loads, each with its card."""

import os
from pathlib import Path
from typing import Any

from experiments.pretraining.joint_model import JointModel
from experiments.pretraining.train import CLIP_STAGE, LLAVA_STAGE, READ_STAGE, Stage, load_state
from vladva_kit.emoji_world.words import build_clip_tokenizer, build_image_processor, build_processor
from vladva_kit.models.files import atomic_dir

_CARD = """---
license: apache-2.0
library_name: transformers
---
# {name}

{what}

**Data.** Scenes of the emoji world, drawn on the fly by `vladva_kit.emoji_world` from emoji by Google (Noto Emoji,
and its first edition), Microsoft (Fluent Emoji, flat and high contrast), Emoji One (in color and monotone), Mozilla
(FxEmoji) and Streamline. Twitter's Twemoji is kept out, as the test of whether anything was understood. {data}

**Command.** `vladva pretrain --seed {seed}`: {stages}; cosine, {seconds:.0f} s on {machine}.
{remark}
**Curve.** {curve}.

**Last examination** (fresh scenes; share right):

| | seen styles | unseen style |
|---|---|---|
{figures}

**Limits.** It knows the emoji world and nothing else: {limits}
"""
_CLIP = (
    "A `CLIPModel` of 3.4 million weights: the peer in this kit, and the vision tower that emoji-llava starts from.",
    "Short captions; beside the contrastive loss, each patch learns to name what it shows (noun, color, size, count, "
    "ground) through emoji-llava's projector, in the words that emoji-llava's LLM reads (its stage comes first).",
    "63 nouns (17 more were dropped after a look at the unseen style, where Twemoji draws them unlike the others do), "
    "7 colors, 2 sizes, 6 grounds, 128×128 pixels. Like larger CLIPs it reads a caption much as a bag of words.",
)
_LLAVA = (
    "A `LlavaForConditionalGeneration` of 5.3 million weights that captions, answers questions and chats in two turns.",
    "Short and long captions, eleven kinds of questions, two-turn chats, and texts without a picture. The LLM learns "
    "them first from patches that are told to it in words; the vision tower is emoji-clip's; then both learn together.",
    "about 220 words, one picture a chat, two turns; any other word is read as unknown.",
)


def export(states: Path, into: Path, seed: int = 0, remark: str = "") -> list[Path]:
    """Writes emoji-clip and emoji-llava from the stages' states, as far as they are there; returns their folders.

    export(Path("runs/pretrain"), Path("runs/pretrain"))    # load_lvlm("runs/pretrain/emoji-llava")

    remark: a sentence for the cards, on how these weights were made otherwise.
    """
    written = []
    for stages, save, name, texts in (
        ((READ_STAGE, CLIP_STAGE), save_clip, "emoji-clip", _CLIP),
        ((READ_STAGE, CLIP_STAGE, LLAVA_STAGE), save_llava, "emoji-llava", _LLAVA),
    ):
        paths = [states / f"{stage.name}.safetensors" for stage in stages]
        if all(path.exists() for path in paths):
            joint_model = JointModel()
            curves = [load_state(path, joint_model)[1] for path in paths]  # the last one's weights stay
            written.append(save(joint_model, into / name, _card(name, stages, curves, texts, seed, remark)))
    return written


def _card(
    name: str,
    stages: tuple[Stage, ...],
    curves: list[list[dict[str, Any]]],
    texts: tuple[str, str, str],
    seed: int,
    remark: str,
) -> str:
    """The model card: what it is, what it learned from, the command, the seconds, the last figures, the limits."""
    last = next((row for row in reversed(curves[-1]) if any("/" in key for key in row)), {})
    names = [key.split("/")[1] for key in last if key.startswith("seen/")]
    figures = [f"| {key} | {last[f'seen/{key}']:.1%} | {last[f'unseen/{key}']:.1%} |" for key in names]
    what, data, limits = texts
    return _CARD.format(
        name=name,
        what=what,
        data=data,
        limits=limits,
        stages=", then ".join(map(_said, stages)),
        curve="; ".join(filter(None, map(_checked, stages, curves))),
        seconds=sum(curve[-1]["seconds"] for curve in curves if curve),
        figures="\n".join(figures),
        seed=seed,
        machine=f"{os.cpu_count()} CPU cores",
        remark=f"{remark}\n" if remark else "",
    )


def _said(stage: Stage) -> str:
    rate = f"AdamW at {stage.learning_rate}"
    if stage.matrices_rate:
        rate += f" and Muon for matrices at {stage.matrices_rate}"
    return f"{stage.steps:,} steps of {stage.batch_size} pictures ({stage.name}: {rate})"


def _checked(stage: Stage, curve: list[dict[str, Any]]) -> str:
    """A stage's examinations in one line, by the figure that its examination ends with, seen/unseen where both are."""
    examined = [row for row in curve if any("/" in key for key in row)]
    if not examined:
        return ""
    name = list(examined[-1])[-1].split("/")[1]
    said = [
        f"{row['step']:,}: " + "/".join(f"{value:.0%}" for key, value in row.items() if key.endswith(f"/{name}"))
        for row in examined
    ]
    return f"{stage.name}, {name} after so many steps: {', '.join(said)}"


def save_clip(joint_model: JointModel, folder: Path, text: str) -> Path:
    """emoji-clip: model.safetensors, tokenizer, image processor and card."""
    return _write(folder, text, joint_model.clip, build_clip_tokenizer(), build_image_processor())


def save_llava(joint_model: JointModel, folder: Path, text: str) -> Path:
    """emoji-llava: model.safetensors, processor with tokenizer and chat template, and card."""
    joint_model.llava.generation_config.update(do_sample=False, max_new_tokens=128)
    return _write(folder, text, joint_model.llava, build_processor())


def _write(folder: Path, text: str, *parts: Any) -> Path:
    """Saves the parts beside the folder first, so that an interrupted export leaves no half of a model."""
    with atomic_dir(folder) as beside:
        for part in parts:
            part.save_pretrained(beside)
        (beside / "README.md").write_text(text)
    return folder

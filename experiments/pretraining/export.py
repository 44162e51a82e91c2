"""Export the trained models as folders that plain transformers can load, each with a model card."""

import os
from pathlib import Path
from typing import Any

from experiments.pretraining.joint_model import JointModel
from experiments.pretraining.tokenizer import build_clip_tokenizer, build_image_processor, build_processor
from experiments.pretraining.train import CLIP_STAGE, LLAVA_STAGE, READ_STAGE, Stage, load_state
from vladva_kit.models.files import atomic_dir

_CARD = """---
license: apache-2.0
library_name: transformers
---
# {name}

{summary}

**Data.** Emoji scenes, generated on the fly by `vladva_kit.emoji_world` from the emoji of Google (Noto Emoji, current
and first edition), Microsoft (Fluent Emoji, flat and high contrast), Emoji One (in color and monotone), Mozilla
(FxEmoji) and Streamline. Twitter's Twemoji is held out as the unseen style. Of 80 nouns, the 17 that were misread most
often in the unseen style were dropped, so the scores on that style are optimistic. OpenMoji is a second held-out style:
it is in no training data, and nothing was chosen by it (`data_samples/openmoji`, `vladva eval {name} --data openmoji`).

**Training.** {training}

**Command.** `python -m experiments.pretraining --seed {seed}`: {stages}; cosine schedule, {seconds:.0f} s on {machine}.

**Training curve.** {curve}.

**Validation** (fresh scenes, percent correct):

| | seen styles | unseen style |
|---|---|---|
{scores}

**Limitations.** {limitations}
"""
_ZERO_SHOT_NOTE = (
    "emoji-llava was pretrained on the two embedding prompts with a noun as the answer (see "
    "`experiments/pretraining/dataset.py`). This stands in for the instruction following of a large LVLM, so its base "
    "embedding is not strictly zero-shot."
)
_CLIP = {
    "summary": "A `CLIPModel` with 3.4 million parameters: the baseline in this kit, and the image encoder that "
    "emoji-llava starts from.",
    "training": "A contrastive loss on short captions. emoji-clip was also trained with a patch-labeling loss: each "
    "patch predicts the noun, color, size, count and ground that it shows, through emoji-llava's projector and in the "
    f"word embeddings of emoji-llava's LLM, which is trained first. {_ZERO_SHOT_NOTE}",
    "limitations": "It knows only the emoji world: 63 nouns, 7 colors, 2 sizes, 6 grounds, 128×128 pixels. Like larger "
    "CLIPs, it largely treats a caption as a bag of words.",
}
_LLAVA = {
    "summary": "A `LlavaForConditionalGeneration` with 5.3 million parameters that captions images, answers questions "
    "and chats in two turns.",
    "training": "Short and long captions, eleven kinds of questions, two-turn chats, and text-only conversations. The "
    "LLM is trained first, on patches built from the words of their labels. The image encoder comes from emoji-clip, "
    f"which was also trained with a patch-labeling loss. Then both are trained together. {_ZERO_SHOT_NOTE}",
    "limitations": "It knows only the emoji world: about 220 words, one image per chat, two turns. Any other word is "
    "read as unknown.",
}


def export(states: Path, into: Path, seed: int = 0) -> list[Path]:
    """Write emoji-clip and emoji-llava from the stages' states, if complete, and return their folders.

    export(Path("runs/pretrain"), Path("runs/pretrain"))    # then load_lvlm("runs/pretrain/emoji-llava")
    """
    written = []
    for name, stages, texts, save in (
        ("emoji-clip", (READ_STAGE, CLIP_STAGE), _CLIP, _save_clip),
        ("emoji-llava", (READ_STAGE, CLIP_STAGE, LLAVA_STAGE), _LLAVA, _save_llava),
    ):
        paths = [states / f"{stage.name}.safetensors" for stage in stages]
        if all(path.exists() for path in paths):
            joint_model = JointModel()
            curves = [load_state(path, joint_model)[1] for path in paths]  # the weights of the last stage remain
            card = _CARD.format(name=name, seed=seed, **texts, **_run_facts(stages, curves))
            with atomic_dir(into / name) as folder:
                save(joint_model, folder)
                (folder / "README.md").write_text(card)
            written.append(into / name)
    return written


def _run_facts(stages: tuple[Stage, ...], curves: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Collect the fields of the card that depend on the run."""
    last = next((row for row in reversed(curves[-1]) if any("/" in key for key in row)), {})
    names = [key.split("/")[1] for key in last if key.startswith("seen/")]
    return {
        "stages": ", then ".join(map(_describe, stages)),
        "curve": "; ".join(filter(None, map(_validation_curve, stages, curves))),
        "seconds": sum(curve[-1]["seconds"] for curve in curves if curve),
        "scores": "\n".join(
            f"| {name} | {last[f'seen/{name}']:.1%} | {last[f'unseen/{name}']:.1%} |" for name in names
        ),
        "machine": f"{os.cpu_count()} CPU cores",
    }


def _describe(stage: Stage) -> str:
    rate = f"AdamW at {stage.learning_rate}"
    if stage.muon_rate:
        rate += f" and Muon for matrices at {stage.muon_rate}"
    return f"{stage.steps:,} steps of {stage.batch_size} images ({stage.name}: {rate})"


def _validation_curve(stage: Stage, curve: list[dict[str, Any]]) -> str:
    """Summarize validation by its last metric, seen/unseen: "clip, text→image R@1 by step: 1,000: 57%/54%"."""
    validated = [row for row in curve if any("/" in key for key in row)]
    if not validated:
        return ""
    name = list(validated[-1])[-1].split("/")[1]
    points = [
        f"{row['step']:,}: " + "/".join(f"{value:.0%}" for key, value in row.items() if key.endswith(f"/{name}"))
        for row in validated
    ]
    return f"{stage.name}, {name} by step: {', '.join(points)}"


def _save_clip(joint_model: JointModel, folder: Path) -> None:
    for part in (joint_model.clip, build_clip_tokenizer(), build_image_processor()):
        part.save_pretrained(folder)


def _save_llava(joint_model: JointModel, folder: Path) -> None:
    joint_model.llava.generation_config.update(do_sample=False, max_new_tokens=128)
    for part in (joint_model.llava, build_processor()):
        part.save_pretrained(folder)

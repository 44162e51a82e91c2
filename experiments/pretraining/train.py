"""Trains emoji-clip and emoji-llava from a seed, in stages that go on after a kill.

As LLaVA is put together from a language model and a CLIP, so is emoji-llava, in three stages:

- "read": the LLM learns to talk about pictures from patches that are told to it: each is the sum of the embeddings of
  the words that name it, its row and its column. It learns what a question asks before it has to see.
- "clip": emoji-clip learns (picture, short caption). Its patches learn beside that to name what they show, through
  emoji-llava's projector, in the words that the LLM reads.
- "llava": both together, from pixels to answers.
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from experiments.pretraining.dataset import PretrainDataset
from experiments.pretraining.joint_model import LOSSES, JointModel
from vladva_kit.emoji_world.nouns import TRAINING_STYLES
from vladva_kit.models.device import supports_bfloat16

Optimizers = Sequence[torch.optim.Optimizer]
MOMENTS = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"), torch.optim.Muon: ("momentum_buffer",)}


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage trains."""

    name: str
    learns: str  # "read", "clip" or "llava"
    steps: int
    batch_size: int  # pictures a step
    styles: tuple[int, ...] = TRAINING_STYLES
    wobble: float = 0.75  # share of pictures with bent drawings
    learning_rate: float = 1e-3
    slow: tuple[str, ...] = ()  # the parts that learn at a lower rate,
    slow_rate: float = 1.0  # and what share of the learning rate theirs is
    matrices_rate: float = 0.0  # the layers' matrices learn by Muon at this rate; 0: by AdamW, as everything else
    naming: float = 1.0  # weight of the naming loss
    noun_weight: float = 1.0  # of a noun to be learned, where other words weigh 1
    single: int = 0  # the first steps, whose pictures show one thing in its own colors
    warmup: int = 200  # steps
    weight_decay: float = 0.05
    save_every: int = 250  # steps
    check_every: int = 500  # steps


READ_STAGE = Stage("read", "read", steps=900, batch_size=16, check_every=450)
# What a thing is comes late: after 250 steps patches named 3 % of the nouns, by AdamW and from any scene; 12 % by Muon
# and from single things.
CLIP_STAGE = Stage(
    "clip", "clip", steps=6000, batch_size=64, learning_rate=8e-4, matrices_rate=2e-3, single=600, check_every=1000
)
# At the full rate the LLM's first gradients would undo what the tower knows.
LLAVA_STAGE = Stage(
    "llava", "llava", steps=1600, batch_size=16, learning_rate=6e-4, matrices_rate=6e-4, slow=("vision_model",),
    slow_rate=0.3, naming=0.5, noun_weight=3.0,
)  # fmt: skip
STAGES = (READ_STAGE, CLIP_STAGE, LLAVA_STAGE)  # each starts from where the one before it ended


def rate_share(stage: Stage, step: int) -> float:
    """The share of a full learning rate: linear warm-up, then a cosine down to 1 %."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return min(1, (step + 1) / stage.warmup) * (0.01 + 0.99 * cosine)


def save_state(path: Path, joint_model: JointModel, optimizers: Optimizers, step: int, curve: list[dict]) -> None:
    """Weights, moments, step and curve in one safetensors file, written whole or not at all."""
    tensors = {}
    for name, parameter in joint_model.named_parameters():
        tensors[name] = parameter.detach().cpu()
        for optimizer in optimizers:
            for moment, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}/{name}"] = value.cpu()
    beside = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, beside, {"step": str(step), "curve": json.dumps(curve)})
    os.replace(beside, path)


def load_state(path: Path, joint_model: JointModel, optimizers: Optimizers = ()) -> tuple[int, list[dict]]:
    """Puts a saved state back; without optimizers only the weights. Returns the step and the curve."""
    with safe_open(path, framework="pt") as saved, torch.no_grad():
        names = set(saved.keys())
        for name, parameter in joint_model.named_parameters():
            parameter.copy_(saved.get_tensor(name))
            for optimizer in optimizers:
                moments = [moment for moment in MOMENTS[type(optimizer)] if f"{moment}/{name}" in names]
                if moments:  # no two optimizers' moments share a name
                    optimizer.state[parameter] = {
                        moment: saved.get_tensor(f"{moment}/{name}").to(parameter.device) for moment in moments
                    }
        return int(saved.metadata()["step"]), json.loads(saved.metadata()["curve"])


def on_device(batch: dict, device: torch.device) -> dict:
    """The same nested dictionary of tensors on a device."""
    return {k: on_device(v, device) if isinstance(v, dict) else v.to(device) for k, v in batch.items()}


def say_at_once(line: str) -> None:
    """Prints a line that is seen even where the output goes to a file."""
    print(line, flush=True)


def train_stage(
    stage: Stage,
    folder: Path,
    seed: int = 0,
    check: Callable[[JointModel], dict[str, float]] | None = None,
    start_from: Path | None = None,
    say: Callable[[str], None] = say_at_once,
) -> JointModel:
    """Trains one stage, or goes on with it where `folder` holds its state; returns the trained joint_model.

        train_stage(READ_STAGE, Path("runs/pretrain"))
        train_stage(CLIP_STAGE, Path("runs/pretrain"), start_from=Path("runs/pretrain/read.safetensors"))

    On a GPU where there is one (its products are in bfloat16: compute capability 8.0 or later), else on the CPU
    (in bfloat16 where it has it, else in float32).
    `check` is run every `stage.check_every` steps and its figures join the curve, kept in the state's metadata.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    joint_model, path = JointModel().to(device), folder / f"{stage.name}.safetensors"
    if start_from is not None:
        load_state(start_from, joint_model)
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = optimizers_of(stage, joint_model)
    step, curve = load_state(path, joint_model, optimizers) if path.exists() else (0, [])
    lessons = PretrainDataset(
        seed, stage.name, stage.learns, stage.batch_size, stage.steps, stage.styles, stage.wobble, stage.single,
        stage.noun_weight,
    )  # fmt: skip
    left = torch.utils.data.Subset(lessons, range(step, stage.steps))
    batches = torch.utils.data.DataLoader(left, batch_size=None, num_workers=1, prefetch_factor=4)
    begun, seconds = time.time(), curve[-1]["seconds"] if curve else 0.0
    for batch in batches:
        figures = train_step(stage, joint_model, optimizers, on_device(batch, device), step)
        step += 1
        last = step == stage.steps
        if step % 50 == 0 or last:
            curve.append({"step": step, "seconds": seconds + time.time() - begun, **figures})
            say(f"{stage.name} {step}/{stage.steps}  {_written(curve[-1])}")
        if step % stage.save_every == 0 or last:
            save_state(path, joint_model, optimizers, step, curve)
        if check and curve and (step % stage.check_every == 0 or last):
            curve[-1] |= check(joint_model)
            say(_written({key: value for key, value in curve[-1].items() if "/" in key}))
            save_state(path, joint_model, optimizers, step, curve)
    return joint_model


def optimizers_of(stage: Stage, joint_model: JointModel) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the layers' matrices where the stage asks; in each the stage's slow parts, then the rest."""
    parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in joint_model.named_parameters():
        matrix = stage.matrices_rate > 0 and parameter.ndim == 2 and (".layers." in name or "multi_modal" in name)
        parts.setdefault((matrix, any(part in name for part in stage.slow)), []).append(parameter)

    def groups(matrix: bool, rate: float) -> list[dict]:
        shares = {True: stage.slow_rate, False: 1.0}
        return [
            {"params": parts[matrix, slow], "full_rate": share * rate}
            for slow, share in shares.items()
            if (matrix, slow) in parts
        ]

    decay = stage.weight_decay
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups(False, stage.learning_rate), weight_decay=decay, betas=(0.9, 0.98), fused=True)
    ]
    if stage.matrices_rate:
        matrices = groups(True, stage.matrices_rate)
        optimizers.append(torch.optim.Muon(matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def train_step(
    stage: Stage, joint_model: JointModel, optimizers: Optimizers, batch: dict, step: int
) -> dict[str, float]:
    """One update; returns the losses and shares as numbers."""
    joint_model.train()
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["full_rate"] * rate_share(stage, step)
    losses, summed = LOSSES[stage.learns]
    device = joint_model.places.weight.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=supports_bfloat16(device)):
        figures = losses(joint_model, batch)
        loss = sum(figures[name] for name in summed) + stage.naming * figures["naming"]
    loss.backward()
    nn.utils.clip_grad_norm_(joint_model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    joint_model.zero_grad()
    return {name: float(value.detach()) for name, value in figures.items()}


def _written(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in figures.items())

"""Train emoji-clip and emoji-llava from a seed, in three stages that resume after an interruption.

Like LLaVA, emoji-llava combines a language model and a CLIP image encoder:

- "read": the LLM is trained with oracle patches, which are sums of the embeddings of the patch's label words, its row
  and its column. It solves the questions before the image encoder exists.
- "clip": emoji-clip is trained on (image, short caption) pairs. A patch-labeling loss also maps its patches, through
  emoji-llava's projector, to the words of the LLM.
- "llava": both are trained together, from pixels to answers.
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

from experiments.pretraining.augment import TRAINING_STYLES
from experiments.pretraining.dataset import PretrainDataset
from experiments.pretraining.joint_model import LOSSES, JointModel
from vladva_kit.models.device import supports_bfloat16

Optimizers = Sequence[torch.optim.Optimizer]
MOMENTS = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"), torch.optim.Muon: ("momentum_buffer",)}


@dataclass(frozen=True)
class Stage:
    """The data, length and learning rates of one stage."""

    name: str  # "read", "clip" or "llava"
    steps: int
    batch_size: int  # images per step
    styles: tuple[int, ...] = TRAINING_STYLES
    augment_prob: float = 0.75  # share of images with augmented sprites
    learning_rate: float = 1e-3
    muon_rate: float = 0.0  # of the layers' weight matrices, which then use Muon; 0: everything uses AdamW
    slow: tuple[str, ...] = ()  # the parts with a reduced learning rate
    slow_factor: float = 1.0  # and the factor
    patch_label_weight: float = 1.0
    noun_weight: float = 1.0  # loss weight of a noun relative to other words
    single_steps: int = 0  # the first steps, whose images show one thing in its native colors
    warmup: int = 200  # steps
    weight_decay: float = 0.05
    save_every: int = 250  # steps
    validate_every: int = 500  # steps

    def dataset(self, seed: int) -> PretrainDataset:
        """Build the stage's training data."""
        return PretrainDataset(
            seed, self.name, self.batch_size, self.steps, self.styles, self.augment_prob, self.single_steps,
            self.noun_weight,
        )  # fmt: skip


READ_STAGE = Stage("read", steps=900, batch_size=16, validate_every=450)
# Nouns are slow to emerge. After 250 steps with AdamW on all scenes, patches labeled 3 % of the nouns correctly; with
# Muon on single things, 12 %.
CLIP_STAGE = Stage(
    "clip", steps=6000, batch_size=64, learning_rate=8e-4, muon_rate=2e-3, single_steps=600, validate_every=1000
)
# At the full rate, the LLM's first gradients would destroy what the image encoder has learned.
LLAVA_STAGE = Stage(
    "llava", steps=1600, batch_size=16, learning_rate=6e-4, muon_rate=6e-4, slow=("vision_model",), slow_factor=0.3,
    patch_label_weight=0.5, noun_weight=3.0,
)  # fmt: skip
STAGES = (READ_STAGE, CLIP_STAGE, LLAVA_STAGE)  # each starts from the weights of the previous one


def rate_factor(stage: Stage, step: int) -> float:
    """Return the learning rate schedule's factor: linear warm-up, then a cosine down to 1 %."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return min(1, (step + 1) / stage.warmup) * (0.01 + 0.99 * cosine)


def save_state(path: Path, joint_model: JointModel, optimizers: Optimizers, step: int, curve: list[dict]) -> None:
    """Write weights, moments, step and curve to one safetensors file, atomically."""
    tensors = {}
    for name, parameter in joint_model.named_parameters():
        tensors[name] = parameter.detach().cpu()
        for optimizer in optimizers:
            for moment, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{moment}/{name}"] = value.cpu()
    part = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, {"step": str(step), "curve": json.dumps(curve)})
    os.replace(part, path)


def load_state(path: Path, joint_model: JointModel, optimizers: Optimizers = ()) -> tuple[int, list[dict]]:
    """Load a saved state, without `optimizers` only the weights; return the step and the curve."""
    with safe_open(path, framework="pt") as saved, torch.no_grad():
        names = set(saved.keys())
        for name, parameter in joint_model.named_parameters():
            parameter.copy_(saved.get_tensor(name))
            for optimizer in optimizers:
                moments = [moment for moment in MOMENTS[type(optimizer)] if f"{moment}/{name}" in names]
                if moments:  # AdamW's and Muon's moments have different names
                    optimizer.state[parameter] = {
                        moment: saved.get_tensor(f"{moment}/{name}").to(parameter.device) for moment in moments
                    }
        return int(saved.metadata()["step"]), json.loads(saved.metadata()["curve"])


def to_device(batch: dict, device: torch.device) -> dict:
    """Move a nested dictionary of tensors to a device."""
    return {k: to_device(v, device) if isinstance(v, dict) else v.to(device) for k, v in batch.items()}


def print_line(line: str) -> None:
    """Print a line and flush, so that it also shows at once in a log file."""
    print(line, flush=True)


def train_stage(
    stage: Stage,
    folder: Path,
    seed: int = 0,
    validate: Callable[[JointModel], dict[str, float]] | None = None,
    start_from: Path | None = None,
    log: Callable[[str], None] = print_line,
) -> JointModel:
    """Train one stage, or resume it from the state in `folder`, and return the model.

        train_stage(READ_STAGE, Path("runs/pretrain"))
        train_stage(CLIP_STAGE, Path("runs/pretrain"), start_from=Path("runs/pretrain/read.safetensors"))

    Runs on a GPU if there is one, in bfloat16 where the device supports it.
    `validate` runs every `stage.validate_every` steps; its metrics are added to the curve in the state's metadata.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    joint_model, path = JointModel().to(device), folder / f"{stage.name}.safetensors"
    if start_from is not None:
        load_state(start_from, joint_model)
    folder.mkdir(parents=True, exist_ok=True)
    optimizers = build_optimizers(stage, joint_model)
    step, curve = load_state(path, joint_model, optimizers) if path.exists() else (0, [])
    remaining = torch.utils.data.Subset(stage.dataset(seed), range(step, stage.steps))
    batches = torch.utils.data.DataLoader(remaining, batch_size=None, num_workers=1, prefetch_factor=4)
    start, seconds = time.time(), curve[-1]["seconds"] if curve else 0.0
    for batch in batches:
        metrics = train_step(stage, joint_model, optimizers, to_device(batch, device), step)
        step += 1
        last = step == stage.steps
        if step % 50 == 0 or last:
            curve.append({"step": step, "seconds": seconds + time.time() - start, **metrics})
            log(f"{stage.name} {step}/{stage.steps}  {_format(curve[-1])}")
        if step % stage.save_every == 0 or last:
            save_state(path, joint_model, optimizers, step, curve)
        if validate and curve and (step % stage.validate_every == 0 or last):
            scores = validate(joint_model)
            curve[-1] |= scores
            log(_format(scores))
            save_state(path, joint_model, optimizers, step, curve)
    return joint_model


def build_optimizers(stage: Stage, joint_model: JointModel) -> list[torch.optim.Optimizer]:
    """Build AdamW, and Muon for the layers' matrices if `stage.muon_rate` is set."""
    parts: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in joint_model.named_parameters():
        matrix = stage.muon_rate > 0 and parameter.ndim == 2 and (".layers." in name or "multi_modal" in name)
        parts.setdefault((matrix, any(part in name for part in stage.slow)), []).append(parameter)

    def groups(matrix: bool, rate: float) -> list[dict]:
        factors = {True: stage.slow_factor, False: 1.0}
        return [
            {"params": parts[matrix, slow], "full_rate": factor * rate}
            for slow, factor in factors.items()
            if (matrix, slow) in parts
        ]

    decay = stage.weight_decay
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups(False, stage.learning_rate), weight_decay=decay, betas=(0.9, 0.98), fused=True)
    ]
    if stage.muon_rate:
        matrices = groups(True, stage.muon_rate)
        optimizers.append(torch.optim.Muon(matrices, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def train_step(
    stage: Stage, joint_model: JointModel, optimizers: Optimizers, batch: dict, step: int
) -> dict[str, float]:
    """Update the weights once and return the losses and patch accuracies."""
    joint_model.train()
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = group["full_rate"] * rate_factor(stage, step)
    device = joint_model.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=supports_bfloat16(device)):
        losses, accuracies = LOSSES[stage.name](joint_model, batch)
    weights = {"patch_labels": stage.patch_label_weight}
    sum(weights.get(name, 1.0) * loss for name, loss in losses.items()).backward()
    nn.utils.clip_grad_norm_(joint_model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    joint_model.zero_grad()
    return {name: float(value.detach()) for name, value in (losses | accuracies).items()}


def _format(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in metrics.items())

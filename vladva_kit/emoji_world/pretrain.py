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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vladva_kit.emoji_world.beginnings import begin_llm, begin_places, begin_tower
from vladva_kit.emoji_world.lessons import GRID, IGNORED, PATCH_GROUPS, Lessons
from vladva_kit.emoji_world.nouns import COUNTS, GROUNDS, NOUNS, SIZES, TINTS, TRAINING_STYLES
from vladva_kit.emoji_world.words import BOS, EOS, IMAGE, IMAGE_SIZE, IMAGE_TOKENS, PAD, PATCH_SIZE, ids, vocabulary

NAMING_WEIGHTS = (3.0, 1.0, 1.0, 1.0, 1.0)  # what a thing is comes last of all by itself
TOLD_WEIGHTS = (4.0, 1.5, 1.5, 1.5, 1.5)  # of a told patch's words: what it shows is looked for most
GROUP_WORDS = ([noun.word for noun in NOUNS], [*TINTS, "natural"], list(SIZES), list(COUNTS[1:]), list(GROUNDS))


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
    naming: float = 1.0  # weight of the naming loss
    warmup: int = 200  # steps
    weight_decay: float = 0.05
    save_every: int = 250  # steps
    check_every: int = 500  # steps


READ_STAGE = Stage("read", "read", steps=900, batch_size=16, check_every=450)
CLIP_STAGE = Stage("clip", "clip", steps=9000, batch_size=64, learning_rate=8e-4, check_every=1000)
# At the full rate the LLM's first gradients would undo what the tower knows.
LLAVA_STAGE = Stage(
    "llava", "llava", steps=3000, batch_size=16, learning_rate=6e-4, slow=("vision_model",), slow_rate=0.3, naming=0.5
)
STAGES = (READ_STAGE, CLIP_STAGE, LLAVA_STAGE)  # each starts from where the one before it ended


class Pupil(nn.Module):
    """Both models around one vision tower: `clip.vision_model` is `llava.model.vision_tower`."""

    def __init__(self) -> None:
        super().__init__()
        vision = {
            "hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 6,
            "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE,
        }  # fmt: skip
        special = {"vocab_size": len(vocabulary()), "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
        text = dict(
            hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=6,
            max_position_embeddings=64, **special,
        )  # fmt: skip
        llm = dict(
            model_type="llama", hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, attention_bias=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **special,
        )  # fmt: skip
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=192))
        self.llava = LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config={"model_type": "clip_vision_model", "projection_dim": 192, **vision},
                text_config=llm, image_token_index=IMAGE, image_seq_length=IMAGE_TOKENS,
                vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True,
            )
        )  # fmt: skip
        begin_tower(self.clip.vision_model)
        begin_llm(self.llava)
        # In training on CPUs, short sequences are faster by explicit products (in bfloat16 2–3 times) than by SDPA,
        # the LLM's long packed ones by SDPA.
        self.clip.set_attn_implementation("eager")
        self.llava.set_attn_implementation("sdpa")
        self.llava.model.vision_tower = self.clip.vision_model
        self.places = nn.Embedding(2 * GRID, 256)  # rows, then columns: for told patches, not shipped
        begin_places(self.places, self.llava.get_input_embeddings().weight)


def told(pupil: Pupil, patch_words: Tensor) -> Tensor:
    """What a patch says when it is told, not seen: the sum of its words' embeddings, its row's and its column's.

    patch_words: (batch, 64, 5), IGNORED where a group has no word. Returns (batch, 64, 256).
    """
    words = pupil.llava.get_input_embeddings()(patch_words.clamp(min=0))
    loud = torch.tensor(TOLD_WEIGHTS, device=patch_words.device)[:, None]
    places = torch.arange(GRID * GRID, device=patch_words.device)
    placed = pupil.places(places // GRID) + pupil.places(GRID + places % GRID)
    return (words * loud * (patch_words != IGNORED)[..., None]).sum(2) + placed


def naming(pupil: Pupil, projected: Tensor, patch_words: Tensor) -> tuple[Tensor, Tensor]:
    """How far patches are from what they would say if told, and each PATCH_GROUPS' share of patches named rightly.

    The loss: cross-entropy over each group's words, summed by NAMING_WEIGHTS, and the squared distance from the told
    patch as a share of that patch's square. The words stay where the LLM has them.
    projected: (batch, 64, 256) patches after the projector; patch_words: (batch, 64, 5), IGNORED elsewhere.
    """
    table, losses, right = pupil.llava.get_input_embeddings().weight.detach(), [], []
    for group, words in enumerate(GROUP_WORDS):
        chosen = patch_words[..., group] != IGNORED
        choices = torch.tensor([ids()[word] for word in words], device=projected.device)
        targets = (patch_words[..., group][chosen][:, None] == choices).int().argmax(1)
        logits = (projected[chosen] @ table[choices].T).float()
        losses.append(F.cross_entropy(logits, targets))
        right.append((logits.argmax(1) == targets).float().mean())
    named = sum(weight * loss for weight, loss in zip(NAMING_WEIGHTS, losses, strict=True))
    wanted = told(pupil, patch_words).detach().float()
    apart = (projected.float() - wanted).square().sum(-1) / wanted.square().sum(-1)
    return named + apart.mean(), torch.stack(right).detach()


def clip_losses(pupil: Pupil, batch: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Symmetric contrastive loss on class tokens, and naming on patches."""
    pictured = batch["pictured"]
    seen = pupil.clip.vision_model(pixel_values=pictured["pixel_values"], output_hidden_states=True)
    images = pupil.clip.visual_projection(seen.pooler_output).float()
    texts = pupil.clip.get_text_features(batch["written"]["input_ids"]).pooler_output.float()
    scale = pupil.clip.logit_scale.exp().clamp(max=100)
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    targets = torch.arange(len(logits), device=logits.device)
    contrastive = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    projected = pupil.llava.model.multi_modal_projector(seen.hidden_states[-1][:, 1:])
    named, right = naming(pupil, projected, pictured["patch_words"])
    return {"contrastive": contrastive, "naming": named, **_shares(right)}


def _shares(right: Tensor) -> dict[str, Tensor]:
    return {f"patch {group}": share for group, share in zip(PATCH_GROUPS, right, strict=True)}


def next_word_loss(llava: LlavaForConditionalGeneration, batch: dict[str, Tensor]) -> Tensor:
    """Weighted mean cross-entropy over the words to be learnt; the head sees no other position."""
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "weights", "patch_words")}
    states = llava.model(**inputs, use_cache=False).last_hidden_state
    learnt = batch["labels"][:, 1:] != IGNORED
    logits, weights = llava.lm_head(states[:, :-1][learnt]).float(), batch["weights"][:, 1:][learnt]
    return (weights * F.cross_entropy(logits, batch["labels"][:, 1:][learnt], reduction="none")).sum() / weights.sum()


def told_features(pupil: Pupil, patch_words: Tensor) -> BaseModelOutputWithPooling:
    """Told patches in the form of a tower's features; the class token says nothing."""
    patches = told(pupil, patch_words)
    spoken = torch.cat([torch.zeros_like(patches[:, :1]), patches], 1)
    return BaseModelOutputWithPooling(pooler_output=list(spoken))


def read_losses(pupil: Pupil, batch: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Next words behind told patches and behind texts."""
    features = told_features(pupil, batch["pictured"]["patch_words"])
    pictured = {**batch["pictured"], "mm_encoder_outputs": {"image": features}}
    pictured_loss, written = (next_word_loss(pupil.llava, part) for part in (pictured, batch["written"]))
    return {"pictured": pictured_loss, "written": written, "naming": torch.zeros_like(written)}


def llava_losses(pupil: Pupil, batch: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Next words behind pictures and behind texts, and naming on patches, from one run of the tower."""
    pictured = dict(batch["pictured"])
    features = pupil.llava.model.get_image_features(pixel_values=pictured.pop("pixel_values"), return_dict=True)
    projected = torch.stack(list(features.pooler_output))[:, 1:]
    named, right = naming(pupil, projected, pictured["patch_words"])
    pictured["mm_encoder_outputs"] = {"image": features}
    pictured_loss, written = (next_word_loss(pupil.llava, part) for part in (pictured, batch["written"]))
    return {"pictured": pictured_loss, "written": written, "naming": named, **_shares(right)}


LOSSES = {
    "read": (read_losses, ("pictured", "written")),
    "clip": (clip_losses, ("contrastive",)),
    "llava": (llava_losses, ("pictured", "written")),
}


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up, then a cosine down to 1 %."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return stage.learning_rate * min(1, (step + 1) / stage.warmup) * (0.01 + 0.99 * cosine)


def save_state(path: Path, pupil: Pupil, optimizer: torch.optim.Optimizer, step: int, curve: list[dict]) -> None:
    """Weights, moments, step and curve in one safetensors file, written whole or not at all."""
    tensors = {}
    for name, parameter in pupil.named_parameters():
        tensors[name] = parameter.detach().cpu()
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}/{name}"] = value.cpu()
    beside = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, beside, {"step": str(step), "curve": json.dumps(curve)})
    os.replace(beside, path)


def load_state(path: Path, pupil: Pupil, optimizer: torch.optim.Optimizer | None = None) -> tuple[int, list[dict]]:
    """Puts a saved state back; without an optimizer only the weights. Returns the step and the curve."""
    with safe_open(path, framework="pt") as saved, torch.no_grad():
        names = set(saved.keys())
        for name, parameter in pupil.named_parameters():
            parameter.copy_(saved.get_tensor(name))
            if optimizer is not None and f"exp_avg/{name}" in names:
                optimizer.state[parameter] = {
                    moment: saved.get_tensor(f"{moment}/{name}").to(parameter.device)
                    for moment in ("step", "exp_avg", "exp_avg_sq")
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
    check: Callable[[Pupil], dict[str, float]] | None = None,
    start_from: Path | None = None,
    say: Callable[[str], None] = say_at_once,
) -> Pupil:
    """Trains one stage, or goes on with it where `folder` holds its state; returns the trained pupil.

        train_stage(READ_STAGE, Path("runs/pretrain"))
        train_stage(CLIP_STAGE, Path("runs/pretrain"), start_from=Path("runs/pretrain/read.safetensors"))

    On a GPU where there is one (its products are in bfloat16: compute capability 8.0 or later), else on the CPU
    (in bfloat16 where it has it, else in float32).
    `check` is run every `stage.check_every` steps and its figures join the curve, kept in the state's metadata.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pupil, path = Pupil().to(device), folder / f"{stage.name}.safetensors"
    if start_from is not None:
        load_state(start_from, pupil)
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = _optimizer(stage, pupil)
    step, curve = load_state(path, pupil, optimizer) if path.exists() else (0, [])
    lessons = Lessons(seed, stage.name, stage.learns, stage.batch_size, stage.steps, stage.styles, stage.wobble)
    left = torch.utils.data.Subset(lessons, range(step, stage.steps))
    batches = torch.utils.data.DataLoader(left, batch_size=None, num_workers=1, prefetch_factor=4)
    begun, seconds = time.time(), curve[-1]["seconds"] if curve else 0.0
    for batch in batches:
        figures = train_step(stage, pupil, optimizer, on_device(batch, device), step)
        step += 1
        last = step == stage.steps
        if step % 50 == 0 or last:
            curve.append({"step": step, "seconds": seconds + time.time() - begun, **figures})
            say(f"{stage.name} {step}/{stage.steps}  {_written(curve[-1])}")
        if step % stage.save_every == 0 or last:
            save_state(path, pupil, optimizer, step, curve)
        if check and curve and (step % stage.check_every == 0 or last):
            curve[-1] |= check(pupil)
            say(_written({key: value for key, value in curve[-1].items() if "/" in key}))
            save_state(path, pupil, optimizer, step, curve)
    return pupil


def _optimizer(stage: Stage, pupil: Pupil) -> torch.optim.Optimizer:
    """AdamW with two groups: the stage's slow parts, and everything else."""
    slow, rest = [], []
    for name, parameter in pupil.named_parameters():
        (slow if any(part in name for part in stage.slow) else rest).append(parameter)
    groups = [{"params": slow, "share": stage.slow_rate}, {"params": rest, "share": 1.0}]
    return torch.optim.AdamW(
        groups, lr=stage.learning_rate, weight_decay=stage.weight_decay, betas=(0.9, 0.98), fused=True
    )


def has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16 itself; emulated, it takes three times as long as float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def train_step(
    stage: Stage, pupil: Pupil, optimizer: torch.optim.Optimizer, batch: dict, step: int
) -> dict[str, float]:
    """One update; returns the losses and shares as numbers."""
    pupil.train()
    for group in optimizer.param_groups:
        group["lr"] = group["share"] * learning_rate(stage, step)
    losses, summed = LOSSES[stage.learns]
    device = pupil.places.weight.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda" or has_bfloat16()):
        figures = losses(pupil, batch)
        loss = sum(figures[name] for name in summed) + stage.naming * figures["naming"]
    loss.backward()
    nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return {name: float(value.detach()) for name, value in figures.items()}


def _written(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in figures.items())

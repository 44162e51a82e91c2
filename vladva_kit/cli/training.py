"""Commands that fine-tune: `demo`, `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import BatchSize, Out, Rate, Seed, Steps


def demo(out: Out = Path("runs/demo"), steps: Steps = 120, batch_size: BatchSize = 64, seed: Seed = 0) -> None:
    """emoji-clip, the LVLM as it is and the LVLM fine-tuned for about two minutes, side by side."""
    import rich
    import torch

    from vladva_kit.cli.demo import run_demo
    from vladva_kit.cli.report import comparison_table
    from vladva_kit.models.device import place, supports_bfloat16
    from vladva_kit.training.settings import Settings

    command = f"vladva demo --steps {steps} --batch-size {batch_size} --seed {seed}"
    # Where the CPU multiplies in bfloat16, a step takes half as long, and its losses are the same to two digits.
    device = torch.device(place().device)
    bf16 = True if device.type == "cpu" and supports_bfloat16(device) else None
    settings = Settings(steps=steps, batch_size=batch_size, seed=seed, bf16=bf16)
    results = run_demo(out, settings, command, typer.echo)
    rich.print(comparison_table(results))
    typer.echo(
        f"{sum(results['seconds'].values()):.0f} s. The page: {out / 'report.html'}; the adapter: {out / 'adapter'}"
    )


def train(
    data: Annotated[str, typer.Argument(help="An imagefolder with metadata.jsonl, or a sample such as emoji_pairs.")],
    out: Out = Path("runs/train"),
    model: Annotated[str, typer.Option(help="emoji-llava, a folder or a hub id.")] = "emoji-llava",
    steps: Steps = 150,
    batch_size: BatchSize = 64,
    learning_rate: Rate = 5e-4,
    soft_prompt_learning_rate: Annotated[
        float | None, typer.Option(help="The soft prompts' own, some hundred times the other; left out: the same.")
    ] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="List unusable pairs and go on without them.")] = False,
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Rows in memory at a time: any batch size then fits (cached gradients).")
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory a row, for more time.")
    ] = False,
    group_by_length: Annotated[
        bool, typer.Option("--group-by-length", help="Pairs of like long captions share a batch: less padding.")
    ] = False,
    cache_images: Annotated[
        str | None, typer.Option(help="'memory' or a folder: run the frozen vision tower once over the pictures.")
    ] = None,
) -> None:
    """Fine-tunes an LVLM on pairs of pictures and captions; writes the adapter."""
    import vladva_kit as vk
    from vladva_kit.cli.report import write_json
    from vladva_kit.data.samples import SAMPLES
    from vladva_kit.models.device import launched

    embedder = vk.attach(vk.load_lvlm(model), seed=seed, quiet=launched()[0] != 0)
    settings = vk.Settings(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
        output_dir=str(out / "checkpoints"), resume=resume, micro_batch_size=micro_batch_size,
        gradient_checkpointing=gradient_checkpointing, group_by_length=group_by_length, cache_images=cache_images,
        soft_prompt_learning_rate=soft_prompt_learning_rate,
    )  # fmt: skip
    source = vk.sample(data) if data in SAMPLES else data
    history = vk.fit(embedder, source, settings, on_error="skip" if skip_bad else "raise")
    embedder.save_pretrained(out / "adapter")  # on every rank: FSDP's shards are put together; the first one writes
    if launched()[0] != 0:
        return
    write_json(out / "history.json", history)
    typer.echo(f"The adapter: {out / 'adapter'}")

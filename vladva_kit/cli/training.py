"""Commands that fine-tune: `demo`, `train`, and `mine`, which finds hard negatives."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import (
    BatchSize,
    Out,
    Seed,
    SkipBad,
    Split,
    Steps,
    load_embedder,
    quiet_libraries,
    resolve_data,
)


def demo(out: Out = Path("runs/demo"), steps: Steps = 200, batch_size: BatchSize = 64, seed: Seed = 0) -> None:
    """Fine-tune emoji-llava and compare it with its base model and a CLIP: about five minutes on two cores."""
    import rich
    import torch

    from vladva_kit.cli.demo import run_demo
    from vladva_kit.data.hard_batches import TWINS_AND_NEIGHBORS
    from vladva_kit.evaluation.overview import overview_table
    from vladva_kit.models.device import choose_device, supports_bfloat16
    from vladva_kit.training.settings import Settings

    command = f"vladva demo --steps {steps} --batch-size {batch_size} --seed {seed}"
    # On a CPU with native bfloat16 a step takes half as long, and the losses agree to two digits.
    device = torch.device(choose_device().device)
    bf16 = True if device.type == "cpu" and supports_bfloat16(device) else None
    settings = Settings(
        steps=steps, batch_size=batch_size, seed=seed, bf16=bf16, batches=TWINS_AND_NEIGHBORS, cache_images="memory",
    )  # fmt: skip
    quiet_libraries()
    results = run_demo(out, settings, command, typer.echo)
    rich.print(overview_table(results))
    seconds = sum(results["seconds"].values())
    typer.echo(f"{seconds:.0f} s. Report: {out / 'report.html'}; adapter: {out / 'adapter'}")


def train(
    data: Annotated[str, typer.Argument(help="An imagefolder, a Hub id of pairs, or a sample such as emoji_pairs.")],
    out: Out = Path("runs/train"),
    model: Annotated[str, typer.Option(help="emoji-llava, a model folder or a Hub id.")] = "emoji-llava",
    steps: Steps = 150,
    batch_size: BatchSize = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 1e-3,
    soft_prompt_learning_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of the soft prompts. Default: 50 times --learning-rate."),
    ] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the last checkpoint in OUT.")] = False,
    resume_anyway: Annotated[
        bool, typer.Option("--resume-anyway", help="Resume with other settings or data than the run began with.")
    ] = False,
    skip_bad: SkipBad = False,
    next_token_weight: Annotated[float, typer.Option(help="Weight of the next-token loss; 0 leaves it out.")] = 0.3,
    distill_weight: Annotated[
        float, typer.Option(help="Weight of the loss that ranks captions as the base model's likelihood does.")
    ] = 0.0,
    batches: Annotated[
        str | None,
        typer.Option(
            help="Composition of a batch, as groups=0.25,mined=0.5,random=0.25. Default: groups, then random."
        ),
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Pairs in memory at a time, for batches of any size (gradient caching).")
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Use less memory per pair and more time.")
    ] = False,
    group_by_length: Annotated[
        bool, typer.Option("--group-by-length", help="Batch long captions of similar length, for less padding.")
    ] = False,
    cache_images: Annotated[
        str | None, typer.Option(help="'memory' or a folder: run the frozen image encoder once per image.")
    ] = None,
) -> None:
    """Fine-tune an LVLM on image-caption pairs and write the adapter."""
    import vladva_kit as vk
    from vladva_kit.models.device import rank_from_env
    from vladva_kit.models.files import folder_lock, write_json
    from vladva_kit.training.checkpoints import last_checkpoint
    from vladva_kit.training.interruption import RunInterrupted

    quiet_libraries()
    settings = vk.Settings(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
        output_dir=str(out / "checkpoints"), resume=resume or resume_anyway, resume_anyway=resume_anyway,
        micro_batch_size=micro_batch_size,
        gradient_checkpointing=gradient_checkpointing, group_by_length=group_by_length, cache_images=cache_images,
        soft_prompt_learning_rate=soft_prompt_learning_rate, next_token_weight=next_token_weight,
        distill_weight=distill_weight, batches=_proportions(batches),
    )  # fmt: skip
    is_first = rank_from_env()[0] == 0
    with folder_lock(out) if is_first else nullcontext():
        last_checkpoint(settings)  # what can be wrong with settings and data is said before the model is loaded
        on_error = "skip" if skip_bad else "raise"
        pairs = vk.load_pairs(resolve_data(data), on_error=on_error)
        embedder = vk.attach(vk.load_lvlm(model), seed=seed, quiet=not is_first)
        try:
            history = vk.fit(embedder, pairs, settings, on_error=on_error)
        except RunInterrupted:
            embedder.save_pretrained(out / "adapter")
            if is_first:
                arguments = [one for one in sys.argv[1:] if one != "--resume"]
                with suppress(OSError):  # the terminal may be gone
                    typer.echo(f"Adapter: {out / 'adapter'}. To resume: {shlex.join(['vladva', *arguments])} --resume")
            raise
        embedder.save_pretrained(out / "adapter")  # on every rank, since FSDP gathers its shards; only rank 0 writes
        if is_first:
            write_json(out / "history.json", history)
            typer.echo(f"Adapter: {out / 'adapter'}")


def _proportions(text: str | None) -> dict[str, float] | None:
    """Parse "groups=0.25,random=0.75"."""
    if text is None:
        return None
    try:
        return {name.strip(): float(share) for name, share in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise ValueError(f"--batches {text!r}: write it as groups=0.25,mined=0.5,random=0.25") from error


def mine(
    data: Annotated[str, typer.Argument(help="An imagefolder with metadata.jsonl, or a sample such as emoji_pairs.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: metadata.mined.jsonl next to metadata.jsonl.")
    ] = None,
    model: Annotated[str, typer.Option(help="emoji-llava, an adapter, a model folder or a Hub id.")] = "emoji-llava",
    split: Split = "train",
    group_size: Annotated[int, typer.Option(help="Pairs of a group: an anchor and its nearest neighbors.")] = 4,
    by: Annotated[str, typer.Option(help="Compare 'text' or 'image' embeddings.")] = "text",
    margin: Annotated[
        float, typer.Option(help="Least difference between the similarities of the positive and of a negative.")
    ] = 0.1,
    seed: Seed = 0,
) -> None:
    """Find groups of hard negatives and write them to the column `group`, to inspect or to train on."""
    import json

    from vladva_kit.data.hard_batches import mine_neighbors, mined_groups
    from vladva_kit.data.pairs import load_pairs, split_folder
    from vladva_kit.data.validation import metadata_file, read_metadata
    from vladva_kit.models.files import atomic_write, json_line

    source = Path(resolve_data(data))
    folder, pairs = split_folder(source, split), load_pairs(source, split)
    records = [json.loads(raw) for _, raw in read_metadata(metadata_file(folder))]
    neighbors = mine_neighbors(load_embedder(model), pairs, k=4 * group_size, by=by, margin=margin, log=typer.echo)
    groups = mined_groups(neighbors, group_size, seed)
    for number, group in enumerate(groups):
        for index in group:
            records[index].setdefault("group", f"mined-{number:06}")
    for number, group in enumerate(groups[:3]):
        typer.echo("\n  ".join([f"group {number}:", *(str(pairs[index].short) for index in group)]))
    out = out or folder / "metadata.mined.jsonl"
    atomic_write({out: "".join(map(json_line, records)).encode()})
    typer.echo(f"{sum(map(len, groups))} pairs in {len(groups)} groups: {out}")
    typer.echo(f"To train on them, replace {folder / 'metadata.jsonl'} by this file.")

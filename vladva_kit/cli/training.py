"""Commands that fine-tune: `demo`, `train`, and `mine`, which finds hard negatives."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vladva_kit.cli.options import (
    BatchSize,
    Out,
    Seed,
    Split,
    Steps,
    load_embedder,
    quiet_libraries,
    resolve_data,
)

if TYPE_CHECKING:
    from vladva_kit.cli.run_config import RunConfig
    from vladva_kit.data.pairs import Pair
    from vladva_kit.embedder.embedder import Embedder


def demo(out: Out = Path("runs/demo"), steps: Steps = 200, batch_size: BatchSize = 64, seed: Seed = 0) -> None:
    """Fine-tune emoji-llava and compare it with its base model and a CLIP: about five minutes on two cores."""
    import rich

    from vladva_kit.cli.demo import run_demo
    from vladva_kit.data.hard_batches import TWINS_AND_NEIGHBORS
    from vladva_kit.evaluation.overview import overview_table
    from vladva_kit.models.device import prefer_bfloat16
    from vladva_kit.training.settings import Settings

    command = f"vladva demo --steps {steps} --batch-size {batch_size} --seed {seed}"
    settings = Settings(
        steps=steps, batch_size=batch_size, seed=seed, bf16=prefer_bfloat16(), batches=TWINS_AND_NEIGHBORS,
        cache_images="memory",
    )  # fmt: skip
    quiet_libraries()
    results = run_demo(out, settings, command, typer.echo)
    rich.print(overview_table(results))
    seconds = sum(results["seconds"].values())
    typer.echo(f"{seconds:.0f} s. Report: {out / 'report.html'}; adapter: {out / 'adapter'}")


def _flag(name: str, text: str) -> Any:
    """Return an option that is None unless it is given, since a file may set it too."""
    return typer.Option(f"--{name}/--no-{name}", help=text, show_default="off")


def train(
    data: Annotated[
        str | None, typer.Argument(help="An imagefolder, a Hub id of pairs, or a sample such as emoji_pairs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.", show_default="runs/train")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A YAML file with any field of vk.Settings and vk.attach and these options; options override it.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="emoji-llava, a model folder or a Hub id.", show_default="emoji-llava")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, …", show_default="by what there is")] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Shrink larger images to this many pixels.")] = None,
    four_bit: Annotated[bool | None, _flag("four-bit", "Load the linear layers in 4 bits (NF4).")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="Rank of LoRA.", show_default="16")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.", show_default="150")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pairs per step; each is a negative of all others.", show_default="64")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate of AdamW.", show_default="0.001")
    ] = None,
    soft_prompt_learning_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of the soft prompts.", show_default="50 times --learning-rate"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Random seed. On a CPU, the same seed gives the same numbers.", show_default="0"),
    ] = None,
    resume: Annotated[bool | None, typer.Option("--resume", help="Resume from the last checkpoint in OUT.")] = None,
    resume_anyway: Annotated[
        bool | None, typer.Option("--resume-anyway", help="Resume with other settings or data than the run began with.")
    ] = None,
    skip_bad: Annotated[bool | None, _flag("skip-bad", "Skip unusable entries and list them.")] = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(help="Data for recall@1 (its split validation), or Winoground's folder; may be given twice."),
    ] = None,
    early_stopping: Annotated[
        int | None, typer.Option(help="Stop after this many validations without a new best; keep the best adapter.")
    ] = None,
    validate_every: Annotated[int | None, typer.Option(help="Steps between validations.", show_default="50")] = None,
    next_token_weight: Annotated[
        float | None, typer.Option(help="Weight of the next-token loss; 0 leaves it out.", show_default="0.3")
    ] = None,
    distill_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the loss that ranks captions as the base model's likelihood does.", show_default="0"
        ),
    ] = None,
    batches: Annotated[
        str | None,
        typer.Option(
            help="Composition of a batch, as groups=0.25,mined=0.5,random=0.25.", show_default="groups, then random"
        ),
    ] = None,
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Pairs in memory at a time, for batches of any size (gradient caching).")
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None, _flag("gradient-checkpointing", "Use less memory per pair and more time.")
    ] = None,
    group_by_length: Annotated[
        bool | None, _flag("group-by-length", "Batch long captions of similar length, for less padding.")
    ] = None,
    cache_images: Annotated[
        str | None, typer.Option(help="'memory' or a folder: run the frozen image encoder once per image.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that decode images and tokenize.", show_default="0 on a CPU, up to 4 on a GPU"),
    ] = None,
    report_to: Annotated[
        str | None,
        typer.Option(help="Tracker: tensorboard, wandb, … Its logs go to OUT/checkpoints.", show_default="none"),
    ] = None,
) -> None:
    """Fine-tune an LVLM on image-caption pairs; write the adapter, its history, and the used settings (run.yaml)."""
    given = {name: value for name, value in locals().items() if value not in (None, [])}
    import vladva_kit as vk
    from vladva_kit.cli.run_config import read_run
    from vladva_kit.models.device import rank_from_env
    from vladva_kit.models.files import folder_lock
    from vladva_kit.training.checkpoints import last_checkpoint
    from vladva_kit.training.validation import check_early_stopping

    quiet_libraries()
    run = read_run(given)
    sources = run.command["validation"]
    check_early_stopping(run.command["early_stopping"], sources or None, run.settings)
    is_first = rank_from_env()[0] == 0
    with folder_lock(run.out) if is_first else nullcontext():
        last_checkpoint(run.settings)  # what can be wrong with settings and data is said before the model is loaded
        pairs = vk.load_pairs(resolve_data(run.command["data"]), on_error=run.on_error)
        validate = vk.metrics_on(*map(resolve_data, sources)) if sources else None
        lvlm = vk.load_lvlm(run.command["model"], **{name: value for name, value in run.load.items() if value})
        embedder = vk.attach(lvlm, **run.attach, seed=run.settings.seed, quiet=not is_first)
        _fit_and_save(run, embedder, pairs, validate, is_first)


def _fit_and_save(run: RunConfig, embedder: Embedder, pairs: list[Pair], validation: Any, is_first: bool) -> None:
    """Train; write the adapter, also of an interrupted run, and the history."""
    import vladva_kit as vk
    from vladva_kit.models.files import write_json
    from vladva_kit.training.interruption import RunInterrupted

    options = {"early_stopping": run.command["early_stopping"], "on_error": run.on_error}
    try:
        history = vk.fit(embedder, pairs, run.settings, validation=validation, **options)
    except RunInterrupted:
        adapter = _save(run, embedder, is_first)
        if is_first:
            arguments = [one for one in sys.argv[1:] if one != "--resume"]
            with suppress(OSError):  # the terminal may be gone
                typer.echo(f"Adapter: {adapter}. To resume: {shlex.join(['vladva', *arguments])} --resume")
        raise
    adapter = _save(run, embedder, is_first)
    if is_first:
        write_json(run.out / "history.json", history)
        typer.echo(f"Adapter: {adapter}")


def _save(run: RunConfig, embedder: Embedder, is_first: bool) -> Path:
    """Write the adapter and the used settings; return the adapter's folder."""
    from vladva_kit.models.files import atomic_write

    embedder.save_pretrained(run.out / "adapter")  # on every rank, since FSDP gathers its shards; only rank 0 writes
    if is_first:
        atomic_write({run.out / "run.yaml": run.to_yaml().encode()})
    return run.out / "adapter"


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
    records = [json.loads(raw) for _, raw in read_metadata(cast(Path, metadata_file(folder)))]
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

"""`vladva`: the kit's commands. Each does what the function of the same name does; nothing heavy is imported before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="VladVA: turn a generative LVLM into an image-text embedding model that still talks.",
    no_args_is_help=True,
    add_completion=False,
)

DATA = {  # what each benchmark is run on where nothing is said
    "winoground": "winoground_mini",
    "sugarcrepe": "sugarcrepe_mini",
    "retrieval": "emoji_pairs",
    "questions": "seen",
}
Out = Annotated[Path, typer.Option(help="Folder for what is made.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same figures on a CPU.")]
Steps = Annotated[int, typer.Option(help="Updates.")]
BatchSize = Annotated[int, typer.Option(help="Pairs a step: each is the negative of all others.")]
Rate = Annotated[float, typer.Option(help="AdamW's peak learning rate.")]


def main() -> None:
    """Runs a command; what the user can mend is said in one line, without a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:  # BadInput, BadAdapter, UnknownModel; files; the hub out of reach
        typer.secho(str(error), fg="red", err=True)
        raise SystemExit(2) from None


@app.command()
def demo(out: Out = Path("runs/demo"), steps: Steps = 150, batch_size: BatchSize = 64, seed: Seed = 0) -> None:
    """emoji-clip, the LVLM as it is and the LVLM fine-tuned for about three minutes, side by side."""
    import rich

    from vladva_kit.demo import run_demo
    from vladva_kit.report import comparison_table
    from vladva_kit.training import Settings

    command = f"vladva demo --steps {steps} --batch-size {batch_size} --seed {seed}"
    results = run_demo(out, Settings(steps=steps, batch_size=batch_size, seed=seed), command, typer.echo)
    rich.print(comparison_table(results))
    typer.echo(
        f"{sum(results['seconds'].values()):.0f} s. The page: {out / 'report.html'}; the adapter: {out / 'adapter'}"
    )


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="An imagefolder with metadata.jsonl, or a sample such as emoji_pairs.")],
    out: Out = Path("runs/train"),
    model: Annotated[str, typer.Option(help="emoji-llava, a folder or a hub id.")] = "emoji-llava",
    steps: Steps = 150,
    batch_size: BatchSize = 64,
    learning_rate: Rate = 2e-3,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="List unusable pairs and go on without them.")] = False,
) -> None:
    """Fine-tunes an LVLM on pairs of pictures and captions; writes the adapter."""
    import vladva_kit as vk
    from vladva_kit.data import SAMPLES
    from vladva_kit.report import write_json

    embedder = vk.attach(vk.load_lvlm(model), seed=seed)
    settings = vk.Settings(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
        output_dir=str(out / "checkpoints"), resume=resume,
    )  # fmt: skip
    source = vk.sample(data) if data in SAMPLES else data
    history = vk.fit(embedder, source, settings, on_error="skip" if skip_bad else "raise")
    embedder.save_pretrained(out / "adapter")
    write_json(out / "history.json", history)
    typer.echo(f"The adapter: {out / 'adapter'}")


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="emoji-clip, emoji-llava, an adapter's folder, a folder or a hub id.")],
    benchmark: Annotated[str, typer.Option(help="winoground, sugarcrepe, retrieval or questions.")] = "winoground",
    data: Annotated[
        str | None, typer.Option(help="The benchmark's folder or a sample; for questions, seen or unseen style.")
    ] = None,
    split: Annotated[str, typer.Option(help="For retrieval: which part of the folder.")] = "test",
    images: Annotated[Path | None, typer.Option(help="For SugarCrepe: the folder of COCO's val2017 pictures.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result here as JSON.")] = None,
) -> None:
    """Judges one model on one benchmark by its official rule."""
    import rich

    from vladva_kit.report import comparison_table, write_json

    if benchmark not in DATA:
        raise typer.BadParameter(f"no benchmark is called '{benchmark}': {', '.join(DATA)}")
    data = data or DATA[benchmark]
    result = _judged(_embedder(model), benchmark, data, split, images).as_dict()
    rich.print(comparison_table({"models": {model: {benchmark: result}}}))
    if out is not None:
        write_json(out, {"model": model, "benchmark": benchmark, "data": data, "result": result})


def _judged(embedder: Any, benchmark: str, data: str, split: str, images: Path | None) -> Any:
    import vladva_kit as vk
    from vladva_kit.data import SAMPLES

    source = vk.sample(data) if data in SAMPLES else data
    if benchmark == "winoground":
        return vk.evaluate_winoground(embedder, source)
    if benchmark == "sugarcrepe":
        return vk.evaluate_sugarcrepe(embedder, source, images)
    if benchmark == "retrieval":
        return vk.evaluate_retrieval(embedder, source, split=split)
    from vladva_kit.emoji_world.exam import exam_scenes
    from vladva_kit.emoji_world.render import render

    scenes = exam_scenes(data, 1000)
    return vk.evaluate_generation(embedder, [render(scene, 192) for scene in scenes], scenes, every_kind=True)


def _embedder(name: str) -> Any:
    import vladva_kit as vk
    from vladva_kit.adapter import RECORD

    if name == "emoji-clip":
        return vk.ClipEmbedder(name)
    if name == "emoji-llava-vladva" or (Path(name) / RECORD).is_file():
        return vk.Embedder.from_pretrained(name)
    return vk.Embedder(vk.load_lvlm(name))


@app.command()
def check(
    model: Annotated[str, typer.Argument(help="emoji-llava, a folder or a hub id; of any family.")],
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; chosen by the device.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …")] = None,
) -> None:
    """Holds a model to the eight checks that make a family trusted; exit status 1 where one fails."""
    import torch

    import vladva_kit as vk
    from vladva_kit.checks import run_checks
    from vladva_kit.placement import place

    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise typer.BadParameter(f"no dtype is called '{dtype}': float32, bfloat16 or float16")
    placement = place(device, dtype and getattr(torch, dtype))
    lvlm = vk.load_lvlm(model, dtype=placement.dtype, device=placement.device)
    known = "" if lvlm.family.tested else f" ({lvlm.family.note.split(';')[0]})"
    typer.echo(f"{model}: family {lvlm.family.model_type}{known}; {placement.why}")
    checks = run_checks(lvlm)
    for one in checks:
        typer.secho(str(one), fg=None if one.passed else "red")
    if not all(one.passed for one in checks):
        raise typer.Exit(1)


@app.command()
def memory(
    models: Annotated[
        list[str] | None, typer.Argument(help="Folders or hub ids; the published ones by default.")
    ] = None,
) -> None:
    """What fits where: weights, and the largest batches for encoding and training on three sizes of card; estimated."""
    from vladva_kit.memory import what_fits_where

    typer.echo(what_fits_where(models))


@app.command()
def world(
    out: Out = Path("data_samples"),
    names: Annotated[list[str] | None, typer.Argument(help="Which samples; all that are drawn by default.")] = None,
    seed: Seed = 0,
) -> None:
    """Draws the emoji world's samples: pairs, Winoground cases, SugarCrepe cases."""
    from vladva_kit.emoji_world.cases import DRAWN, write_sample

    unknown = sorted(set(names or ()) - set(DRAWN))
    if unknown:
        raise typer.BadParameter(f"no sample is called '{unknown[0]}': {', '.join(DRAWN)}")
    for name in names or DRAWN:
        typer.echo(write_sample(name, out / name, seed))


@app.command()
def pretrain(
    out: Out = Path("runs/pretrain"),
    stage: Annotated[str, typer.Option(help="clip, bent, llava, bind or all, in this order.")] = "all",
    seed: Seed = 0,
) -> None:
    """Trains emoji-clip and emoji-llava anew into OUT; goes on where it holds a state. About an hour on two cores."""
    from vladva_kit.emoji_world.exam import examine_clip, examine_llava
    from vladva_kit.emoji_world.export import export
    from vladva_kit.emoji_world.pretrain import BENT_STAGE, BIND_STAGE, CLIP_STAGE, LLAVA_STAGE, train_stage

    stages = {one.name: one for one in (CLIP_STAGE, BENT_STAGE, LLAVA_STAGE, BIND_STAGE)}
    if stage not in (*stages, "all"):
        raise typer.BadParameter(f"no stage is called '{stage}': {', '.join(stages)} or all")
    before = None
    for name, one in stages.items():
        if stage in (name, "all"):
            check = examine_llava if one.learns == "llava" else examine_clip
            train_stage(one, out, seed, check, start_from=before)
        before = out / f"{name}.safetensors"
    for folder in export(out, out, seed):
        typer.echo(folder)

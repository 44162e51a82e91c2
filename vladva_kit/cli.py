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
    micro_batch_size: Annotated[
        int | None, typer.Option(help="Rows in memory at a time: any batch size then fits (cached gradients).")
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory a row, for more time.")
    ] = False,
    cache_images: Annotated[
        str | None, typer.Option(help="'memory' or a folder: run the frozen vision tower once over the pictures.")
    ] = None,
) -> None:
    """Fine-tunes an LVLM on pairs of pictures and captions; writes the adapter."""
    import vladva_kit as vk
    from vladva_kit.data import SAMPLES
    from vladva_kit.ranks import launched
    from vladva_kit.report import write_json

    embedder = vk.attach(vk.load_lvlm(model), seed=seed)
    settings = vk.Settings(
        steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed,
        output_dir=str(out / "checkpoints"), resume=resume, micro_batch_size=micro_batch_size,
        gradient_checkpointing=gradient_checkpointing, cache_images=cache_images,
    )  # fmt: skip
    source = vk.sample(data) if data in SAMPLES else data
    history = vk.fit(embedder, source, settings, on_error="skip" if skip_bad else "raise")
    if launched()[0] != 0:  # of several ranks the first one writes
        return
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


Source = Annotated[str, typer.Argument(help="A folder of pictures, an imagefolder, parquet or tar files, or a hub id.")]
ModelName = Annotated[str, typer.Option(help="emoji-llava, an adapter's folder, a folder or a hub id.")]


@app.command()
def embed(
    source: Source,
    out: Out = Path("runs/embeddings"),
    model: ModelName = "emoji-llava-vladva",
    split: Annotated[str, typer.Option(help="Which split, where the source has several.")] = "train",
    batch_size: Annotated[int, typer.Option(help="Pictures in memory at a time.")] = 64,
    shard_size: Annotated[int, typer.Option(help="Pictures a file.")] = 10_000,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    workers: Annotated[int, typer.Option(help="Processes that decode.")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read.")] = False,
) -> None:
    """Embeds pictures into shards; run again, it goes on where it stopped. For several GPUs: accelerate launch."""
    from tqdm.auto import tqdm

    from vladva_kit.embedding_shards import clear_leftovers, embed_pictures
    from vladva_kit.pictures import list_pictures
    from vladva_kit.ranks import launched

    if dtype not in ("float32", "float16"):
        raise typer.BadParameter(f"no dtype is called '{dtype}': float32, float16")
    rank, ranks = launched()
    pictures = list_pictures(source, split)
    with tqdm(total=len(pictures), unit="picture", disable=rank != 0) as bar:
        embed_pictures(
            pictures, _embedder(model).encode_image, out, model=model, shard_size=shard_size, batch_size=batch_size,
            dtype=dtype, workers=workers, on_error="skip" if skip_bad else "raise", rank=rank, ranks=ranks,
            progress=lambda rows: bar.update(rows * ranks),
        )  # fmt: skip
    whole = clear_leftovers(out)
    typer.echo(f"{out}: {'all shards are there' if whole else f'rank {rank} of {ranks} is done'}")


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(help="What `vladva embed` wrote.")],
    words: Annotated[list[str], typer.Argument(help="What to look for; several are several searches.")],
    k: Annotated[int, typer.Option("--k", help="How many pictures each.")] = 10,
) -> None:
    """The pictures nearest to some words, by exact search over the shards."""
    from vladva_kit.embedding_shards import read_manifest
    from vladva_kit.embedding_shards import search as nearest

    queries = _embedder(read_manifest(folder)["model"]).encode_text(words)
    for text, found in zip(words, nearest(folder, queries, k), strict=True):
        typer.echo(text)
        for score, name in found:
            typer.echo(f"  {score:.3f}  {name}")


@app.command()
def caption(
    source: Source,
    out: Out = Path("runs/captioned"),
    model: ModelName = "emoji-llava",
    split: Annotated[str, typer.Option(help="Which split, where the source has several.")] = "train",
    batch_size: Annotated[int, typer.Option(help="Pictures asked about at a time.")] = 32,
    short: Annotated[str, typer.Option(help="How a short caption is asked for.")] = "provide a short caption:",
    long: Annotated[str, typer.Option(help="How a long one is.")] = "describe the picture in detail:",
) -> None:
    """Writes the short and long captions that pictures lack; run again, it goes on where it stopped."""
    from tqdm.auto import tqdm

    from vladva_kit.captioning import Requests, caption_pictures, finish
    from vladva_kit.pictures import list_pictures
    from vladva_kit.ranks import launched

    rank, ranks = launched()
    pictures = list_pictures(source, split)
    with tqdm(total=len(pictures), unit="picture", disable=rank != 0) as bar:
        caption_pictures(
            _embedder(model), pictures, out, Requests(short, long), batch_size=batch_size, rank=rank, ranks=ranks,
            progress=lambda rows: bar.update(rows * ranks),
        )  # fmt: skip
    if ranks > 1:
        typer.echo(f"rank {rank} of {ranks} is done; the same command without a launcher makes the imagefolder")
        return
    for line in finish(pictures, out, model).lines():
        typer.echo(line)
    typer.echo(f"An imagefolder: {out}")

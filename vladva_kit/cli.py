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

DATA = {  # what each benchmark is run on where nothing is said: a sample, and a file in it
    "winoground": ("winoground_mini", ""),
    "sugarcrepe": ("sugarcrepe_mini", ""),
    "sugarcrepe_pp": ("sugarcrepe_pp_mini", ""),
    "word_order": ("word_order_mini", ""),
    "retrieval": ("emoji_pairs", ""),
    "coco": ("captions_mini", "dataset_coco.json"),
    "flickr30k": ("captions_mini", "dataset_flickr30k.json"),
    "nocaps": ("captions_mini", "nocaps_val_4500_captions.json"),
    "classification": ("classification_mini", ""),
    "vqa": ("vqa_mini", ""),
    "captions": ("captions_mini", "dataset_coco.json"),
    "questions": ("seen", ""),
}
SHARED_PICTURES = ("sugarcrepe_pp_mini", "word_order_mini", "captions_mini", "vqa_mini")  # those of sugarcrepe_mini
CAPTIONS = {"coco": 5, "flickr30k": 5}  # the first captions of an image that count, where a benchmark says so
Out = Annotated[Path, typer.Option(help="Folder for what is made.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same figures on a CPU.")]
Steps = Annotated[int, typer.Option(help="Updates.")]
BatchSize = Annotated[int, typer.Option(help="Pairs a step: each is the negative of all others.")]
Rate = Annotated[float, typer.Option(help="AdamW's peak learning rate.")]


def main() -> None:
    """Runs a command; what the user can mend is said in one line, without a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError) as error:  # BadInput, BadAdapter, UnknownModel; files; a missing extra
        typer.secho(str(error), fg="red", err=True)
        raise SystemExit(2) from None


@app.command()
def demo(out: Out = Path("runs/demo"), steps: Steps = 120, batch_size: BatchSize = 64, seed: Seed = 0) -> None:
    """emoji-clip, the LVLM as it is and the LVLM fine-tuned for about two minutes, side by side."""
    import rich
    import torch

    from vladva_kit.demo import run_demo
    from vladva_kit.report import comparison_table
    from vladva_kit.training import Settings

    command = f"vladva demo --steps {steps} --batch-size {batch_size} --seed {seed}"
    # Where the CPU multiplies in bfloat16, a step takes half as long, and its losses are the same to two digits.
    bf16 = torch.cpu._is_avx512_bf16_supported() or None
    settings = Settings(steps=steps, batch_size=batch_size, seed=seed, bf16=bf16)
    results = run_demo(out, settings, command, typer.echo)
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
    learning_rate: Rate = 1e-3,
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
    benchmark: Annotated[str, typer.Option(help=", ".join(DATA))] = "winoground",
    data: Annotated[
        str | None,
        typer.Option(help="The benchmark's folder, file or hub id, or a sample; for questions, seen or unseen style."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which part, where the data has several.")] = "test",
    images: Annotated[Path | None, typer.Option(help="The folder of the pictures, as COCO's val2017.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="For classification: a sentence with {}; several are averaged.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write results.json, tables and the margin of every case into this folder.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="Keep embeddings in this folder; a killed run goes on.")] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave unusable cases out and count them; otherwise nothing is scored.")
    ] = False,
    seed: Seed = 0,
) -> None:
    """Judges one model on one benchmark by its authors' rule."""
    import rich

    from vladva_kit.report import comparison_table

    if benchmark not in DATA:
        raise typer.BadParameter(f"no benchmark is called '{benchmark}': {', '.join(DATA)}")
    source, pictures = _source(benchmark, data, images)
    given = {"seed": seed, "on_error": "skip" if skip_bad else "raise"}
    embedder = _embedder(model)
    result = _judged(embedder, benchmark, source, pictures, split, template, cache, given)
    rich.print(comparison_table({"models": {model: {benchmark: result.as_dict()}}}))
    for reason in getattr(result, "left_out", ()):
        typer.secho(f"left out: {reason}", fg="yellow", err=True)
    if out is not None:
        from vladva_kit.results import save_results

        settings = {"data": source, "images": pictures, "split": split, "templates": template, **given}
        save_results(out, embedder, {benchmark: result}, model, seed, _command(), _plain(settings))
        typer.echo(f"Everything: {out / 'results.json'}; the cases: {out / 'margins.parquet'}")


def _command() -> str:
    """This command as it can be typed again."""
    import shlex
    import sys

    return shlex.join(["vladva", *sys.argv[1:]])


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items() if value}


def _source(benchmark: str, data: str | None, images: Path | None) -> tuple[Any, Path | None]:
    """What a benchmark reads, and where its pictures lie; the miniatures where nothing is said."""
    import vladva_kit as vk
    from vladva_kit.data import SAMPLES

    usual, file = DATA[benchmark]
    name = data or usual
    if name not in SAMPLES:
        return name, images
    if images is None and name in SHARED_PICTURES:
        images = vk.sample("sugarcrepe_mini") / "images"
    return vk.sample(name) / (file if name == usual else ""), images


def _judged(
    embedder: Any,
    benchmark: str,
    source: Any,
    images: Path | None,
    split: str,
    template: list[str] | None,
    cache: Path | None,
    given: dict[str, Any],
) -> Any:
    import vladva_kit as vk

    if benchmark == "questions":
        from vladva_kit.emoji_world.exam import exam_scenes
        from vladva_kit.emoji_world.render import render

        scenes = exam_scenes(source, 1000)
        return vk.evaluate_generation(embedder, [render(scene, 192) for scene in scenes], scenes, every_kind=True)
    if benchmark == "vqa":
        return vk.evaluate_vqa(embedder, source, images, **given)
    if benchmark == "captions":
        return vk.evaluate_captions(embedder, source, images, split, **given)
    given = given | {"cache": cache}
    if benchmark == "winoground":
        return vk.evaluate_winoground(embedder, source, split, **given)
    if benchmark == "sugarcrepe":
        return vk.evaluate_sugarcrepe(embedder, source, images, **given)
    if benchmark == "sugarcrepe_pp":
        return vk.evaluate_sugarcrepe_pp(embedder, source, images, **given)
    if benchmark == "word_order":
        return vk.evaluate_word_order(embedder, source, images, split, **given)
    if benchmark == "classification":
        named = {"templates": template} if template else {}
        return vk.evaluate_classification(embedder, source, split=split, **named, **given)
    return vk.evaluate_retrieval(
        embedder, source, split, captions_per_image=CAPTIONS.get(benchmark), image_folder=images, **given
    )


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A folder that vladva eval --out wrote.")],
    second: Annotated[Path, typer.Argument(help="Another one, on the same data.")],
    out: Annotated[Path | None, typer.Option(help="Write the differences here as JSON.")] = None,
    seed: Seed = 0,
) -> None:
    """Two runs case by case: paired intervals and McNemar's test; refuses to compare different data."""
    import rich

    from vladva_kit.compare import compare as compare_runs
    from vladva_kit.compare import difference_table
    from vladva_kit.files import write_json

    found = compare_runs(first, second, seed)
    rich.print(difference_table(found))
    if found.alone:
        typer.echo(f"Only in one of the runs: {', '.join(found.alone)}")
    if out is not None:
        write_json(out, found.as_dict())


def _embedder(name: str) -> Any:
    import vladva_kit as vk
    from vladva_kit.adapter import RECORD

    if name == "emoji-clip":
        return vk.ClipEmbedder(name)
    if name == "emoji-llava-vladva" or (Path(name) / RECORD).is_file():
        return vk.Embedder.from_pretrained(name)
    return vk.Embedder(vk.load_lvlm(name))


@app.command()
def ablate(
    experiment: Annotated[
        str, typer.Option(help="components, generation, prompts, batch-size, data-size, rank, temperature, "
        "next-token-weight, negatives, or all.")
    ] = "components",
    out: Out = Path("runs/ablation"),
    steps: Steps = 80,
    batch_size: BatchSize = 64,
    seeds: Annotated[int, typer.Option(help="Seeds of each trained row of the components.")] = 3,
    line_seeds: Annotated[int, typer.Option(help="Seeds of each trained row of the other experiments.")] = 1,
    talks_about: Annotated[int, typer.Option(help="Pictures a style that the model is asked about.")] = 100,
) -> None:  # fmt: skip
    """The paper's component table and its other experiments on emoji-llava; goes on from the last cell in OUT."""
    from vladva_kit.ablation import EXPERIMENTS, Plan, markdown_table, run_experiments

    names = [*EXPERIMENTS, "prompts"] if experiment == "all" else [experiment]
    plan = Plan(
        steps=steps, batch_size=batch_size, seeds=tuple(range(seeds)), line_seeds=tuple(range(line_seeds)),
        talks_about=talks_about,
    )  # fmt: skip
    command = (
        f"vladva ablate --experiment {experiment} --steps {steps} --batch-size {batch_size} --seeds {seeds} "
        f"--line-seeds {line_seeds} --talks-about {talks_about}"
    )
    results = run_experiments(names, plan, out, command, typer.echo)
    for name in names:
        if name in results["experiments"]:
            typer.echo(f"\n{name}\n\n{markdown_table(results, name)}")
    if "prompts" in names:
        typer.echo(f"prompts: {results['prompts']['correlations']}")
    typer.echo(f"The results: {out / 'results.json'}; the page of them: vladva reproduction {out / 'results.json'}")


@app.command()
def reproduction(
    results: Annotated[Path, typer.Argument(help="results.json, as vladva ablate wrote it.")] = Path(
        "runs/ablation/results.json"
    ),
    out: Out = Path("docs"),
) -> None:
    """Writes reproduction.md with its figures and verdicts from the results of an ablation."""
    import json

    from vladva_kit.reproduction import write_reproduction

    typer.echo(write_reproduction(json.loads(results.read_text()), out, f"vladva reproduction {results.as_posix()}"))


@app.command()
def prompts(
    model: Annotated[str, typer.Argument(help="emoji-llava, a folder or a hub id.")] = "emoji-llava",
    data: Annotated[str, typer.Option(help="An imagefolder, or a sample.")] = "emoji_pairs",
    split: Annotated[str, typer.Option(help="Which part of the folder.")] = "test",
    n: Annotated[int, typer.Option(help="So many pictures are the gallery.")] = 300,
    out: Out = Path("runs/prompts"),
) -> None:
    """Fifty hand-written prompts: next-token entropy against zero-shot R@1; plain English for other models."""
    import vladva_kit as vk
    from vladva_kit.data import SAMPLES, load_pairs
    from vladva_kit.files import write_json
    from vladva_kit.plot_parts import save
    from vladva_kit.prompt_lists import EMOJI_PROMPTS, PLAIN_PROMPTS
    from vladva_kit.prompt_study import as_dict, study_prompts
    from vladva_kit.reproduction.figures import prompt_scatter

    pairs = load_pairs(vk.sample(data) if data in SAMPLES else data, split)[:n]
    words = EMOJI_PROMPTS if model == "emoji-llava" else PLAIN_PROMPTS
    study = as_dict(study_prompts(vk.load_lvlm(model), pairs, words, typer.echo), len(pairs))
    path = write_json(out / "prompts.json", {"model": model, "data": data, **study})
    save(prompt_scatter(study), out / "prompts")
    typer.echo(f"{study['correlations']}; {path}")


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
    """Draws the emoji world's samples: pairs, and a miniature of each benchmark."""
    from vladva_kit.emoji_world.cases import DRAWN, write_sample

    unknown = sorted(set(names or ()) - set(DRAWN))
    if unknown:
        raise typer.BadParameter(f"no sample is called '{unknown[0]}': {', '.join(DRAWN)}")
    for name in names or DRAWN:
        typer.echo(write_sample(name, out / name, seed))


@app.command()
def pretrain(
    out: Out = Path("runs/pretrain"),
    stage: Annotated[str, typer.Option(help="read, clip, llava or all, in this order.")] = "all",
    seed: Seed = 0,
) -> None:
    """Trains emoji-clip and emoji-llava anew into OUT; goes on where it holds a state. Two hours on two cores."""
    from functools import partial

    from vladva_kit.emoji_world.exam import examine_clip, examine_llava
    from vladva_kit.emoji_world.export import export
    from vladva_kit.emoji_world.pretrain import STAGES, train_stage

    names = [one.name for one in STAGES]
    if stage not in (*names, "all"):
        raise typer.BadParameter(f"no stage is called '{stage}': {', '.join(names)} or all")
    checks = {"read": partial(examine_llava, told=True), "clip": examine_clip, "llava": examine_llava}
    before = None
    for one in STAGES:
        if stage in (one.name, "all"):
            train_stage(one, out, seed, checks[one.learns], start_from=before)
        before = out / f"{one.name}.safetensors"
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

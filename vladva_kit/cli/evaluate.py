"""Commands that evaluate: `eval`, `compare`."""

from __future__ import annotations

import inspect
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vladva_kit.cli.options import Seed, SkipBad, Split, load_embedder, resolve_data

DEFAULT_DATA = {  # benchmark -> the sample it is evaluated on by default, and a file in that sample
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
GENERATED = ("vqa", "captions", "questions")  # answers are generated, not scored
SHARED_IMAGES = ("sugarcrepe_pp_mini", "word_order_mini", "captions_mini", "vqa_mini")  # use sugarcrepe_mini's images


def evaluate(
    model: Annotated[str, typer.Argument(help="emoji-clip, emoji-llava, an adapter or model folder, or a Hub id.")],
    benchmark: Annotated[str, typer.Option(help=", ".join(DEFAULT_DATA))] = "winoground",
    data: Annotated[
        str | None,
        typer.Option(help="Folder, file or Hub id of the benchmark, or a sample. For questions: 'seen' or 'unseen'."),
    ] = None,
    split: Split = "test",
    images: Annotated[Path | None, typer.Option(help="Image folder, for example COCO's val2017.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Classification prompt with {}. Repeat the option to average several.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write results.json, tables and per-case scores here.")] = None,
    by: Annotated[
        str, typer.Option(help="Score pairs by their embedding or by the caption's likelihood.")
    ] = "embedding",
    rerank: Annotated[int | None, typer.Option(help="Retrieval: order this many best hits by likelihood.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Cache embeddings here, to resume a stopped run.")] = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
) -> None:
    """Evaluate one model on one benchmark by its official protocol."""
    import rich

    import vladva_kit as vk
    from vladva_kit.embedder.identity import describe
    from vladva_kit.evaluation.results import FILES, save_results
    from vladva_kit.evaluation.tables import comparison_table

    if benchmark not in DEFAULT_DATA:
        raise typer.BadParameter(f"unknown benchmark '{benchmark}'; choose from {', '.join(DEFAULT_DATA)}")
    if by not in ("embedding", "likelihood"):
        raise typer.BadParameter(f"unknown score '{by}'; choose from embedding, likelihood")
    source, image_folder = _source(benchmark, data, images)
    options = {"split": split, "image_folder": image_folder, "cache": cache, "seed": seed, "rerank": rerank}
    options["on_error"] = "skip" if skip_bad else "raise"
    embedder = load_embedder(model)
    if by == "likelihood":
        if benchmark in GENERATED or not isinstance(embedder, vk.Embedder):
            raise typer.BadParameter(f"'{model}' has no likelihood for '{benchmark}': leave out --by likelihood")
        embedder = vk.LikelihoodScorer(embedder)
    result = _run_benchmark(embedder, benchmark, source, options | ({"templates": template} if template else {}))
    typer.echo(f"{benchmark} on {source}")
    rich.print(comparison_table({"models": {model: {benchmark: result.as_dict()}}}))
    for reason in getattr(result, "skipped", ()):
        typer.secho(f"skipped: {reason}", fg="yellow", err=True)
    if out is not None:
        settings = {"data": source, "images": image_folder, "split": split, "templates": template}
        settings |= {"seed": seed, "on_error": options["on_error"], "by": by, "rerank": rerank}
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items() if value}
        metadata = {"command": shlex.join(["vladva", *sys.argv[1:]]), "seed": seed, "settings": settings}
        save_results(out, {model: {benchmark: result}}, {model: describe(embedder)}, metadata)
        typer.echo(f"Results: {out / FILES['results']}; per-case scores: {out / FILES['per_case']}")


def _source(benchmark: str, data: str | None, images: Path | None) -> tuple[str | Path, Path | None]:
    """Return the data of a benchmark and its image folder; the sample by default."""
    default, file = DEFAULT_DATA[benchmark]
    name = data or default
    source = resolve_data(name)
    if isinstance(source, str):
        return source, images
    if images is None and name in SHARED_IMAGES:
        images = Path(resolve_data("sugarcrepe_mini")) / "images"
    return source / (file if name == default else ""), images


def _run_benchmark(embedder: Any, benchmark: str, source: str | Path, options: dict[str, Any]) -> Any:
    """Call the benchmark's evaluate function with the options that it takes."""
    import vladva_kit as vk

    if benchmark == "questions":
        from vladva_kit.emoji_world.render import render
        from vladva_kit.emoji_world.scenes import validation_scenes

        scenes = validation_scenes(source, 1000)
        return vk.evaluate_generation(embedder, [render(scene, 192) for scene in scenes], scenes, every_kind=True)
    if benchmark in ("coco", "flickr30k"):
        options = {**options, "captions_per_image": 5}  # only the first five captions of an image count
    name = "retrieval" if benchmark in ("coco", "flickr30k", "nocaps") else benchmark
    function = getattr(vk, f"evaluate_{name}")
    parameters = inspect.signature(function).parameters
    return function(embedder, source, **{key: value for key, value in options.items() if key in parameters})


def compare(
    first: Annotated[
        str, typer.Argument(help="Output folder of `vladva eval --out` or demo; FOLDER:MODEL selects one model.")
    ],
    second: Annotated[str, typer.Argument(help="Another one, evaluated on the same data.")],
    out: Annotated[Path | None, typer.Option(help="Write the differences to this JSON file.")] = None,
    seed: Seed = 0,
) -> None:
    """Compare two runs case by case, with paired bootstrap intervals and McNemar's test."""
    import rich

    from vladva_kit.evaluation.compare import compare as compare_runs
    from vladva_kit.evaluation.compare import difference_table
    from vladva_kit.models.files import write_json

    comparison = compare_runs(first, second, seed)
    rich.print(difference_table(comparison))
    if comparison.alone:
        typer.echo(f"In only one of the runs: {', '.join(comparison.alone)}")
    if out is not None:
        write_json(out, comparison)

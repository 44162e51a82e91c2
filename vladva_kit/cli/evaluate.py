"""Commands that evaluate: `eval`, `compare`."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vladva_kit.cli.options import Json, Seed, SkipBad, load_embedder, require_generation, resolve_data

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
OPTIONS = {  # parameter of an evaluate function -> option; a benchmark takes those that its function has
    "split": "--split",
    "image_folder": "--images",
    "templates": "--template",
    "cache": "--cache",
    "rerank": "--rerank",
    "on_error": "--skip-bad",
    "seed": "--seed",
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
    split: Annotated[str | None, typer.Option(help="Split of the data. Default: test.")] = None,
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
    seed: Annotated[int | None, typer.Option(help="Seed of intervals and sampled questions. Default: 0.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate one model on one benchmark by its official protocol. An option that it does not take is an error."""
    import rich

    import vladva_kit as vk
    from vladva_kit.embedder.identity import describe
    from vladva_kit.evaluation.results import FILES, results_record, save_results
    from vladva_kit.evaluation.tables import comparison_table
    from vladva_kit.models.files import json_text

    if benchmark not in DEFAULT_DATA:
        raise typer.BadParameter(f"unknown benchmark '{benchmark}'; choose from {', '.join(DEFAULT_DATA)}")
    if by not in ("embedding", "likelihood"):
        raise typer.BadParameter(f"unknown score '{by}'; choose from embedding, likelihood")
    source, image_folder = _source(benchmark, data, images)
    requested = {
        "split": split, "image_folder": images, "templates": template or None, "cache": cache, "rerank": rerank,
        "on_error": "skip" if skip_bad else None, "seed": seed,
    }  # fmt: skip
    options = _checked_options(benchmark, source, requested, image_folder)
    embedder = load_embedder(model)
    if by == "likelihood":
        if benchmark in GENERATED or not isinstance(embedder, vk.Embedder):
            raise typer.BadParameter(f"'{model}' has no likelihood for '{benchmark}': leave out --by likelihood")
        embedder = vk.LikelihoodScorer(embedder)
    result = _run_benchmark(embedder, model, benchmark, source, options)
    if not as_json:
        typer.echo(f"{benchmark} on {source}")
        rich.print(comparison_table({"models": {model: {benchmark: result.as_dict()}}}))
    for reason in getattr(result, "skipped", ()):
        typer.secho(f"skipped: {reason}", fg="yellow", err=True)
    if out is None and not as_json:
        return
    record = {model: {benchmark: result}}, {model: describe(embedder)}, _metadata(source, by, seed, options)
    if out is not None:
        save_results(out, *record)
        files = f"Results: {out / FILES['results']}; per-case scores: {out / FILES['per_case']}"
        typer.echo(files, err=as_json)
    if as_json:
        typer.echo(json_text(results_record(*record)))


def _metadata(source: str | Path, by: str, seed: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the command, the seed and the settings of a run."""
    settings = {"data": source, "images": options.get("image_folder"), "by": by} | options
    unrecorded = ("image_folder", "cache")  # where embeddings are cached does not change results
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in settings.items()
        if value and name not in unrecorded
    }
    return {"command": shlex.join(["vladva", *sys.argv[1:]]), "seed": seed or 0, "settings": settings}


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


def _function(benchmark: str) -> Callable[..., Any]:
    """Return the evaluate function of a benchmark."""
    import vladva_kit as vk

    names = {"coco": "retrieval", "flickr30k": "retrieval", "nocaps": "retrieval", "questions": "generation"}
    return getattr(vk, f"evaluate_{names.get(benchmark, benchmark)}")


def _checked_options(
    benchmark: str, source: str | Path, requested: dict[str, Any], image_folder: Path | None
) -> dict[str, Any]:
    """Return the value of each option that the benchmark takes. Raises BadParameter for another one that was given."""
    from vladva_kit.data.hub import is_on_hub
    from vladva_kit.evaluation.caption_files import find_caption_file

    parameters = inspect.signature(_function(benchmark)).parameters
    taken = {name: parameters[name].default for name in OPTIONS if name in parameters}
    if benchmark == "winoground" or (benchmark in ("word_order", "nocaps") and not is_on_hub(source)):
        taken.pop("split", None)  # their files have no splits
    if benchmark == "retrieval" and find_caption_file(source) is None:
        taken.pop("image_folder")  # an imagefolder holds its own images
    if wrong := [OPTIONS[name] for name, value in requested.items() if value is not None and name not in taken]:
        options = ", ".join(["--data", *(OPTIONS[name] for name in taken)])
        raise typer.BadParameter(f"{benchmark} on {source} does not take {', '.join(wrong)}; it takes {options}")
    given = {name: value for name, value in (requested | {"image_folder": image_folder}).items() if value is not None}
    return {name: given.get(name, default) for name, default in taken.items()}


def _run_benchmark(embedder: Any, model: str, benchmark: str, source: str | Path, options: dict[str, Any]) -> Any:
    """Call the benchmark's evaluate function."""
    if benchmark in ("vqa", "captions", "questions"):
        require_generation(embedder, model)
    if benchmark == "questions":
        from vladva_kit.emoji_world.render import render
        from vladva_kit.emoji_world.scenes import validation_scenes

        scenes = validation_scenes(str(source), 1000)
        images = [render(scene, 192) for scene in scenes]
        return _function(benchmark)(embedder, images, scenes, every_kind=True, **options)
    if benchmark in ("coco", "flickr30k"):
        options = {**options, "captions_per_image": 5}  # only the first five captions of an image count
    return _function(benchmark)(embedder, source, **options)


def compare(
    first: Annotated[
        str, typer.Argument(help="Output folder of `vladva eval --out` or demo; FOLDER:MODEL selects one model.")
    ],
    second: Annotated[str, typer.Argument(help="Another one, evaluated on the same data.")],
    out: Annotated[Path | None, typer.Option(help="Write the differences to this JSON file.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare two runs case by case, with paired bootstrap intervals and McNemar's test."""
    import rich

    from vladva_kit.evaluation.compare import compare as compare_runs
    from vladva_kit.evaluation.compare import difference_table
    from vladva_kit.models.files import json_text, write_json

    comparison = compare_runs(first, second, seed)
    if as_json:
        typer.echo(json_text(comparison))
    else:
        rich.print(difference_table(comparison))
        if comparison.alone:
            typer.echo(f"In only one of the runs: {', '.join(comparison.alone)}")
    if out is not None:
        write_json(out, comparison)

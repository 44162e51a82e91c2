"""Commands that judge: `eval`, `compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vladva_kit.cli.options import Seed, named_embedder

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

    from vladva_kit.cli.report import comparison_table

    if benchmark not in DATA:
        raise typer.BadParameter(f"no benchmark is called '{benchmark}': {', '.join(DATA)}")
    source, pictures = _source(benchmark, data, images)
    given = {"seed": seed, "on_error": "skip" if skip_bad else "raise"}
    embedder = named_embedder(model)
    result = _judged(embedder, benchmark, source, pictures, split, template, cache, given)
    rich.print(comparison_table({"models": {model: {benchmark: result.as_dict()}}}))
    for reason in getattr(result, "skipped", ()):
        typer.secho(f"left out: {reason}", fg="yellow", err=True)
    if out is not None:
        from vladva_kit.evaluation.results import save_results

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
    from vladva_kit.data.samples import SAMPLES

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
        from vladva_kit.emoji_world.render import render
        from vladva_kit.emoji_world.scenes import validation_scenes

        scenes = validation_scenes(source, 1000)
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


def compare(
    first: Annotated[str, typer.Argument(help="A folder of vladva eval --out or demo; as runs/demo:base, one model.")],
    second: Annotated[str, typer.Argument(help="Another one, on the same data.")],
    out: Annotated[Path | None, typer.Option(help="Write the differences here as JSON.")] = None,
    seed: Seed = 0,
) -> None:
    """Two runs case by case: paired intervals and McNemar's test; refuses to compare different data."""
    import rich

    from vladva_kit.evaluation.compare import compare as compare_runs
    from vladva_kit.evaluation.compare import difference_table
    from vladva_kit.models.files import write_json

    found = compare_runs(first, second, seed)
    rich.print(difference_table(found))
    if found.alone:
        typer.echo(f"Only in one of the runs: {', '.join(found.alone)}")
    if out is not None:
        write_json(out, found.as_dict())

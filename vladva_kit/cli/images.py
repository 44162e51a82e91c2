"""Commands for folders of pictures: `embed`, `search`, `index`, `caption`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vladva_kit.cli.options import Out, named_embedder

Source = Annotated[str, typer.Argument(help="A folder of pictures, an imagefolder, parquet or tar files, or a hub id.")]
ModelName = Annotated[str, typer.Option(help="emoji-llava, an adapter's folder, a folder or a hub id.")]


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

    from vladva_kit.data.images import list_images
    from vladva_kit.models.device import launched
    from vladva_kit.search.shards import clear_leftovers, embed_images_to_shards

    if dtype not in ("float32", "float16"):
        raise typer.BadParameter(f"no dtype is called '{dtype}': float32, float16")
    rank, ranks = launched()
    pictures = list_images(source, split)
    with tqdm(total=len(pictures), unit="picture", disable=rank != 0) as bar:
        embed_images_to_shards(
            pictures, named_embedder(model).encode_image, out, model=model, shard_size=shard_size,
            batch_size=batch_size, dtype=dtype, workers=workers, on_error="skip" if skip_bad else "raise",
            rank=rank, ranks=ranks, progress=lambda rows: bar.update(rows * ranks),
        )  # fmt: skip
    whole = clear_leftovers(out)
    typer.echo(f"{out}: {'all shards are there' if whole else f'rank {rank} of {ranks} is done'}")


def search(
    folder: Annotated[Path, typer.Argument(help="What `vladva embed` wrote.")],
    words: Annotated[list[str], typer.Argument(help="What to look for; several are several searches.")],
    k: Annotated[int, typer.Option("--k", help="How many pictures each.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Read every row, also where there is an index.")] = False,
) -> None:
    """The pictures nearest to some words: exactly, or by the index that `vladva index` has made."""
    from vladva_kit.search import index as embedding_index
    from vladva_kit.search.shards import read_manifest
    from vladva_kit.search.shards import search as nearest

    queries = named_embedder(read_manifest(folder)["model"]).encode_text(words)
    indexed = (folder / embedding_index.INDEX).is_file() and not exact
    rows = embedding_index.rows_of(folder)
    if rows > embedding_index.EXACT_UP_TO and not indexed and not exact:
        typer.secho(f"{rows} rows are read; `vladva index` makes an index of them", fg="yellow", err=True)
    found = embedding_index.search_index(folder, queries, k) if indexed else nearest(folder, queries, k)
    for text, pictures in zip(words, found, strict=True):
        typer.echo(text)
        for score, name in pictures:
            typer.echo(f"  {score:.3f}  {name}")


def index(folder: Annotated[Path, typer.Argument(help="What `vladva embed` wrote.")]) -> None:
    """An index beside millions of embeddings, by faiss, which `vladva search` then takes."""
    from vladva_kit.search.index import build_index

    typer.echo(build_index(folder))


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

    from vladva_kit.data.captioning import Requests, caption_images, finish
    from vladva_kit.data.images import list_images
    from vladva_kit.models.device import launched

    rank, ranks = launched()
    pictures = list_images(source, split)
    with tqdm(total=len(pictures), unit="picture", disable=rank != 0) as bar:
        caption_images(
            named_embedder(model), pictures, out, Requests(short, long), batch_size=batch_size, rank=rank, ranks=ranks,
            progress=lambda rows: bar.update(rows * ranks),
        )  # fmt: skip
    if ranks > 1:
        typer.echo(f"rank {rank} of {ranks} is done; the same command without a launcher makes the imagefolder")
        return
    for line in finish(pictures, out, model).lines():
        typer.echo(line)
    typer.echo(f"An imagefolder: {out}")

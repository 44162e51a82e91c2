"""Commands for image folders: `embed`, `search`, `index`, `caption`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vladva_kit.cli.options import Out, SkipBad, Split, load_embedder, require_generation
from vladva_kit.models.files import printable

if TYPE_CHECKING:
    from vladva_kit.models.images import ImageLike

Source = Annotated[str, typer.Argument(help="An image folder, an imagefolder, parquet or tar files, or a Hub id.")]
ModelName = Annotated[str, typer.Option(help="emoji-llava, an adapter folder, a model folder or a Hub id.")]
Embeddings = Annotated[Path, typer.Argument(help="Output folder of `vladva embed`.")]


def embed(
    source: Source,
    out: Out = Path("runs/embeddings"),
    model: ModelName = "emoji-llava-vladva",
    split: Split = "train",
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 64,
    shard_size: Annotated[int, typer.Option(help="Images per file.")] = 10_000,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    workers: Annotated[int, typer.Option(help="Processes that decode images.")] = 0,
    skip_bad: SkipBad = False,
) -> None:
    """Embed images into shards. Run it again to resume; use accelerate launch for several GPUs."""
    from tqdm.auto import tqdm

    from vladva_kit.data.images import list_images
    from vladva_kit.embedder.identity import identity_of
    from vladva_kit.models.device import rank_from_env
    from vladva_kit.search.shards import embed_images_to_shards

    if dtype not in ("float32", "float16"):
        raise typer.BadParameter(f"unknown dtype '{dtype}'; choose from float32, float16")
    rank, ranks = rank_from_env()
    images, embedder = list_images(source, split), load_embedder(model)
    with tqdm(total=len(images), unit="image", disable=rank != 0) as bar:
        complete = embed_images_to_shards(
            images, embedder.encode_image, out, model=model, identity=identity_of(embedder), shard_size=shard_size,
            batch_size=batch_size, dtype=dtype, workers=workers, on_error="skip" if skip_bad else "raise",
            rank=rank, ranks=ranks, progress=lambda rows: bar.update(rows * ranks),
        )  # fmt: skip
    typer.echo(f"{out}: {'all shards are complete' if complete else f'rank {rank} of {ranks} is done'}")


def search(
    folder: Embeddings,
    queries: Annotated[list[str], typer.Argument(help="One or more texts; each is a separate query.")],
    k: Annotated[int, typer.Option("--k", help="Images per query.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Scan all embeddings even if an index exists.")] = False,
    rerank: Annotated[int, typer.Option(help="Order this many of the nearest images by likelihood.")] = 0,
    images: Annotated[str | None, typer.Option(help="The images that were embedded; needed to re-rank.")] = None,
    split: Split = "train",
) -> None:
    """Find the nearest images to each text with the model that embedded them. Uses the index of `vladva index`."""
    from vladva_kit.data.store import read_manifest
    from vladva_kit.search import index as embedding_index
    from vladva_kit.search.shards import check_model
    from vladva_kit.search.shards import search as search_exactly

    rows = embedding_index.count_rows(folder)  # fails before the model is loaded if shards are missing
    if rerank and images is None:
        raise typer.BadParameter("--rerank needs the images that were embedded: add --images SOURCE")
    manifest = read_manifest(folder)
    dtype = manifest.get("identity", {}).get("dtype")  # a GPU may have embedded the images in another dtype
    embedder = load_embedder(manifest["model"], **({"dtype": dtype} if dtype else {}))
    for warning in check_model(folder, embedder):
        typer.secho(warning, fg="yellow", err=True)
    embeddings = embedder.encode_text(queries)
    use_index = (folder / embedding_index.INDEX).is_file() and not exact
    if rows > embedding_index.MAX_EXACT_ROWS and not use_index and not exact:
        typer.secho(f"scanning {rows} embeddings; build an index with `vladva index`", fg="yellow", err=True)
    search_images = embedding_index.search_index if use_index else search_exactly
    found = search_images(folder, embeddings, max(k, rerank))
    if rerank:
        found = _rerank(embedder, folder, queries, found, str(images), split, rerank)
    for query, matches in zip(queries, found, strict=True):
        typer.echo(query)
        for score, name in matches[:k]:
            typer.echo(f"  {score:.3f}  {printable(name)}")


def _rerank(
    embedder: Any, folder: Path, queries: list[str], found: list[Any], source: str, split: str, n: int
) -> list[list[tuple[float, str]]]:
    """Keep the n nearest images of each query, ordered by likelihood."""
    from vladva_kit.data.images import list_images, source_fingerprint
    from vladva_kit.data.store import read_manifest
    from vladva_kit.search.rerank import rerank

    records = list_images(source, split)
    if source_fingerprint(records) != read_manifest(folder)["source"]:
        raise typer.BadParameter(f"{source} are not the images in {folder}: pass the source given to `vladva embed`")
    wanted = {name for hits in found for _, name in hits[:n]}
    images = {record.name: cast("ImageLike", record.image) for record in records if record.name in wanted}
    return [rerank(embedder, query, hits[:n], images) for query, hits in zip(queries, found, strict=True)]


def index(folder: Embeddings) -> None:
    """Build a faiss index of the embeddings, for `vladva search` over millions of images."""
    from vladva_kit.search.index import build_index

    typer.echo(build_index(folder))


def caption(
    source: Source,
    out: Out = Path("runs/captioned"),
    model: ModelName = "emoji-llava",
    split: Split = "train",
    batch_size: Annotated[int, typer.Option(help="Images per batch.")] = 32,
    short: Annotated[str, typer.Option(help="Prompt for a short caption.")] = "provide a short caption:",
    long: Annotated[str, typer.Option(help="Prompt for a long caption.")] = "describe the picture in detail:",
) -> None:
    """Generate missing short and long captions. Run it again to resume."""
    from tqdm.auto import tqdm

    from vladva_kit.data.captioning import CaptionRequests, caption_images, write_imagefolder
    from vladva_kit.data.images import list_images
    from vladva_kit.models.device import rank_from_env

    rank, ranks = rank_from_env()
    images, embedder = list_images(source, split), load_embedder(model)
    require_generation(embedder, model)
    with tqdm(total=len(images), unit="image", disable=rank != 0) as bar:
        caption_images(
            embedder, images, out, CaptionRequests(short, long), batch_size=batch_size, rank=rank,
            ranks=ranks, progress=lambda rows: bar.update(rows * ranks),
        )  # fmt: skip
    if ranks > 1:
        typer.echo(f"rank {rank} of {ranks} is done; run the command without a launcher to write the imagefolder")
        return
    for line in write_imagefolder(images, out, model).lines():
        typer.echo(line)
    typer.echo(f"Imagefolder: {out}")

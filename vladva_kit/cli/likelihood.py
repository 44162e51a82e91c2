"""`vladva likelihood`: one LVLM used in three ways, as an embedding, as a scorer and as both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vladva_kit.cli.options import Json, Seed, Split, load_embedder, resolve_data


def likelihood(
    model: Annotated[str, typer.Argument(help="An adapter, an LVLM's folder or Hub id.")] = "emoji-llava",
    winoground: Annotated[str, typer.Option(help="Winoground's folder or a sample.")] = "winoground_mini",
    sugarcrepe: Annotated[str, typer.Option(help="SugarCrepe's folder or a sample.")] = "sugarcrepe_mini",
    pairs: Annotated[str, typer.Option(help="Images with captions, for retrieval.")] = "emoji_pairs",
    split: Split = "test",
    limit: Annotated[int, typer.Option(help="Images in the retrieval gallery.")] = 500,
    rerank: Annotated[int, typer.Option(help="Candidates per query that the likelihood orders.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Write results.json, tables and per-case scores here.")] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare a model's embedding, its likelihood of a caption, and its embedding re-ranked by the likelihood."""
    import shlex
    import sys

    import rich

    import vladva_kit as vk
    from vladva_kit.embedder.identity import describe
    from vladva_kit.evaluation.results import FILES, results_record, save_results
    from vladva_kit.models.files import json_text

    embedder = load_embedder(model)
    if not isinstance(embedder, vk.Embedder):
        raise typer.BadParameter(f"'{model}' has no likelihood: give an LVLM or an adapter, such as emoji-llava")
    data = tuple(Path(resolve_data(name)) for name in (winoground, sugarcrepe))
    gallery = vk.load_pairs(resolve_data(pairs), split)[:limit]
    scorer = vk.LikelihoodScorer(embedder)
    results: dict[str, dict[str, Any]] = {}
    for name, scores in (("embedding", embedder), ("likelihood", scorer)):
        typer.echo(f"{name}: Winoground, SugarCrepe", err=as_json)
        results[name] = {
            "winoground": vk.evaluate_winoground(scores, data[0], seed=seed),
            "sugarcrepe": vk.evaluate_sugarcrepe(scores, data[1], seed=seed),
        }
    typer.echo(f"retrieval among {len(gallery)} images, the best {rerank} ordered by likelihood", err=as_json)
    results["embedding"]["retrieval"] = vk.evaluate_retrieval(embedder, gallery, seed=seed, rerank=rerank)
    if not as_json:
        rich.print(ways_table(results))
    if out is None and not as_json:
        return
    identity = {"embedding": describe(embedder), "likelihood": describe(scorer)}
    metadata = {"command": shlex.join(["vladva", *sys.argv[1:]]), "seed": seed}
    if out is not None:
        save_results(out, results, identity, metadata)
        typer.echo(f"Results: {out / FILES['results']}", err=as_json)
    if as_json:
        typer.echo(json_text(results_record(results, identity, metadata)))


def ways_table(results: dict[str, dict[str, Any]]) -> Any:
    """Build the terminal table: Winoground, SugarCrepe swap, and retrieval before and after re-ranking."""
    from vladva_kit.evaluation.tables import MISSING, terminal_table

    table = terminal_table(
        ("Winoground\ngroup", "SugarCrepe\nswap", "text →\nimage R@1", "image →\ntext R@1"), "percent"
    )
    retrieval = results["embedding"]["retrieval"]
    first = (retrieval.text_to_image[1], retrieval.image_to_text[1])
    reranked = retrieval.reranked
    for name, ranked in (("embedding", first), ("likelihood", (None, None))):
        benchmarks = results[name]
        scores = (benchmarks["winoground"].group, benchmarks["sugarcrepe"].groups["swap"], *ranked)
        table.add_row(name, *(MISSING if score is None else f"{score.percent:.1f}" for score in scores))
    after = (f"{score.percent:.1f}" for score in (reranked.text_to_image, reranked.image_to_text))
    table.add_row(
        f"best {reranked.k} re-ranked,\n{reranked.seconds_per_query:.2f} s per query", MISSING, MISSING, *after
    )
    return table

"""The index: its scores are exact, it finds nearly all that the exact search finds, and other rows' is refused."""

import importlib.util
import sys

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from vladva_kit.cli.app import app
from vladva_kit.data.images import ImageRecord
from vladva_kit.models.load import MissingExtra
from vladva_kit.search import index as embedding_index
from vladva_kit.search.index import INDEX, build_index, rows_of, search_index
from vladva_kit.search.shards import embed_images_to_shards, search

needs_faiss = pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="needs faiss")
ROWS, WIDTH = 3000, 32


def embedded(out, rows=ROWS):
    """Rows around a hundred centers, in shards of uneven ends; the picture's size says which row it is."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(100, WIDTH, generator=generator)
    vectors = F.normalize(
        centers.repeat(rows // 100 + 1, 1)[:rows] + 0.5 * torch.randn(rows, WIDTH, generator=generator)
    )
    pictures = [ImageRecord(f"{n}.png", Image.new("L", (n + 1, 1))) for n in range(rows)]
    embed_images_to_shards(pictures, lambda images: vectors[[image.width - 1 for image in images]], out, model="emoji-clip",
                   shard_size=700)  # fmt: skip
    return vectors


@needs_faiss
def test_scores_are_exact_and_nearly_all_of_the_nearest_are_found(tmp_path):
    vectors = embedded(tmp_path)
    assert build_index(tmp_path) == tmp_path / INDEX and rows_of(tmp_path) == ROWS
    queries = F.normalize(vectors[::150] + 0.1 * torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(1)))
    found, wanted = search_index(tmp_path, queries), search(tmp_path, queries)
    kept = [
        len({name for _, name in one} & {name for _, name in other}) for one, other in zip(found, wanted, strict=True)
    ]
    assert sum(kept) >= 0.9 * 200
    for query, rows in zip(queries, found, strict=True):
        assert len(rows) == 10 and [score for score, _ in rows] == sorted((score for score, _ in rows), reverse=True)
        for score, name in rows:
            assert score == pytest.approx(float(query @ vectors[int(name.removesuffix(".png"))]), abs=1e-5)
    everything = search_index(tmp_path, queries, probed=1.0, candidates=ROWS)
    assert [[name for _, name in one] for one in everything] == [[name for _, name in one] for one in wanted]


@needs_faiss
def test_an_index_of_other_rows_and_a_folder_without_one_are_refused(tmp_path):
    embedded(tmp_path / "many")
    embedded(tmp_path / "few", 400)
    with pytest.raises(ValueError, match=r"no index\.faiss"):
        search_index(tmp_path / "few", torch.ones(1, WIDTH))
    build_index(tmp_path / "many")
    (tmp_path / "many" / INDEX).rename(tmp_path / "few" / INDEX)
    with pytest.raises(ValueError, match="of 3000 rows of dim 32, the shards hold 400"):
        search_index(tmp_path / "few", torch.ones(1, WIDTH))
    embedded(tmp_path / "tiny", 100)
    with pytest.raises(ValueError, match="100 rows, and an index needs 256"):
        build_index(tmp_path / "tiny")


def test_without_faiss_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vladva-kit\[index\]'; exact search does without"):
        build_index(tmp_path)


def test_the_command_searches_exactly_and_above_a_size_says_that_an_index_is_better(tmp_path, monkeypatch):
    class Says:
        def encode_text(self, words):
            return torch.eye(WIDTH)[: len(words)]

    embedded(tmp_path, 300)
    monkeypatch.setattr("vladva_kit.cli.images.named_embedder", lambda name: Says())
    shown = CliRunner().invoke(app, ["search", str(tmp_path), "a dog", "--k", "2"])
    wanted = search(tmp_path, torch.eye(WIDTH)[:1], 2)[0]
    assert [line.split()[1] for line in shown.stdout.splitlines()[1:]] == [name for _, name in wanted]
    assert "vladva index" not in shown.output
    monkeypatch.setattr(embedding_index, "EXACT_UP_TO", 299)
    assert "300 rows are read; `vladva index`" in CliRunner().invoke(app, ["search", str(tmp_path), "a dog"]).stderr

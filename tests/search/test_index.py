"""The index returns exact scores, finds nearly all true nearest images, and is refused if it does not match."""

import importlib.util
import sys
import time

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from vladva_kit.data.images import ImageRecord
from vladva_kit.models.load import MissingExtra
from vladva_kit.search.index import INDEX, INDEX_KEY, build_index, count_rows, search_index
from vladva_kit.search.shards import embed_images_to_shards, search

needs_faiss = pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="needs faiss")
ROWS, DIM = 3000, 34  # 34: faiss trains 2 sub-quantizers instead of 32, which takes seconds


def embed(out, rows=ROWS, dim=DIM, seed=0):
    """Embed rows around a hundred centers into shards of unequal size; an image's width encodes its row."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(100, dim, generator=generator)
    noise = 0.5 * torch.randn(rows, dim, generator=generator)
    vectors = F.normalize(centers.repeat(rows // 100 + 1, 1)[:rows] + noise)
    height = rows // 1000 + 1  # so that no image is narrower than MAX_ASPECT_RATIO
    images = [ImageRecord(f"{row}.png", Image.new("L", (row + 1, height))) for row in range(rows)]

    def encode(images):
        return vectors[[image.width - 1 for image in images]]

    embed_images_to_shards(images, encode, out, model="emoji-clip", shard_size=700)
    return vectors


@needs_faiss
def test_scores_are_exact_and_nearly_all_nearest_images_are_found(tmp_path):
    vectors = embed(tmp_path)
    assert build_index(tmp_path) == tmp_path / INDEX and count_rows(tmp_path) == ROWS
    queries = F.normalize(vectors[::150] + 0.1 * torch.randn(20, DIM, generator=torch.Generator().manual_seed(1)))
    found, expected = search_index(tmp_path, queries), search(tmp_path, queries)
    common = [
        len({name for _, name in ours} & {name for _, name in exact})
        for ours, exact in zip(found, expected, strict=True)
    ]
    assert sum(common) >= 0.9 * 200
    for query, results in zip(queries, found, strict=True):
        assert len(results) == 10 and [score for score, _ in results] == sorted((s for s, _ in results), reverse=True)
        for score, name in results:
            assert score == pytest.approx(float(query @ vectors[int(name.removesuffix(".png"))]), abs=1e-5)
    everything = search_index(tmp_path, queries, probed=1.0, candidates=ROWS)
    assert [[name for _, name in results] for results in everything] == [[n for _, n in exact] for exact in expected]


@needs_faiss
def test_an_index_of_other_shards_or_a_missing_or_too_small_one_is_refused(tmp_path):
    embed(tmp_path / "many", 1000)
    embed(tmp_path / "few", 400)
    with pytest.raises(ValueError, match=r"no index\.faiss"):
        search_index(tmp_path / "few", torch.ones(1, DIM))
    build_index(tmp_path / "many")
    (tmp_path / "many" / INDEX).rename(tmp_path / "few" / INDEX)
    with pytest.raises(ValueError, match="of 1000 rows of dim 34, the shards hold 400"):
        search_index(tmp_path / "few", torch.ones(1, DIM))
    embed(tmp_path / "tiny", 100)
    with pytest.raises(ValueError, match="100 rows, and an index needs 256"):
        build_index(tmp_path / "tiny")


def test_without_faiss_the_error_names_the_package_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"pip install 'vladva-kit\[index\]'; exact search needs no index"):
        build_index(tmp_path)


@needs_faiss
def test_an_index_of_other_embeddings_of_the_same_number_is_refused(tmp_path):
    embed(tmp_path, 400)
    build_index(tmp_path)
    for path in tmp_path.glob("shard-*"):  # the images are embedded again, in other order
        path.unlink()
    vectors = embed(tmp_path, 400, seed=1)
    with pytest.raises(ValueError, match=r"of other embeddings .*[0-9a-f]{12} in index\.json, .* now\): build"):
        search_index(tmp_path, vectors[:1])
    build_index(tmp_path)
    assert search_index(tmp_path, vectors[:1], k=1)[0][0][1] == "0.png"
    (tmp_path / INDEX_KEY).unlink()  # an index of an older kit
    with pytest.raises(ValueError, match="build the index again"):
        search_index(tmp_path, vectors[:1])


@needs_faiss
def test_a_small_index_of_the_usual_dim_takes_seconds(tmp_path):
    embed(tmp_path, 300, dim=128)  # 64 sub-quantizers
    start = time.process_time()
    build_index(tmp_path)
    assert time.process_time() - start < 20


@needs_faiss
def test_building_an_index_shows_its_progress(tmp_path, capsys):
    embed(tmp_path, 300)
    build_index(tmp_path)
    assert "300/300" in capsys.readouterr().err

"""Hard batches: groups stay together, neighbors are the nearest, false negatives are excluded, order is repeatable."""

from collections import Counter

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import vladva_kit as vk
from vladva_kit.data import hard_batches
from vladva_kit.data.hard_batches import (
    HardBatches,
    caption_keys,
    checked_mix,
    groups_of,
    mine_neighbors,
    mined_groups,
    nearest_neighbors,
)


def color_image(value):
    return Image.new("RGB", (8, 8), (value % 256, value * 7 % 256, value * 31 % 256))


def unit(n, dim, seed=0):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


class VectorEmbedder:
    """An encoder with given vectors: captions are "0", "1", …, and an image's red value is its number."""

    def __init__(self, texts, images):
        self.texts, self.images = texts, images

    def encode_text(self, texts):
        return self.texts[[int(text) for text in texts]]

    def encode_image(self, images):
        return self.images[[image.getpixel((0, 0))[0] for image in images]]


def numbered_pairs(n):
    return [vk.Pair(color_image(i), short=str(i)) for i in range(n)]


def batches_of(sampler):
    order = list(sampler)
    return [order[start : start + sampler.batch_size] for start in range(0, len(order), sampler.batch_size)]


@pytest.fixture
def mixed():
    """A sampler over 60 pairs: ten groups of two to four pairs, neighbors, batches of 12."""
    groups, start = [], 0
    for size in (2, 3, 4, 2, 3, 4, 2, 3, 4, 3):
        groups.append(list(range(start, start + size)))
        start += size
    neighbors = nearest_neighbors(unit(60, 8), 6)
    return HardBatches(60, {"groups": 5, "mined": 4, "random": 3}, groups, neighbors, group_size=4, seed=3)


def test_groups_are_the_pairs_that_share_a_name():
    pairs = [vk.Pair(color_image(i), str(i), group=name) for i, name in enumerate(["a", None, "b", "a", "b"])]
    assert groups_of(pairs) == [[0, 3], [2, 4]]


def test_a_group_of_one_pair_is_refused():
    pairs = [vk.Pair(color_image(0), "x", group="lonely"), vk.Pair(color_image(1), "y", where="line 2")]
    with pytest.raises(ValueError, match="group 'lonely' has one pair"):
        groups_of(pairs)


def test_proportions_become_rows_of_a_batch():
    assert checked_mix({"groups": 0.25, "mined": 0.5, "random": 0.25}, 64, [[0, 1]]) == {
        "groups": 16,
        "mined": 32,
        "random": 16,
    }
    assert checked_mix({"random": 1.0}, 10, []) == {"groups": 0, "mined": 0, "random": 10}


@pytest.mark.parametrize(
    "batches, message",
    [
        ({"groups": 0.5, "random": 0.4}, "sum to 1"),
        ({"groups": -0.5, "random": 1.5}, "between 0 and 1"),
        ({"twins": 1.0}, "unknown part 'twins'"),
    ],
)
def test_bad_proportions_are_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        checked_mix(batches, 8, [[0, 1]])


def test_a_share_of_groups_without_groups_is_refused():
    with pytest.raises(ValueError, match="no pair has a 'group'"):
        checked_mix({"groups": 0.5, "random": 0.5}, 8, [])


def test_a_group_larger_than_its_share_of_the_batch_is_refused():
    with pytest.raises(ValueError, match="a group of 5 pairs does not fit into 4 rows"):
        checked_mix({"groups": 0.5, "random": 0.5}, 8, [[0, 1, 2, 3, 4]])


def test_every_batch_is_full_and_has_no_index_twice(mixed):
    batches = batches_of(mixed)
    assert len(batches) == 5 and len(mixed) == 60
    assert all(len(batch) == 12 == len(set(batch)) for batch in batches)


def test_grouped_rows_are_complete_groups(mixed):
    sizes = {tuple(group) for group in mixed.groups}
    for batch in batches_of(mixed):
        head, used = list(batch), 0
        while (group := next((g for g in sizes if tuple(head[used : used + len(g)]) == g), None)) and used < 5:
            used += len(group)
        assert 4 <= used <= 5  # five rows, less a rest that no group fits


def test_mined_rows_are_an_anchor_and_its_nearest_neighbors():
    neighbors = nearest_neighbors(unit(40, 8), 5)
    sampler = HardBatches(40, {"groups": 0, "mined": 8, "random": 0}, (), neighbors, group_size=4)
    for batch in batches_of(sampler):
        anchor, rest = batch[0], batch[1:4]
        assert rest == neighbors[anchor, :3].tolist()
        second = batch[4]
        near = [index for index in neighbors[second].tolist() if index not in batch[:4]]
        assert batch[5:8] == near[:3] or len(near) < 3


def test_all_groups_are_used_before_one_is_used_again():
    groups = [[2 * i, 2 * i + 1] for i in range(10)]
    sampler = HardBatches(20, {"groups": 4, "mined": 0, "random": 0}, groups)
    counts = Counter(index for batch in batches_of(sampler) for index in batch)
    assert set(counts.values()) == {1} and len(counts) == 20


def test_the_order_depends_on_seed_and_epoch_only(mixed):
    again = HardBatches(60, mixed.rows, mixed.groups, mixed.neighbors, seed=3)
    other = HardBatches(60, mixed.rows, mixed.groups, mixed.neighbors, seed=4)
    first = list(mixed)
    assert list(again) == first == list(mixed) != list(other)
    mixed.set_epoch(1)
    again.set_epoch(1)
    assert list(again) == list(mixed) != first


def test_new_neighbors_change_the_following_batches_only(mixed):
    expected = batches_of(mixed)
    order, given = iter(mixed), []
    for _ in range(24):
        given.append(next(order))
    mixed.neighbors = nearest_neighbors(unit(60, 8, seed=9), 6)
    given += list(order)
    assert given[:24] == expected[0] + expected[1]
    assert given[24:] != [index for batch in expected[2:] for index in batch]


@pytest.mark.parametrize("block, columns", [(1, 7), (16, 100), (1000, 3)])
def test_nearest_neighbors_equal_a_full_sort_whatever_the_blocks(monkeypatch, block, columns):
    monkeypatch.setattr(hard_batches, "COLUMN_BLOCK", columns)
    vectors = unit(23, 5)
    cosines = vectors @ vectors.T
    cosines.fill_diagonal_(-2)
    assert torch.equal(nearest_neighbors(vectors, 4, block), cosines.argsort(dim=1, descending=True)[:, :4])


def test_few_vectors_are_padded():
    assert nearest_neighbors(unit(3, 4), 5)[:, 2:].eq(-1).all()


def test_many_vectors_are_searched_with_faiss(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(hard_batches, "APPROXIMATE_FROM", 2000)
    vectors = unit(3000, 8)
    exact = (vectors @ vectors.T).fill_diagonal_(-2).topk(3).indices
    found = nearest_neighbors(vectors, 3)
    assert not (found == torch.arange(3000)[:, None]).any()
    shared = (found[:, :, None] == exact[:, None, :]).any(-1).float().mean()
    assert shared > 0.8  # an inverted file reads a part of the rows


def test_neighbors_with_the_same_caption_or_image_are_excluded():
    vectors = F.normalize(torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.98, 0.2], [0.9, 0.4], [0.0, 1.0]]), dim=-1)
    pairs = numbered_pairs(5)
    pairs[2] = vk.Pair(color_image(0), short="2")  # the image of pair 0
    embedder = VectorEmbedder(vectors, vectors)
    assert mine_neighbors(embedder, pairs, k=2, margin=None)[0].tolist() == [1, 3]
    embedder.encode_text = lambda texts: vectors[: len(texts)]
    pairs[1] = vk.Pair(color_image(1), short=" 0 ")  # the caption of pair 0
    assert mine_neighbors(embedder, pairs, k=2, margin=None)[0].tolist() == [3, 4]


def test_the_margin_excludes_neighbors_that_are_nearly_as_similar_as_the_positive():
    texts, images, margin = unit(12, 3, 1), unit(12, 3, 2), 0.2
    found = mine_neighbors(VectorEmbedder(texts, images), numbered_pairs(12), k=11, margin=margin)
    cross, positive = images @ texts.T, (images * texts).sum(1)
    for i in range(12):
        allowed = [
            j
            for j in (texts[i] @ texts.T).argsort(descending=True).tolist()
            if j != i and cross[i, j] <= positive[i] - margin and cross[j, i] <= positive[j] - margin
        ]
        assert [j for j in found[i].tolist() if j >= 0] == allowed
    assert (found >= 0).any() and (found < 0).any()


def test_images_can_be_compared_instead_of_captions():
    texts, images = unit(9, 4, 1), unit(9, 4, 2)
    found = mine_neighbors(VectorEmbedder(texts, images), numbered_pairs(9), k=2, by="image", margin=None)
    assert torch.equal(found, nearest_neighbors(images, 2))


def test_pairs_without_a_short_caption_are_left_out():
    vectors = unit(6, 4)
    pairs = numbered_pairs(6)
    pairs[3] = vk.Pair(color_image(3), long="a long caption")
    found = mine_neighbors(VectorEmbedder(vectors, vectors), pairs, k=5, margin=None)
    assert (found[3] == -1).all() and not (found == 3).any()


def test_mining_without_short_captions_is_refused():
    pairs = [vk.Pair(color_image(i), long="a long caption") for i in range(3)]
    with pytest.raises(ValueError, match="mining needs short captions: 0 of 3"):
        mine_neighbors(VectorEmbedder(None, None), pairs)


def test_a_guard_that_leaves_no_negatives_is_refused():
    vectors = unit(5, 4)
    with pytest.raises(ValueError, match=r"excluded by margin=3.0; use a smaller margin"):
        mine_neighbors(VectorEmbedder(vectors, vectors), numbered_pairs(5), margin=3.0)


def test_mined_groups_are_disjoint_and_start_with_the_nearest():
    neighbors = nearest_neighbors(unit(50, 6), 8)
    groups = mined_groups(neighbors, 4)
    members = [index for group in groups for index in group]
    assert len(members) == len(set(members)) and all(2 <= len(group) <= 4 for group in groups)
    first = groups[0]
    assert first[1:] == neighbors[first[0], :3].tolist()


def test_equal_captions_have_equal_keys():
    keys = caption_keys(["A dog", "a  dog ", "a cat"])
    assert keys[0] == keys[1] != keys[2]

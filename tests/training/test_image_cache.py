"""Image features kept for a run: the same embeddings, one tower run a picture, and folders that are taken up again."""

import pytest
import torch
from tiny import tiny_embedder, tiny_pairs

import vladva_kit as vk
from vladva_kit.training.image_cache import cache_image_features, image_key_of
from vladva_kit.training.trainer import Collator, step_losses


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_step_on_cached_pictures_is_the_step_on_pictures(embedder, tmp_path, where, monkeypatch):
    pairs = tiny_pairs(7)
    plain = step_losses(embedder, Collator(embedder)(pairs)["batch"])
    pictures = cache_image_features(embedder, pairs, "memory" if where == "memory" else str(tmp_path / "features"), 3)
    monkeypatch.setattr(embedder.lvlm.model.model.vision_tower, "forward", None)  # not to be run again
    batch = Collator(embedder, pictures=pictures)([pairs[5], *pairs[:3], pairs[3], pairs[4], pairs[6]])["batch"]
    cached = step_losses(embedder, batch)
    for name in ("loss", "contrastive", "next_token"):
        assert float(cached[name].detach()) == pytest.approx(float(plain[name].detach()), rel=1e-5)


def test_a_picture_in_many_pairs_is_kept_once(embedder):
    pairs = tiny_pairs(3)
    pictures = cache_image_features(embedder, [*pairs, *pairs], "memory")
    assert len(pictures.rows) == 3


def test_the_size_is_said_before_the_work_begins(embedder, caplog):
    pairs = tiny_pairs(3)
    pictures = cache_image_features(embedder, pairs, "memory")
    size = sum(layer.numel() * 4 for row in pictures.rows for layer in row)
    assert f"3 pictures: about {size / 1e9:.2f} GB in memory" in caplog.text


def test_a_folder_is_taken_up_again_and_its_tower_not_run(embedder, tmp_path, monkeypatch):
    pairs = tiny_pairs(5)
    folder = tmp_path / "features"
    first = cache_image_features(embedder, pairs, str(folder))
    seen = []
    real = embedder.lvlm.model.model.vision_tower.forward
    monkeypatch.setattr(
        embedder.lvlm.model.model.vision_tower, "forward", lambda x, **k: seen.append(len(x)) or real(x, **k)
    )
    again = cache_image_features(embedder, pairs, str(folder))
    assert seen == [1]  # one picture, to know the size
    for one, other in zip(first.batch(pairs)[1].rows, again.batch(pairs)[1].rows, strict=True):
        assert torch.equal(one[0], other[0])


def test_another_set_of_pictures_is_refused(embedder, tmp_path):
    cache_image_features(embedder, tiny_pairs(3), str(tmp_path))
    with pytest.raises(ValueError, match="pictures differ"):
        cache_image_features(embedder, tiny_pairs(4), str(tmp_path))


def test_a_disk_without_room_is_said_before_anything_is_written(embedder, tmp_path, monkeypatch):
    from collections import namedtuple

    monkeypatch.setattr("shutil.disk_usage", lambda _: namedtuple("Usage", "total used free")(1, 1, 0))
    with pytest.raises(ValueError, match="0.0 GB left"):
        cache_image_features(embedder, tiny_pairs(3), str(tmp_path / "features"))
    assert not list((tmp_path / "features").iterdir())


def test_a_tower_that_learns_is_refused(tmp_path):
    from tiny import tiny_lvlm

    embedder = vk.attach(tiny_lvlm(), lora={"target_modules": ["q_proj"]})
    with pytest.raises(ValueError, match="learns"):
        cache_image_features(embedder, tiny_pairs(2), "memory")


def test_pictures_are_told_apart_by_content_or_by_path(tmp_path):
    first, other = tiny_pairs(2)
    assert image_key_of(first) == image_key_of(vk.Pair(first.image.copy(), "another caption"))
    assert image_key_of(first) != image_key_of(other)
    assert image_key_of(vk.Pair(tmp_path / "a.png", "x")) == str((tmp_path / "a.png").resolve())


def test_fit_on_cached_pictures_is_fit_on_pictures(tmp_path):
    runs = []
    for changes in ({}, {"cache_images": "memory", "micro_batch_size": 3}):
        settings = vk.Settings(steps=2, batch_size=6, warmup=1, **changes)
        runs.append(vk.fit(tiny_embedder(), tiny_pairs(12), settings, progress=False))
    assert [row["loss"] for row in runs[1]] == pytest.approx([row["loss"] for row in runs[0]], rel=1e-4)

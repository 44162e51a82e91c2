"""The setup of the notebooks: what fits the shipped model, and what fits any other."""

import datasets
import pytest
from tiny_families import build

import vladva_kit as vk
from vladva_kit.data.hard_batches import groups_of
from vladva_kit.widgets import notebook


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A dataset with the columns of Recap-COCO, in a folder."""
    folder = tmp_path_factory.mktemp("photos")
    pairs = vk.load_pairs(vk.sample("photos"))
    columns = {
        "image": [{"bytes": pair.image.read_bytes(), "path": pair.image.name} for pair in pairs],
        "caption": [pair.short.split()[-1] for pair in pairs],
        "recaption": [pair.long for pair in pairs],
    }
    datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).to_parquet(folder / "train.parquet")
    return str(folder)


def test_the_shipped_model_gets_rendered_pairs_in_the_unseen_style_and_emoji_clip():
    setup = vk.notebook("emoji-llava", n=5)
    assert setup.rendered and [pair.image.parent.name for pair in setup.pairs] == ["unseen_style"] * 5
    assert setup.winoground == vk.sample("winoground_mini") / "unseen_style"
    assert setup.clip.encode_text(["a dog"]).shape == (1, 192)
    train = setup.training_pairs(9)
    assert {pair.image.parent.name for pair in train} == {"train"}
    assert [pair.group is None for pair in train].count(False) >= 4 and len(groups_of(train)[-1]) > 1


def test_another_model_gets_photos_of_which_the_held_out_ones_are_not_trained_on(photos, monkeypatch):
    monkeypatch.setattr(notebook, "HELD_OUT", 3)
    setup = vk.notebook("some/model", n=500, photos=photos)
    held_out, train = ([pair.short for pair in pairs] for pairs in (setup.pairs, setup.training_pairs(4)))
    shown = [pair.short.split()[-1] for pair in vk.load_pairs(vk.sample("photos"))]
    assert (held_out, train) == (shown[:3], shown[3:7])
    assert len(vk.load_pairs(setup.pairs)) == 3  # images are readable
    assert not setup.rendered and setup.winoground == vk.sample("photos") / "winoground"


def test_the_adapter_of_another_model_is_trained_once_for_all_notebooks(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(notebook, "HELD_OUT", 2)
    monkeypatch.setattr(notebook, "SHORT_RUN", vk.Settings(steps=1, batch_size=2))
    trained = []
    fit = notebook.fit
    monkeypatch.setattr(notebook, "fit", lambda *given, **named: trained.append(given[1]) or fit(*given, **named))
    lines = " ".join(pair.short for pair in vk.load_pairs(vk.sample("photos")))
    build("llava", tmp_path / "model", lines=lines, tokens=600)
    first, second = (vk.notebook(str(tmp_path / "model"), n, photos=photos).embedder for n in (1, 2))
    assert len(trained) == 1 and len(trained[0]) == 6
    assert "1 steps of fine-tuning, kept in" in capsys.readouterr().out
    image = trained[0][0].load_image()
    assert (first.encode_image([image]) == second.encode_image([image])).all()
    assert first.lvlm.family.max_pixels == notebook.MAX_PIXELS

"""The second held-out style: how its images are drawn, and the sample as committed."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

import vladva_kit as vk
from experiments.world.openmoji import openmoji_drawings, write_openmoji
from vladva_kit.emoji_world.nouns import NOUNS
from vladva_kit.emoji_world.scenes import Scene
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.evaluation.winoground import load_winoground

FOLDER = Path(__file__).resolve().parents[3] / "data_samples"


def rows_of(folder):
    return [json.loads(line) for line in (folder / "test" / "metadata.jsonl").read_text().splitlines()]


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_committed_sample_has_true_captions_and_all_nouns():
    cases, rows = load_winoground(FOLDER / "openmoji"), rows_of(FOLDER / "openmoji")
    assert len(cases) == 180 and len(rows) == 500
    for case in cases:
        assert len(set(case.captions)) == 2 and len({sorted(text.split())[0] for text in case.captions}) == 1
    scenes = [Scene.from_dict(row["scene"]) for row in rows]
    assert all(is_true(text, scene) for row, scene in zip(rows, scenes, strict=True) for text in row["captions"])
    assert {thing.noun for scene in scenes for thing in scene.things} == {noun.word for noun in NOUNS}
    assert {scene.style for scene in scenes} == {None}  # no style of the kit, in which a model may be trained
    captions = [text for row in rows for text in row["captions"]]
    assert len(set(captions)) == len(captions)


def test_the_sample_has_its_own_license_and_stays_small():
    text = (FOLDER / "openmoji" / "LICENSE.md").read_text()
    assert "CC BY-SA 4.0" in text and "OpenMoji" in text
    assert size_of(FOLDER / "openmoji") < 3e6 and size_of(FOLDER) < 25e6


def test_a_color_that_the_style_gives_a_thing_anyway_is_not_named(tmp_path):
    def red(noun, style, color):
        return Image.new("RGBA", (64, 64), (222, 36, 42, 255) if color is None else (0, 0, 0, 255))

    write_openmoji(tmp_path / "red", red, {"color": 3, "relation": 2}, 20)
    colors = {thing["color"] for row in rows_of(tmp_path / "red") for thing in row["scene"]["things"]}
    assert len(colors) > 3 and "red" not in colors
    assert len(vk.load_pairs(tmp_path / "red", "test")) == 20 and len(load_winoground(tmp_path / "red")) == 5


def test_a_drawing_is_an_icon_of_the_set_recolored_on_request(tmp_path, monkeypatch):
    def svg2png(svg, output_width, output_height):
        assert b"the dog's face" in svg
        file = io.BytesIO()
        Image.new("RGBA", (output_width, output_height // 2), (200, 160, 40, 255)).save(file, "PNG")
        return file.getvalue()

    monkeypatch.setitem(sys.modules, "cairosvg", SimpleNamespace(svg2png=svg2png))
    folder = tmp_path / "@iconify-json" / "openmoji"
    folder.mkdir(parents=True)
    (folder / "icons.json").write_text(json.dumps({"icons": {"dog-face": {"body": "the dog's face"}}, "width": 72}))
    draw = openmoji_drawings(tmp_path)
    assert draw("dog", 0, None).size == (64, 64) and draw("dog", 0, None).getbbox() == (0, 16, 64, 48)
    red, green, blue, _ = np.asarray(draw("dog", 4, "blue"))[32, 32]
    assert blue > max(red, green)


def test_the_table_in_the_docs_is_that_of_the_committed_scores():
    docs = FOLDER.parent / "docs"
    text = (docs / "results.md").read_text()
    for model, scores in json.loads((docs / "openmoji.json").read_text())["scores"].items():
        columns = ("Winoground group", "text → image R@1", "image → text R@1")
        cells = ["{:.1f} [{:.1f}, {:.1f}]".format(*scores[name]) if name in scores else "—" for name in columns]
        assert f"| {' | '.join([model, *cells])} |" in text

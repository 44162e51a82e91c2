"""Samples in the formats of real data: an imagefolder of pairs, Winoground's own files, SugarCrepe's seven."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from vladva_kit.emoji_world import miniatures
from vladva_kit.emoji_world.captions import long_caption, short_caption
from vladva_kit.emoji_world.cases import PICTURE_SIZE, STYLE_FOLDERS, sugarcrepe_sample, swap_cases
from vladva_kit.emoji_world.nouns import SEEN_STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import Scene, sample_scene

SPLITS = {"train": 2400, "validation": 200, "test": 500, "unseen_style": 500}
CAPTIONS_PER_PICTURE = 3  # in validation, test and unseen_style
WINOGROUND_KINDS = {"object": 40, "color": 40, "size": 40, "relation": 60}
_COLLAPSED = {"object": "Object", "color": "Attribute", "size": "Attribute", "relation": "Relation"}


def write_sample(name: str, folder: Path, seed: int = 0) -> Path:
    """Draws a sample into `folder`, which must not exist yet: whole or not at all.

        write_sample("winoground_mini", Path("winoground_mini"))

    Raises KeyError for a name that is not drawn, FileExistsError when the folder exists.
    """
    writer = WRITERS[name]
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it, or draw the sample somewhere else")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as beside:
        drawn = Path(beside) / "drawn"
        drawn.mkdir()
        writer(drawn, seed)
        os.replace(drawn, folder)
    return folder


def _save(scene: Scene, path: Path) -> None:
    render(scene, PICTURE_SIZE).save(path, quality=88)


def _write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_pairs(folder: Path, seed: int) -> None:
    """train has one short caption a picture; the others have several, all different within a split."""
    for split, n in SPLITS.items():
        rng = random.Random(f"{seed} pairs {split}")
        styles = (UNSEEN_STYLE,) if split == "unseen_style" else SEEN_STYLES
        (folder / split).mkdir()
        rows, taken = [], set()
        for number in range(n):
            scene = sample_scene(rng, styles=styles)
            captions = [short_caption(scene, rng)]
            if split != "train":
                while captions[0] in taken:  # a gallery in which two pictures share a caption has no one answer
                    scene = sample_scene(rng, styles=styles)
                    captions = [short_caption(scene, rng)]
                captions = _different(scene, rng, taken)
            row = {"file_name": f"{number:04d}.webp", "short": captions[0], "long": long_caption(scene, rng)}
            if split != "train":
                row["captions"] = captions
            _save(scene, folder / split / row["file_name"])
            rows.append({**row, "scene": scene.as_dict()})
        _write_lines(folder / split / "metadata.jsonl", rows)


def _different(scene: Scene, rng: random.Random, taken: set[str]) -> list[str]:
    captions: list[str] = []
    while len(captions) < CAPTIONS_PER_PICTURE:
        caption = short_caption(scene, rng)
        if caption not in taken:
            captions.append(caption)
            taken.add(caption)
    return captions


def _write_winoground(folder: Path, seed: int) -> None:
    """facebook/winoground's own files: examples.jsonl and images/."""
    for within, styles in STYLE_FOLDERS.items():
        rng, rows = random.Random(f"{seed} winoground {within}"), []
        (folder / within / "images").mkdir(parents=True)
        for kind, n in WINOGROUND_KINDS.items():
            cases = swap_cases(rng, kind, styles)
            for case in (next(cases) for _ in range(n)):
                number = len(rows)
                names = [f"ex_{number}_img_{side}.webp" for side in (0, 1)]
                for name, scene in zip(names, case.scenes, strict=True):
                    _save(scene, folder / within / "images" / name)
                tags = {"tag": kind, "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": _COLLAPSED[kind]}
                images = {f"image_{side}": name for side, name in enumerate(names)}
                captions = {f"caption_{side}": caption for side, caption in enumerate(case.captions)}
                rows.append({"id": number, **images, **captions, **tags, "layout": case.scenes[0].layout})
        _write_lines(folder / within / "examples.jsonl", rows)


def _write_sugarcrepe(folder: Path, seed: int) -> None:
    """SugarCrepe's own files: seven JSON files, keyed by string index, and images/."""
    for within in STYLE_FOLDERS:
        (folder / within / "images").mkdir(parents=True)
        cases, scenes = sugarcrepe_sample(seed, within)
        for category, entries in cases.items():
            (folder / within / f"{category}.json").write_text(json.dumps(entries, indent=1) + "\n")
        for name, scene in scenes.items():
            _save(scene, folder / within / "images" / name)


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "emoji_pairs": _write_pairs,
    "winoground_mini": _write_winoground,
    "sugarcrepe_mini": _write_sugarcrepe,
    "sugarcrepe_pp_mini": miniatures.write_sugarcrepe_pp,
    "word_order_mini": miniatures.write_word_order,
    "captions_mini": miniatures.write_captions,
    "classification_mini": miniatures.write_classification,
    "vqa_mini": miniatures.write_vqa,
}
DRAWN = tuple(WRITERS)

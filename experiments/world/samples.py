"""Draw the samples in the formats of real data: an imagefolder of pairs, Winoground, SugarCrepe and miniatures."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from experiments.world import miniatures
from experiments.world.cases import STYLE_FOLDERS, sugarcrepe_sample, swap_cases
from experiments.world.miniatures import Draw, save_image, write_json
from experiments.world.twins import held_out, twin_group
from vladva_kit.emoji_world.captions import long_caption, short_caption
from vladva_kit.emoji_world.drawings import drawing
from vladva_kit.emoji_world.nouns import SEEN_STYLES, UNSEEN_STYLE
from vladva_kit.emoji_world.scenes import Scene, sample_scene

SPLITS = {"train": 2400, "validation": 200, "test": 500, "unseen_style": 500}
TWIN_GROUPS = 600  # in train
CAPTIONS_PER_IMAGE = 3  # in validation, test and unseen_style
WINOGROUND_KINDS = {"object": 40, "color": 40, "size": 40, "relation": 60}
_COLLAPSED_TAGS = {"object": "Object", "color": "Attribute", "size": "Attribute", "relation": "Relation"}


def write_sample(name: str, folder: Path, seed: int = 0) -> Path:
    """Draw a sample into a new folder. An interrupted call leaves nothing behind.

        write_sample("winoground_mini", Path("winoground_mini"))

    Raises KeyError for an unknown name, FileExistsError if the folder exists.
    """
    writer = WRITERS[name]
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it, or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as tmp_dir:
        complete = Path(tmp_dir) / "complete"
        complete.mkdir()
        writer(complete, seed)
        os.replace(complete, folder)
    return folder


def _write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_training_pairs(folder: Path, n_scenes: int, n_groups: int, seed: int = 0) -> None:
    """Write a training split: random scenes with a short and a long caption each, and groups of twins with short ones.

        write_training_pairs(Path("pairs/train"), n_scenes=2400, n_groups=600)

    No image shows a held-out combination (`twins.held_out`): of the `n_scenes` random scenes, those that do are left
    out. Twins have no long caption: the next-token loss needs few pairs, and a long caption triples a pair's tokens.
    """
    folder.mkdir(parents=True)
    rng, rows = random.Random(f"{seed} pairs train"), []
    for _ in range(n_scenes):
        scene = sample_scene(rng)
        row = {"short": short_caption(scene, rng), "long": long_caption(scene, rng)}
        if not held_out(scene):
            rows.append((scene, row))
    rng = random.Random(f"{seed} twins")
    for number in range(n_groups):
        for twin in twin_group(rng):
            rows.append((twin.scene, {"short": twin.caption, "group": f"twins-{number:04}", "swap": twin.swap}))
    lines = []
    for number, (scene, row) in enumerate(rows):
        name = f"{number:0{len(str(len(rows)))}}.webp"
        save_image(scene, folder / name)
        lines.append({"file_name": name, **row, "scene": scene.as_dict()})
    _write_lines(folder / "metadata.jsonl", lines)


def _write_pairs(folder: Path, seed: int) -> None:
    """Write an imagefolder: one short caption per training image, several elsewhere, unique within a split."""
    write_training_pairs(folder / "train", SPLITS["train"], TWIN_GROUPS, seed)
    for split, n in SPLITS.items():
        if split == "train":
            continue
        styles = (UNSEEN_STYLE,) if split == "unseen_style" else SEEN_STYLES
        write_test_pairs(folder / split, random.Random(f"{seed} pairs {split}"), n, styles)


def write_test_pairs(
    folder: Path,
    rng: random.Random,
    n: int,
    styles: tuple[int, ...],
    keep: Callable[[Scene], bool] = lambda scene: True,
    draw: Draw = drawing,
) -> None:
    """Write a split of `n` images with several captions each, unique within the split.

        write_test_pairs(Path("pairs/test"), random.Random(0), 500, SEEN_STYLES)

    keep: scenes are drawn until they satisfy it. Another `draw` than the kit's has no style number, so it is null.
    """
    folder.mkdir()
    rows: list[dict] = []
    used: set[str] = set()
    for number in range(n):
        scene = sample_scene(rng, styles=styles)
        # two images with the same caption would make retrieval ambiguous
        while not keep(scene) or short_caption(scene, rng) in used:
            scene = sample_scene(rng, styles=styles)
        captions = _unused_captions(scene, rng, used)
        row = {"file_name": f"{number:04d}.webp", "short": captions[0], "long": long_caption(scene, rng)}
        save_image(scene, folder / row["file_name"], draw)
        known = scene.as_dict() if draw is drawing else {**scene.as_dict(), "style": None}
        rows.append({**row, "captions": captions, "scene": known})
    _write_lines(folder / "metadata.jsonl", rows)


def _unused_captions(scene: Scene, rng: random.Random, used: set[str]) -> list[str]:
    captions: list[str] = []
    while len(captions) < CAPTIONS_PER_IMAGE:
        caption = short_caption(scene, rng)
        if caption not in used:
            captions.append(caption)
            used.add(caption)
    return captions


def _write_winoground(folder: Path, seed: int) -> None:
    for subfolder, styles in STYLE_FOLDERS.items():
        rng = random.Random(f"{seed} winoground {subfolder}")
        write_winoground(folder / subfolder, rng, WINOGROUND_KINDS, styles)


def write_winoground(
    folder: Path,
    rng: random.Random,
    kinds: Mapping[str, int],
    styles: tuple[int, ...] = SEEN_STYLES,
    keep: Callable[[Scene], bool] = lambda scene: True,
    draw: Draw = drawing,
) -> None:
    """Write the files of facebook/winoground, examples.jsonl and images/, with so many cases of each kind.

        write_winoground(Path("held_out"), random.Random(0), {"color": 40, "relation": 60}, keep=held_out)

    keep: cases are drawn until both scenes of a case satisfy it.
    """
    rows: list[dict] = []
    (folder / "images").mkdir(parents=True)
    for kind, n in kinds.items():
        cases = (case for case in swap_cases(rng, kind, styles) if all(map(keep, case.scenes)))
        for _, case in zip(range(n), cases, strict=False):
            names = [f"ex_{len(rows)}_img_{side}.webp" for side in (0, 1)]
            for name, scene in zip(names, case.scenes, strict=True):
                save_image(scene, folder / "images" / name, draw)
            tags = {"tag": kind, "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": _COLLAPSED_TAGS[kind]}
            images = {f"image_{side}": name for side, name in enumerate(names)}
            captions = {f"caption_{side}": caption for side, caption in enumerate(case.captions)}
            rows.append({"id": len(rows), **images, **captions, **tags, "layout": case.scenes[0].layout})
    _write_lines(folder / "examples.jsonl", rows)


def _write_sugarcrepe(folder: Path, seed: int) -> None:
    """Write SugarCrepe's seven JSON files, keyed by string index, and images/."""
    for subfolder in STYLE_FOLDERS:
        (folder / subfolder / "images").mkdir(parents=True)
        cases, scenes = sugarcrepe_sample(seed, subfolder)
        for category, entries in cases.items():
            write_json(folder / subfolder / f"{category}.json", entries)
        for name, scene in scenes.items():
            save_image(scene, folder / subfolder / "images" / name)


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

"""Samples in the formats of real data: an imagefolder of pairs, Winoground's own files, SugarCrepe's seven."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vladva_kit.data import SAMPLES
from vladva_kit.emoji_world.captions import long_caption, pair_caption, phrase, short_caption
from vladva_kit.emoji_world.drawings import own_tints
from vladva_kit.emoji_world.nouns import SEEN_STYLES, SIZES, TINTS, UNSEEN_STYLE
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import LAYOUTS, WORDS, Scene, Thing, fits, sample_scene, swapped
from vladva_kit.emoji_world.truth import is_true

DRAWN = tuple(name for name in SAMPLES if name != "photos")
PICTURE_SIZE = 160  # pixels; the towers shrink it to their own size
SPLITS = {"train": 2400, "validation": 200, "test": 500, "unseen_style": 500}
CAPTIONS_PER_PICTURE = 3  # in validation, test and unseen_style
WINOGROUND_KINDS = {"object": 40, "tint": 40, "size": 40, "relation": 60}
SUGARCREPE_EACH = 60
_COLLAPSED = {"object": "Object", "tint": "Attribute", "size": "Attribute", "relation": "Relation"}
_STYLES = {"": SEEN_STYLES, "unseen_style": (UNSEEN_STYLE,)}  # folder within a benchmark -> styles


def write_sample(name: str, folder: Path, seed: int = 0) -> Path:
    """Draws a sample into `folder`, which must not exist yet: whole or not at all.

        write_sample("winoground_mini", Path("winoground_mini"))

    Raises KeyError for a name that is not drawn, FileExistsError when the folder exists.
    """
    from vladva_kit.emoji_world import miniatures

    writer: Callable[[Path, int], None] = {
        "emoji_pairs": _write_pairs,
        "winoground_mini": _write_winoground,
        "sugarcrepe_mini": _write_sugarcrepe,
        "sugarcrepe_pp_mini": miniatures.write_sugarcrepe_pp,
        "word_order_mini": miniatures.write_word_order,
        "captions_mini": miniatures.write_captions,
        "classification_mini": miniatures.write_classification,
        "vqa_mini": miniatures.write_vqa,
    }[name]
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


@dataclass(frozen=True)
class SwapCase:
    """Two scenes and the two captions that tell them apart by the order of the same words."""

    kind: str
    scenes: tuple[Scene, Scene]
    captions: tuple[str, str]


def swap_cases(rng: random.Random, kind: str, styles: tuple[int, ...] = SEEN_STYLES) -> Iterator[SwapCase]:
    """Endless Winoground-like cases of a kind: "object", "tint", "size" or "relation".

    next(swap_cases(random.Random(0), "tint")).captions
    # ("a red dog to the left of a blue cat", "a blue dog to the left of a red cat")
    """
    fields = {"object": ("noun",), "tint": ("tint",), "size": ("size",), "relation": ()}[kind]
    while True:
        scene = sample_scene(rng, 2, styles, tinted=1.0 if kind in ("tint", "object") else None)
        first, second = scene.things
        other = replace(swapped(scene, *fields), seed=rng.randrange(2**31))
        if first.count != second.count or any(getattr(first, f) == getattr(second, f) for f in fields):
            continue
        if kind == "object" and first.tint == second.tint:
            continue
        order = rng.choice([(0, 1), (1, 0)])
        captions = tuple(pair_caption(one, *order, kind == "size") for one in (scene, other))
        if (
            fits(other)
            and not is_true(captions[1], scene)
            and sorted(captions[0].split()) == sorted(captions[1].split())
        ):
            yield SwapCase(kind, (scene, other), captions)


def _write_winoground(folder: Path, seed: int) -> None:
    """facebook/winoground's own files: examples.jsonl and images/."""
    for within, styles in _STYLES.items():
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


def sugarcrepe_case(category: str, scene: Scene, rng: random.Random) -> tuple[str, str] | None:
    """A true and a false caption of a scene of two things that differ as the category says; None where they can't.

    sugarcrepe_case("swap_att", scene, rng)   # ("a red dog above a blue cat", "a blue dog above a red cat")
    """
    order = rng.choice([(0, 1), (1, 0)])
    sized = category.endswith("att") and rng.random() < 0.4
    true = pair_caption(scene, *order, sized)
    false = _FALSE[category](scene, order, sized, rng)
    return (true, false) if false and not is_true(false, scene) else None


def _replaced(scene: Scene, index: int, thing: Thing) -> Scene:
    return replace(scene, things=tuple(thing if i == index else old for i, old in enumerate(scene.things)))


def _absent(scene: Scene, rng: random.Random) -> str:
    return rng.choice([word for word in WORDS if all(word != thing.noun for thing in scene.things)])


def _replace_obj(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str:
    index = rng.randrange(2)
    other = replace(scene.things[index], noun=_absent(scene, rng))
    return pair_caption(_replaced(scene, index, other), *order, sized)


def _replace_att(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str | None:
    tinted = [index for index in (0, 1) if scene.things[index].tint]
    if sized or not tinted:
        index = rng.randrange(2)
        size = next(size for size in SIZES if size != scene.things[index].size)
        changed = _replaced(scene, index, replace(scene.things[index], size=size))
        return pair_caption(changed, *order, True) if sized else None
    index = rng.choice(tinted)
    tint = rng.choice([tint for tint in TINTS if tint not in own_tints(scene.things[index].noun)])
    return pair_caption(_replaced(scene, index, replace(scene.things[index], tint=tint)), *order, sized)


def _replace_rel(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str:
    true = scene.relation(*order)
    others = [relation for pair in LAYOUTS.values() for relation in pair if relation != true]
    relation = rng.choice([*others, *LAYOUTS[scene.layout]])  # the converse is drawn more often
    first, second = (phrase(scene.things[index], sized) for index in order)
    return f"{first} {relation} {second}"


def _swap_obj(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str | None:
    return (
        pair_caption(swapped(scene, "noun"), *order, sized) if scene.things[0].count == scene.things[1].count else None
    )


def _swap_att(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str | None:
    first, second = scene.things
    if sized and first.size != second.size:
        return pair_caption(swapped(scene, "size"), *order, sized)
    if first.tint and second.tint and first.tint != second.tint:
        return pair_caption(swapped(scene, "tint"), *order, sized)
    return None


def _add_obj(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str:
    added = phrase(Thing(_absent(scene, rng)), sized=False)
    return f"{pair_caption(scene, *order, sized)} and {added}"


def _add_att(scene: Scene, order: tuple[int, int], sized: bool, rng: random.Random) -> str | None:
    plain = [index for index in (0, 1) if not scene.things[index].tint]
    if not plain:
        return None
    index = rng.choice(plain)
    tint = rng.choice([tint for tint in TINTS if tint not in own_tints(scene.things[index].noun)])
    return pair_caption(_replaced(scene, index, replace(scene.things[index], tint=tint)), *order, sized)


_FALSE = {
    "add_obj": _add_obj,
    "add_att": _add_att,
    "replace_obj": _replace_obj,
    "replace_att": _replace_att,
    "replace_rel": _replace_rel,
    "swap_obj": _swap_obj,
    "swap_att": _swap_att,
}


def sugarcrepe_sample(seed: int, within: str = "") -> tuple[dict[str, dict[str, dict]], dict[str, Scene]]:
    """The cases of sugarcrepe_mini by category and index, and the scenes of its pictures by their file names."""
    styles = _STYLES[within]
    rng = random.Random(f"{seed} sugarcrepe {within}")
    scenes = [sample_scene(rng, 2, styles) for _ in range(3 * SUGARCREPE_EACH)]
    cases: dict[str, dict[str, dict]] = {category: {} for category in _FALSE}
    for category, entries in cases.items():
        left = rng.sample(range(len(scenes)), len(scenes))  # few pictures serve many cases
        while len(entries) < SUGARCREPE_EACH:
            if not left:
                left.append(len(scenes))
                scenes.append(sample_scene(rng, 2, styles))
            number = left.pop()
            made = sugarcrepe_case(category, scenes[number], rng)
            if made:
                name = f"{number:06d}.webp"
                entries[str(len(entries))] = {"filename": name, "caption": made[0], "negative_caption": made[1]}
    shown = sorted({entry["filename"] for entries in cases.values() for entry in entries.values()})
    return cases, {name: scenes[int(Path(name).stem)] for name in shown}


def _write_sugarcrepe(folder: Path, seed: int) -> None:
    """SugarCrepe's own files: seven JSON files, keyed by string index, and images/."""
    for within in _STYLES:
        (folder / within / "images").mkdir(parents=True)
        cases, scenes = sugarcrepe_sample(seed, within)
        for category, entries in cases.items():
            (folder / within / f"{category}.json").write_text(json.dumps(entries, indent=1) + "\n")
        for name, scene in scenes.items():
            _save(scene, folder / within / "images" / name)

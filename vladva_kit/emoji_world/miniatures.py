"""Miniatures of further benchmarks in their own formats; all but one show the pictures of sugarcrepe_mini."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from vladva_kit.emoji_world.captions import pair_caption, short_caption
from vladva_kit.emoji_world.cases import PICTURE_SIZE, sugarcrepe_case, sugarcrepe_sample
from vladva_kit.emoji_world.nouns import SEEN_STYLES
from vladva_kit.emoji_world.questions import KINDS, questions
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import LAYOUTS, WORDS, Scene, sample_scene
from vladva_kit.emoji_world.truth import is_true

EACH = 40  # cases a category or file
CLASSES = tuple(sorted(WORDS)[:: max(1, len(WORDS) // 12)][:12])
CLASS_PICTURES = 6  # of each class
PEOPLE = 10  # answers to a question, as VQA v2 has them


def write_sugarcrepe_pp(folder: Path, seed: int) -> None:
    """SugarCrepe++'s five lists: a scene told from either end is two true captions in different words."""
    rng, (_, scenes) = random.Random(f"{seed} sugarcrepe_pp"), sugarcrepe_sample(seed)
    for category in ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att"):
        entries: list[dict[str, Any]] = []
        for name, scene in _shuffled(scenes, rng):
            made = sugarcrepe_case(category, scene, rng)
            second = _from_the_other_end(scene, made[0]) if made else None
            if second and len(entries) < EACH:
                texts = {"caption": made[0], "caption2": second, "negative_caption": made[1]}
                entries.append({"id": len(entries), "filename": name, **texts})
        _write(folder / f"{category}.json", entries)


def _from_the_other_end(scene: Scene, caption: str) -> str | None:
    """What says the same, beginning with the other thing: "a cat to the right of a dog"."""
    for order in ((0, 1), (1, 0)):
        for sized in (False, True):
            if pair_caption(scene, *order, sized) == caption:
                other = pair_caption(scene, *order[::-1], sized)
                return other if is_true(other, scene) else None
    return None


def write_word_order(folder: Path, seed: int) -> None:
    """ARO's files: two of swapped words with boxes, two of captions with four shuffled ones."""
    rng, (_, scenes) = random.Random(f"{seed} word order"), sugarcrepe_sample(seed)
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": PICTURE_SIZE, "bbox_h": PICTURE_SIZE}
    for file, category in (("visual_genome_relation", "swap_obj"), ("visual_genome_attribution", "swap_att")):
        entries: list[dict[str, Any]] = []
        for name, scene in _shuffled(scenes, rng):
            made = sugarcrepe_case(category, scene, rng)
            if made and sorted(made[0].split()) == sorted(made[1].split()) and len(entries) < EACH:
                entry = {"image_id": int(Path(name).stem), "image_path": name, **box}
                entry |= {"true_caption": made[0], "false_caption": made[1]}
                entries.append(entry | _told_apart_by(category, scene, made[0]))
        _write(folder / f"{file}.json", entries)
    for file in ("coco_order", "flickr30k_order"):
        cases = [
            {"image": name, "caption_options": _shuffles(short_caption(scene, rng), rng)}
            for name, scene in _shuffled(scenes, rng)[:EACH]
        ]
        _write(folder / f"{file}.json", cases)


def _told_apart_by(category: str, scene: Scene, caption: str) -> dict[str, Any]:
    first, second = scene.things
    if category == "swap_att":
        by_color = bool(first.color and second.color and first.color in caption and second.color in caption)
        return {"attributes": [first.color, second.color] if by_color else [first.size, second.size]}
    relations = [relation for pair in LAYOUTS.values() for relation in pair if f" {relation} " in caption]
    return {"relation_name": relations[0]}


def _shuffles(caption: str, rng: random.Random, n: int = 4) -> list[str]:
    words, options = caption.split(), [caption]
    while len(options) <= n:
        shuffled = " ".join(rng.sample(words, len(words)))
        if shuffled != caption:
            options.append(shuffled)
    return options


def write_captions(folder: Path, seed: int) -> None:
    """Karpathy's split files with six captions an image, and nocaps' annotations with ten."""
    rng, (_, scenes) = random.Random(f"{seed} captions"), sugarcrepe_sample(seed)
    pictures = _shuffled(scenes, rng)[: 2 * EACH]
    for file in ("coco", "flickr30k"):
        images = [
            {
                "filename": name,
                "imgid": number,
                "split": "test" if number < EACH else "train",
                "sentences": [{"raw": short_caption(scene, rng)} for _ in range(6)],
            }
            for number, (name, scene) in enumerate(pictures)
        ]
        _write(folder / f"dataset_{file}.json", {"images": images, "dataset": file})
    chosen = list(enumerate(pictures[:EACH]))
    captions = [(number, short_caption(scene, rng)) for number, (_, scene) in chosen for _ in range(10)]
    content = {
        "images": [{"id": number, "file_name": name, "domain": "in-domain"} for number, (name, _) in chosen],
        "annotations": [
            {"id": index, "image_id": number, "caption": text} for index, (number, text) in enumerate(captions)
        ],
    }
    _write(folder / "nocaps_val_4500_captions.json", content)


def write_classification(folder: Path, seed: int) -> None:
    """An ImageFolder: test/<class>/*.webp, each picture with that one kind of thing."""
    rng = random.Random(f"{seed} classification")
    count = dict.fromkeys(CLASSES, 0)
    for name in CLASSES:
        (folder / "test" / name).mkdir(parents=True)
    while min(count.values()) < CLASS_PICTURES:
        scene = sample_scene(rng, 1, SEEN_STYLES)
        noun = scene.things[0].noun
        if count.get(noun, CLASS_PICTURES) < CLASS_PICTURES:
            render(scene, PICTURE_SIZE).save(folder / "test" / noun / f"{count[noun]:03d}.webp", quality=88)
            count[noun] += 1


def write_vqa(folder: Path, seed: int) -> None:
    """VQA v2's questions and annotations; all people agree, since the truth of a scene is known."""
    rng, (_, scenes) = random.Random(f"{seed} vqa"), sugarcrepe_sample(seed)
    asked, annotations = [], []
    for number, (name, scene) in enumerate(_shuffled(scenes, rng)[: 2 * EACH]):
        kinds = [kind for kind in KINDS if questions(scene, kind)]
        question = rng.choice(questions(scene, rng.choice(kinds)))
        kind = "yes/no" if question.answer in ("yes", "no") else "number" if question.kind == "count" else "other"
        key = {"question_id": number, "image_id": int(Path(name).stem)}
        asked.append({**key, "question": question.text})
        answers = [{"answer": question.answer, "answer_id": person + 1} for person in range(PEOPLE)]
        annotations.append({**key, "answer_type": kind, "question_type": question.kind, "answers": answers})
    _write(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    _write(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})


def _shuffled(scenes: dict[str, Scene], rng: random.Random) -> list[tuple[str, Scene]]:
    return rng.sample(list(scenes.items()), len(scenes))


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")

"""Miniatures of further benchmarks in their official formats; all but one use the images of sugarcrepe_mini."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.world.cases import sugarcrepe_sample
from vladva_kit.emoji_world.captions import pair_caption, short_caption
from vladva_kit.emoji_world.cases import sugarcrepe_captions
from vladva_kit.emoji_world.drawings import drawing
from vladva_kit.emoji_world.nouns import SEEN_STYLES
from vladva_kit.emoji_world.questions import KINDS, questions
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import LAYOUTS, WORDS, Scene, sample_scene

Draw = Callable[[str, int, str | None], Image.Image]  # noun, style and color to an RGBA sprite
SAMPLE_IMAGE_SIZE = 160  # pixels; image processors resize it to the model's own size
N_CASES = 40  # per category or file
CLASSES = tuple(sorted(WORDS)[:: max(1, len(WORDS) // 12)][:12])
IMAGES_PER_CLASS = 6
ANSWERS_PER_QUESTION = 10  # as in VQA v2


def save_image(scene: Scene, path: Path, draw: Draw = drawing) -> None:
    """Render a scene at the samples' size and save it."""
    render(scene, SAMPLE_IMAGE_SIZE, draw).save(path, quality=88)


def write_json(path: Path, content: Any) -> None:
    """Write JSON in the samples' layout."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_sugarcrepe_pp(folder: Path, seed: int) -> None:
    """Write SugarCrepe++'s five lists; the second true caption names the two things in the opposite order."""
    rng, scenes = random.Random(f"{seed} sugarcrepe_pp"), sugarcrepe_sample(seed)[1]
    for category in ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att"):
        entries: list[dict[str, Any]] = []
        for name, scene in _shuffled(scenes, rng):
            captions = sugarcrepe_captions(category, scene, rng)
            if captions and len(entries) < N_CASES:
                true, false = captions
                texts = {"caption": true, "caption2": _reversed_captions(scene)[true], "negative_caption": false}
                entries.append({"id": len(entries), "filename": name, **texts})
        write_json(folder / f"{category}.json", entries)


def _reversed_captions(scene: Scene) -> dict[str, str]:
    """Map each pair caption to its equivalent, "a dog to the left of a cat" to "a cat to the right of a dog"."""
    cases = [(a, b, sized) for a, b in ((0, 1), (1, 0)) for sized in (False, True)]
    return {pair_caption(scene, a, b, sized): pair_caption(scene, b, a, sized) for a, b, sized in cases}


def write_word_order(folder: Path, seed: int) -> None:
    """Write ARO's files: two of swapped words with boxes, two of captions with four shuffled versions."""
    rng, scenes = random.Random(f"{seed} word order"), sugarcrepe_sample(seed)[1]
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": SAMPLE_IMAGE_SIZE, "bbox_h": SAMPLE_IMAGE_SIZE}
    for file, category in (("visual_genome_relation", "swap_obj"), ("visual_genome_attribution", "swap_att")):
        entries: list[dict[str, Any]] = []
        for name, scene in _shuffled(scenes, rng):
            captions = sugarcrepe_captions(category, scene, rng)
            if captions and sorted(captions[0].split()) == sorted(captions[1].split()) and len(entries) < N_CASES:
                entry = {"image_id": int(Path(name).stem), "image_path": name, **box}
                entry |= {"true_caption": captions[0], "false_caption": captions[1]}
                entries.append(entry | _swapped_terms(category, scene, captions[0]))
        write_json(folder / f"{file}.json", entries)
    for file in ("coco_order", "flickr30k_order"):
        cases = [
            {"image": name, "caption_options": _shuffles(short_caption(scene, rng), rng)}
            for name, scene in _shuffled(scenes, rng)[:N_CASES]
        ]
        write_json(folder / f"{file}.json", cases)


def _swapped_terms(category: str, scene: Scene, caption: str) -> dict[str, Any]:
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
    """Write Karpathy's split files with six captions per image, and nocaps' annotations with ten."""
    rng, scenes = random.Random(f"{seed} captions"), sugarcrepe_sample(seed)[1]
    chosen = list(enumerate(_shuffled(scenes, rng)[: 2 * N_CASES]))
    for file in ("coco", "flickr30k"):
        images = [
            {
                "filename": name,
                "imgid": number,
                "split": "test" if number < N_CASES else "train",
                "sentences": [{"raw": short_caption(scene, rng)} for _ in range(6)],
            }
            for number, (name, scene) in chosen
        ]
        write_json(folder / f"dataset_{file}.json", {"images": images, "dataset": file})
    chosen = chosen[:N_CASES]
    captions = [(number, short_caption(scene, rng)) for number, (_, scene) in chosen for _ in range(10)]
    content = {
        "images": [{"id": number, "file_name": name, "domain": "in-domain"} for number, (name, _) in chosen],
        "annotations": [
            {"id": index, "image_id": number, "caption": text} for index, (number, text) in enumerate(captions)
        ],
    }
    write_json(folder / "nocaps_val_4500_captions.json", content)


def write_classification(folder: Path, seed: int) -> None:
    """Write an ImageFolder, test/<class>/*.webp; each image shows things of its class only."""
    rng = random.Random(f"{seed} classification")
    count = dict.fromkeys(CLASSES, 0)
    for name in CLASSES:
        (folder / "test" / name).mkdir(parents=True)
    while min(count.values()) < IMAGES_PER_CLASS:
        scene = sample_scene(rng, 1, SEEN_STYLES)
        noun = scene.things[0].noun
        if count.get(noun, IMAGES_PER_CLASS) < IMAGES_PER_CLASS:
            save_image(scene, folder / "test" / noun / f"{count[noun]:03d}.webp")
            count[noun] += 1


def write_vqa(folder: Path, seed: int) -> None:
    """Write VQA v2's questions and annotations; all annotators agree, since the scene determines the answer."""
    rng, scenes = random.Random(f"{seed} vqa"), sugarcrepe_sample(seed)[1]
    asked, annotations = [], []
    for number, (name, scene) in enumerate(_shuffled(scenes, rng)[: 2 * N_CASES]):
        kinds = [kind for kind in KINDS if questions(scene, kind)]
        question = rng.choice(questions(scene, rng.choice(kinds)))
        answer_type = {"exists": "yes/no", "whether": "yes/no", "count": "number"}.get(question.kind, "other")
        key = {"question_id": number, "image_id": int(Path(name).stem)}
        asked.append({**key, "question": question.text})
        answers = [{"answer": question.answer, "answer_id": index + 1} for index in range(ANSWERS_PER_QUESTION)]
        annotations.append({**key, "answer_type": answer_type, "question_type": question.kind, "answers": answers})
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    write_json(folder / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})


def _shuffled(scenes: dict[str, Scene], rng: random.Random) -> list[tuple[str, Scene]]:
    return rng.sample(list(scenes.items()), len(scenes))

"""Draws the README's picture, scenes and what emoji-llava says of them: python docs/emoji_world.py"""

import random
import textwrap
from pathlib import Path

from matplotlib.figure import Figure

import vladva_kit as vk
from vladva_kit.emoji_world.nouns import UNSEEN_STYLE
from vladva_kit.emoji_world.questions import sample_question
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import sample_scene
from vladva_kit.emoji_world.truth import is_true, words_of


def main(path: Path, columns: int = 5, rows: int = 2, seed: int = 5) -> None:
    """One panel a scene of the unseen style: the LVLM's caption, a question and its answer; ✗ where it is wrong."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng, styles=(UNSEEN_STYLE,)) for _ in range(columns * rows)]
    pictures = [render(scene, 288) for scene in scenes]
    asked = [sample_question(scene, rng) for scene in scenes]
    embedder = vk.Embedder(vk.load_lvlm("emoji-llava"))
    captions = embedder.generate_batch(pictures, ["provide a short caption:"] * len(pictures))
    answers = embedder.generate_batch(pictures, [question.text for question in asked])
    figure = Figure(figsize=(2.6 * columns, 3.5 * rows), layout="constrained")
    for axes, picture, scene, caption, question, answer in zip(
        figure.subplots(rows, columns).flat, pictures, scenes, captions, asked, answers, strict=True
    ):
        right = (is_true(caption, scene), words_of(answer) == words_of(question.answer))
        marks = ["✓" if one else "✗" for one in right]
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        lines = textwrap.wrap(f"{caption} {marks[0]}", 34) + textwrap.wrap(f"{question.text} {answer} {marks[1]}", 34)
        axes.set_xlabel("\n".join(lines), fontsize=9)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main(Path(__file__).parent / "emoji_world.png")

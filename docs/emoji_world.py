"""Draw the README's figure of scenes with emoji-llava's captions and answers: python docs/emoji_world.py"""

import io
import random
import textwrap
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import vladva_kit as vk
from vladva_kit.emoji_world.nouns import UNSEEN_STYLE
from vladva_kit.emoji_world.questions import sample_question
from vladva_kit.emoji_world.render import render
from vladva_kit.emoji_world.scenes import sample_scene
from vladva_kit.emoji_world.truth import is_true, words_of
from vladva_kit.plots.style import as_png


def main(path: Path, columns: int = 5, rows: int = 2, seed: int = 5) -> None:
    """Draw one panel per scene of the unseen style: caption, question and answer, each marked ✓ or ✗."""
    rng = random.Random(seed)
    scenes = [sample_scene(rng, styles=(UNSEEN_STYLE,)) for _ in range(columns * rows)]
    images = [render(scene, 288) for scene in scenes]
    questions = [sample_question(scene, rng) for scene in scenes]
    embedder = vk.Embedder(vk.load_lvlm("emoji-llava"))
    captions = embedder.generate_batch(images, ["provide a short caption:"] * len(images))
    answers = embedder.generate_batch(images, [question.text for question in questions])
    figure = Figure(figsize=(2.6 * columns, 3.5 * rows), layout="constrained")
    for axes, image, scene, caption, question, answer in zip(
        figure.subplots(rows, columns).flat, images, scenes, captions, questions, answers, strict=True
    ):
        correct = (is_true(caption, scene), words_of(answer) == words_of(question.answer))
        marks = ["✓" if ok else "✗" for ok in correct]
        axes.imshow(image)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        lines = textwrap.wrap(f"{caption} {marks[0]}", 34) + textwrap.wrap(f"{question.text} {answer} {marks[1]}", 34)
        axes.set_xlabel("\n".join(lines), fontsize=9)
    path.parent.mkdir(exist_ok=True)
    # a palette takes less than half the bytes
    Image.open(io.BytesIO(as_png(figure, dpi=100))).convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(__file__).parent / "emoji_world.png")

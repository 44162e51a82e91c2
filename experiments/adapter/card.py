"""Write the model card of emoji-llava-vladva from its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.adapter.train import BATCH_SIZE, settings
from experiments.world.twins import HELD_OUT_SHARE
from vladva_kit.data.hard_batches import TWINS_AND_NEIGHBORS
from vladva_kit.evaluation.overview import COLUMNS, overview
from vladva_kit.evaluation.tables import markdown_rows, markdown_table

COMMAND = "python -m experiments.adapter"
_HEAD = """\
---
library_name: peft
base_model: emoji-llava
license: apache-2.0
pipeline_tag: feature-extraction
tags: [image-text-retrieval, compositionality, vladva]
---
# emoji-llava-vladva

Soft prompts and LoRA that turn emoji-llava into an image-text embedding model, trained by VladVA (arXiv 2412.04378).

```python
import vladva_kit as vk

embedder = vk.Embedder.from_pretrained("emoji-llava-vladva")
embedder.similarity(images, ["a red dog above a blue cat", "a blue dog above a red cat"])
```

`peft` alone loads LoRA but not the soft prompts: use the kit, or `vladva export`.
"""


def model_card(results: Mapping[str, Any]) -> str:
    """Return the card as Markdown: `model_card(json.loads(Path("docs/adapter.json").read_text()))`."""
    train = results["training"]
    parts = [_HEAD, "## Results\n", *(f"- {sentence}" for sentence in results["effect"])]
    for style in ("unseen style", "seen"):
        rows = [[model, *cells.values()] for model, cells in overview(results, style).items()]
        parts += ["", markdown_rows([f"{style}, percent", *COLUMNS], rows, "l" + "r" * len(COLUMNS)).rstrip()]
    options = settings(None, train["steps"])
    mix = ", ".join(f"{100 * share:g} % {name}" for name, share in TWINS_AND_NEIGHBORS.items())
    parts += [
        "\n## Training\n",
        f"`{COMMAND}`: {train['steps']:,} steps of {BATCH_SIZE} pairs ({mix}) on {train['pairs']:,} drawn pairs, "
        f"{train['seconds'] / 60:.0f} minutes on {train['machine']}. AdamW at {options.learning_rate:g}, the soft "
        f"prompts at {options.soft_prompt_learning_rate:g}, cosine schedule, next-token weight "
        f"{options.next_token_weight:g}, LoRA of rank 16. One noun pair and one color-noun pair in {HELD_OUT_SHARE} "
        "never occur in the training images.\n",
        f"After the training, LoRA's update is multiplied by {train['lora_weight']:g} (`vk.interpolate`). Rule: the "
        "largest weight at which true short captions on 200 validation images are within 2 points of the base's "
        f"({train['base_captions']:.1f} %), or the smallest weight if there is none.\n",
        weight_table(train["weights"]),
        "\n## Validation while training\n",
        curve_table(train["validation"]),
        "\n## Limits\n",
        "The training images are generated scenes of emoji in the seen styles; photos are outside its domain. The "
        "nouns that emoji-llava misread most often in the unseen style were dropped, so scores there are optimistic. "
        "OpenMoji is a second held-out style, by which nothing was chosen: `vladva eval emoji-llava-vladva --data "
        "openmoji`.\n",
        "<details><summary>All scores, with 95 % intervals</summary>\n",
        markdown_table(results),
        "</details>\n",
    ]
    return "\n".join(parts)


def weight_table(weights: Sequence[Mapping[str, float]]) -> str:
    """Tabulate validation scores by LoRA's weight."""
    heading = ["weight", "true captions (%)", "Winoground group (%)", "text → image R@1", "image → text R@1"]
    keys = ("captions", "winoground_group", "text_to_image_r1", "image_to_text_r1")
    rows = [[f"{row['weight']:g}", *(f"{row[key]:.1f}" for key in keys)] for row in weights]
    return markdown_rows(heading, rows, "l" + "r" * len(keys))


def curve_table(validation: Sequence[Mapping[str, float]]) -> str:
    """Tabulate the validation metrics by step."""
    keys = ("winoground_group", "text_to_image_r1", "image_to_text_r1")
    rows = [[f"{row['step']:,.0f}", *(f"{row[f'eval_{key}']:.1f}" for key in keys)] for row in validation]
    return markdown_rows(["step", "Winoground group (%)", "text → image R@1", "image → text R@1"], rows, "lrrr")

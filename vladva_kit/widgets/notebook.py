"""What the notebooks share: pairs, Winoground cases, a CLIP and an adapter that fit the model of the form."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from vladva_kit.data.hard_batches import groups_of
from vladva_kit.data.pairs import Pair, load_pairs
from vladva_kit.data.samples import sample
from vladva_kit.embedder.adapter import SHIPPED_ADAPTER
from vladva_kit.embedder.embedder import Embedder, attach
from vladva_kit.embedder.identity import versions
from vladva_kit.evaluation import ImageTextEncoder
from vladva_kit.evaluation.baselines import load_baseline
from vladva_kit.models.load import load_lvlm
from vladva_kit.training.fit import fit
from vladva_kit.training.settings import Settings
from vladva_kit.widgets.static_view import STATIC_STYLE, saved_by_jupyter

RENDERED = "emoji-llava"  # knows rendered scenes only; every other model gets photos
PHOTOS = "UCSC-VLAA/Recap-COCO-30K"  # public: photos of COCO with short and long captions
CLIP = "openai/clip-vit-base-patch32"
MAX_PIXELS = 512 * 512
HELD_OUT = 1000  # the first photos are never trained on
N_TRAIN = 320  # photos of the short fine-tune
SHORT_RUN = Settings(steps=20, batch_size=16, micro_batch_size=4, learning_rate=1e-4)


def notebook(
    model: str, n: int = 300, seed: int = 0, *, adapter: str = "", photos: str = PHOTOS, baseline: str = ""
) -> NotebookSetup:
    """Set up a notebook for a model: `vk.notebook("emoji-llava", n=500).pairs`.

    Turns the progress bars of loaded weights and the libraries' FutureWarnings off. `n`: held-out pairs. `adapter`: a
    folder or Hub id; "" takes the shipped adapter for emoji-llava, and trains a short one, once, for any other model.
    `photos`: a dataset with the columns image, caption and recaption, for models other than emoji-llava. `baseline`:
    what `load_baseline` takes; "" takes emoji-clip for emoji-llava and a CLIP of OpenAI for other models.
    """
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # raised inside the libraries
    if saved_by_jupyter():  # the saved progress bars of other libraries are hidden too
        from IPython.display import HTML, display

        display(HTML(STATIC_STYLE))
    return NotebookSetup(model, n, seed, adapter, photos, baseline)


@dataclass(frozen=True)
class NotebookSetup:
    """Data and models of a notebook, loaded on first use."""

    model: str
    n: int
    seed: int
    adapter: str
    photos: str
    baseline: str

    @property
    def rendered(self) -> bool:
        """Whether the images are rendered scenes; photos otherwise."""
        return self.model == RENDERED

    @cached_property
    def pairs(self) -> list[Pair]:
        """The first `n` held-out pairs: rendered in a style that training does not use, or at most 1,000 photos."""
        return (
            load_pairs(sample("emoji_pairs"), "unseen_style")[: self.n]
            if self.rendered
            else self._photos(0, min(self.n, HELD_OUT))
        )

    def training_pairs(self, n: int) -> list[Pair]:
        """Return about `n` pairs for training, none of which is held out: `setup.training_pairs(500)`.

        Of rendered scenes, half are random and half are whole groups of twins.
        """
        if not self.rendered:
            return self._photos(HELD_OUT, n)
        pairs = load_pairs(sample("emoji_pairs"), "train")
        grouped = [pairs[index] for group in groups_of(pairs) for index in group]
        names = list(dict.fromkeys(pair.group for pair in grouped[: n // 2]))
        chosen = [pair for pair in grouped if pair.group in names]
        return [pair for pair in pairs if pair.group is None][: n - len(chosen)] + chosen

    @property
    def winoground(self) -> Path:
        """A folder with Winoground cases: rendered ones in the unseen style, or the four of the shipped photos."""
        return sample("winoground_mini") / "unseen_style" if self.rendered else sample("photos") / "winoground"

    @cached_property
    def clip(self) -> ImageTextEncoder:
        """The baseline."""
        return load_baseline(self.baseline or ("emoji-clip" if self.rendered else CLIP))

    @cached_property
    def embedder(self) -> Embedder:
        """The model with its adapter; a short fine-tune is kept in ~/.cache/vladva_kit/adapters for all notebooks."""
        if self.adapter or self.rendered:
            return Embedder.from_pretrained(self.adapter or SHIPPED_ADAPTER)
        run = [self.model, self.photos, self.seed, repr(SHORT_RUN), N_TRAIN, versions()]
        name = f"{Path(self.model).name}-{hashlib.sha256(json.dumps(run).encode()).hexdigest()[:12]}"
        folder = Path.home() / ".cache" / "vladva_kit" / "adapters" / name
        if not folder.is_dir():
            print(f"no adapter given: {SHORT_RUN.steps} steps of fine-tuning, kept in {folder.parent}")
            embedder = attach(load_lvlm(self.model, max_pixels=MAX_PIXELS), seed=self.seed, quiet=True)
            fit(embedder, self.training_pairs(N_TRAIN), SHORT_RUN, on_error="skip")
            embedder.save_pretrained(folder)
        return Embedder.from_pretrained(folder)

    def _photos(self, start: int, n: int) -> list[Pair]:
        from datasets import Image, load_dataset

        rows = load_dataset(self.photos, split="train", streaming=True).cast_column("image", Image(decode=False))
        return [Pair(row["image"]["bytes"], row["caption"], row["recaption"]) for row in islice(rows, start, start + n)]

"""Type a caption and see which pictures a model finds; give a picture and see which captions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vladva_kit.evaluation import ImageTextEncoder
from vladva_kit.plots.style import image_uri, thumbnail
from vladva_kit.widgets.base import WidgetBase, Work, clear_upload, controls, uploaded
from vladva_kit.widgets.cached_embedder import CachedEmbedder, cached_embedder
from vladva_kit.widgets.page import View, page, unseen_words

if TYPE_CHECKING:
    from PIL import Image

NONE = -1  # the list's entry for no picture; ipywidgets takes None for "nothing chosen"
AT_ONCE = 16  # pictures or captions between two looks at the cancel button


def best(scores: Any, k: int) -> list[int]:
    """Places of the `k` highest scores, best first; of equal ones the earlier: `best([0.1, 0.9, 0.5], 2) == [1, 2]`."""
    return np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:k].tolist()


def found_pictures_view(
    caption: str,
    scores: Mapping[str, Any],
    pictures: Sequence[Image.Image | Path | bytes],
    captions: Sequence[str],
    k: int = 5,
    unseen: Collection[str] = (),
) -> View:
    """The pictures that each model finds: `found_pictures_view("a dog", {"base": scores}, pictures, captions)`.

    `scores[model]` (n_images,); `captions` are the pictures' own, and mark the right one where it is the caption.
    Raises ValueError for another number of scores.
    """
    models = []
    for name, values in _checked(scores, len(pictures)).items():
        found = [
            {
                "src": image_uri(thumbnail(pictures[place])),
                "caption": captions[place],
                "score": f"{values[place]:.3f}",
                "right": captions[place].strip().lower() == caption.strip().lower(),
            }
            for place in best(values, k)
        ]
        models.append({"name": name, "pictures": found})
    return page("retrieval_view", query_picture=None, query=caption, models=models, total=len(pictures), unseen=unseen)


def found_captions_view(
    picture: Image.Image | Path | bytes,
    scores: Mapping[str, Any],
    captions: Sequence[str],
    k: int = 5,
    own: str | None = None,
) -> View:
    """The captions that each model finds for a picture: `found_captions_view(photo, {"base": scores}, captions)`.

    `scores[model]` (n_texts,); `own` is the picture's caption where it has one. Raises ValueError for another number.
    """
    models = []
    for name, values in _checked(scores, len(captions)).items():
        found = [
            {"caption": captions[place], "score": f"{values[place]:.3f}", "right": captions[place] == own}
            for place in best(values, k)
        ]
        models.append({"name": name, "pictures": [], "captions": found})
    shown = image_uri(picture)
    return page("retrieval_view", query_picture=shown, query="", models=models, total=len(captions), unseen=())


def _checked(scores: Mapping[str, Any], n: int) -> dict[str, np.ndarray]:
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    wrong = [f"{name} {values.shape}" for name, values in arrays.items() if values.shape != (n,)]
    if wrong or not arrays or not n:
        raise ValueError(f"scores of shapes {', '.join(wrong) or 'none'}; needed is one score for each of {n}")
    return arrays


def encoded_in_pieces(
    models: Mapping[str, CachedEmbedder], pictures: Sequence[Any], captions: Sequence[str], at_once: int = AT_ONCE
) -> Iterator[None]:
    """Encodes a gallery a few at a time, for whoever looks it up later; yields after each piece."""
    for memory in models.values():
        for start in range(0, len(pictures), at_once):
            memory.encode_image(pictures[start : start + at_once])
            yield
        for start in range(0, len(captions), at_once):
            memory.encode_text(captions[start : start + at_once])
            yield


class RetrievalBox(WidgetBase):
    """A search box over pictures, and one over captions, for several models at once.

        RetrievalBox({"emoji-clip": vk.load_baseline(), "base": baseline}, pictures, captions)

    The gallery is encoded once, in a thread with a bar; `work.wait()` joins it. Caption i is picture i's own.
    Raises ValueError where there are not as many captions as pictures.
    """

    def __init__(
        self,
        models: Mapping[str, ImageTextEncoder],
        pictures: Sequence[Image.Image | Path | bytes],
        captions: Sequence[str],
        k: int = 5,
    ) -> None:
        super().__init__()
        if len(pictures) != len(captions) or not len(pictures):
            raise ValueError(f"{len(pictures)} pictures, {len(captions)} captions; give each picture one caption")
        self.models, self.pictures, self.captions = cached_embedder(models), list(pictures), list(captions)
        self.tokenizer = next(filter(None, (memory.tokenizer for memory in self.models.values())), None)
        self.ready = False
        self.work = Work()
        widgets = controls()
        self.caption = widgets.Text(
            value=self.captions[0], description="caption", continuous_update=False, layout=widgets.Layout(width="36em")
        )
        self.k = widgets.IntSlider(value=k, min=1, max=min(20, len(pictures)), description="show")
        options = [("search by caption", NONE), *((f"picture {n}", n - 1) for n in range(1, len(pictures) + 1))]
        self.picture = widgets.Dropdown(options=options, description="or by")
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your picture")
        self.caption.observe(lambda _: self._ask_by(NONE), "value")  # what was given last is what is looked for
        self.picture.observe(lambda change: self._ask_by(change["new"]), "value")
        self.follow(self.k, self.upload)
        rows = [[self.caption, self.k], [self.picture, self.upload]]
        self.box = widgets.VBox([*map(widgets.HBox, rows), self.work.box, self.view])
        self.encode()

    def _ask_by(self, picture: int) -> None:
        with self.laying():
            clear_upload(self.upload)
            self.picture.value = picture

    def encode(self) -> None:
        """Encodes the gallery in a thread; again after a cancel, with what is done left out."""
        pieces = encoded_in_pieces(self.models, self.pictures, self.captions)
        each = -(-len(self.pictures) // AT_ONCE)
        self.view.value = page("message_soft", text="The pictures are being looked at …")
        self.work.start(pieces, 2 * each * len(self.models), self._open, f"encoding {len(self.pictures)} pairs")

    def _open(self) -> None:
        self.ready = True
        self.refresh()

    def refresh(self, *_: object) -> None:
        """Draws anew once the gallery is encoded."""
        if self.ready:
            super().refresh()

    def draw(self) -> View:
        """What was found for the picture that was uploaded or chosen, else for the caption."""
        picture, own = uploaded(self.upload.value), None
        if picture is None and self.picture.value != NONE:
            picture, own = self.pictures[self.picture.value], self.captions[self.picture.value]
        if picture is not None:
            scores = {name: memory.similarity([picture], self.captions)[0] for name, memory in self.models.items()}
            return found_captions_view(picture, scores, self.captions, self.k.value, own)
        caption = self.caption.value
        scores = {name: memory.similarity(self.pictures, [caption])[:, 0] for name, memory in self.models.items()}
        unseen = unseen_words(self.tokenizer, caption)
        return found_pictures_view(caption, scores, self.pictures, self.captions, self.k.value, unseen)

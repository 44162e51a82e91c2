"""Type a caption and see which images each model finds; choose an image and see which captions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vladva_kit.evaluation import ImageTextEncoder
from vladva_kit.models.images import ImageLike
from vladva_kit.widgets.base import BackgroundTask, ImagePicker, WidgetBase, controls, text_box, text_of
from vladva_kit.widgets.cached_embedder import CachedScorer, tokenizer_of, with_caches
from vladva_kit.widgets.page import View, page, unseen_words


def found_images_view(
    caption: str,
    scores: Mapping[str, Any],
    images: Sequence[ImageLike],
    captions: Sequence[str],
    k: int = 5,
    unseen: Collection[str] = (),
) -> View:
    """Show the images that each model finds for a caption: `found_images_view("a dog", scores, images, captions)`.

    `scores[model]` is (n_images,). `captions` are those of the images; an image whose caption is the query is marked.
    Raises ValueError for another number of scores.
    """
    matches = {index for index, text in enumerate(captions) if text.strip().lower() == caption.strip().lower()}
    models = _results(scores, captions, matches, k)
    return page("found_images_view", query=caption, models=models, images=images, unseen=unseen)


def found_captions_view(
    image: ImageLike, scores: Mapping[str, Any], captions: Sequence[str], k: int = 5, own: str | None = None
) -> View:
    """Show the captions that each model finds for an image: `found_captions_view(photo, {"base": scores}, captions)`.

    `scores[model]` is (n_texts,); `own` is the image's caption, if it has one. Raises ValueError for another number.
    """
    matches = {index for index, text in enumerate(captions) if text == own}
    return page("found_captions_view", query=image, models=_results(scores, captions, matches, k), total=len(captions))


def _results(
    scores: Mapping[str, Any], captions: Sequence[str], matches: Collection[int], k: int
) -> dict[str, list[dict[str, Any]]]:
    """Return each model's `k` best, with index, caption, score and whether it matches; ties keep their order."""
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    n = len(captions)
    wrong = [f"{name} {values.shape}" for name, values in arrays.items() if values.shape != (n,)]
    if wrong or not arrays or not n:
        raise ValueError(f"scores of shapes {', '.join(wrong) or 'none'}; pass one score for each of {n}, per model")
    return {
        name: [
            {"index": index, "caption": captions[index], "score": values[index], "match": index in matches}
            for index in np.argsort(-values, kind="stable")[:k].tolist()
        ]
        for name, values in arrays.items()
    }


class RetrievalBox(WidgetBase):
    """Search images by caption and captions by image: `RetrievalBox({"base": baseline}, images, captions)`.

    The gallery is encoded once, in a thread that `work.wait()` joins. Caption i belongs to image i.
    Raises ValueError if there are not as many captions as images, or for a scorer, which cannot search a gallery.
    """

    def __init__(
        self, models: Mapping[str, ImageTextEncoder], images: Sequence[ImageLike], captions: Sequence[str], k: int = 5
    ) -> None:
        super().__init__()
        if len(images) != len(captions) or not len(images):
            raise ValueError(f"{len(images)} images, {len(captions)} captions; give each image one caption")
        self.models, self.images, self.captions = with_caches(models), list(images), list(captions)
        if scorers := [name for name, one in self.models.items() if isinstance(one, CachedScorer)]:
            raise ValueError(
                f"{', '.join(scorers)}: a scorer needs {len(images)} forward passes for one query; leave it out and "
                "re-rank the hits of an embedder with vk.rerank"
            )
        self.tokenizer = tokenizer_of(self.models)
        self.ready = False
        self.work = BackgroundTask()
        self.caption = text_box("caption", self.captions[0])
        self.k = controls().IntSlider(value=k, min=1, max=min(20, len(images)), description="show")
        self.picker = ImagePicker(self, images, "or by", self.refresh, empty="search by caption")
        self.caption.observe(self.handler(self._search_by_caption), "value")
        self.redraw_on(self.k)
        self._assemble([self.caption, self.k], [self.picker.menu, self.picker.upload])
        self.encode()

    def _search_by_caption(self, *_: object) -> None:
        with self.batched():
            self.picker.clear()

    def encode(self) -> None:
        """Encode the gallery in a thread; after a cancel, continue with what is missing."""
        self.view.value = page("hint", text="encoding the gallery …")
        steps = [step for model in self.models.values() for step in model.encoding_steps(self.images, self.captions)]
        self.work.start([*steps, self._open], f"encoding {len(self.images)} pairs")

    def _open(self) -> None:
        self.ready = True
        self.refresh()

    def refresh(self, *_: object) -> None:
        """Redraw once the gallery is encoded."""
        if self.ready:
            super().refresh()

    def draw(self) -> View:
        """Show the captions for the chosen or uploaded image; if there is none, the images for the typed caption."""
        image, index = self.picker.image, self.picker.index
        if image is not None:
            scores = {name: model.similarity([image], self.captions)[0] for name, model in self.models.items()}
            own = None if index is None else self.captions[index]
            return found_captions_view(image, scores, self.captions, self.k.value, own)
        caption = text_of(self.caption)
        scores = {name: model.similarity(self.images, [caption])[:, 0] for name, model in self.models.items()}
        unseen = unseen_words(self.tokenizer, caption)
        return found_images_view(caption, scores, self.images, self.captions, self.k.value, unseen)

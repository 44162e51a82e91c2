"""The same weights talk: one question about a picture, answered with the adapter on and with it off."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.plots.style import image_uri
from vladva_kit.widgets.base import WidgetBase, Work, clear_upload, controls, uploaded
from vladva_kit.widgets.cached_embedder import model_turn
from vladva_kit.widgets.page import View, page, unseen_words

if TYPE_CHECKING:
    from PIL import Image

Turn = tuple[str, str]  # question and answer
ON, OFF = "adapter on", "adapter off"
NONE = -1  # the list's entry for no picture; ipywidgets takes None for "nothing chosen"


def chat_view(
    image: Image.Image | Path | bytes | None, turns: Mapping[str, Sequence[Turn]], unseen: Collection[str] = ()
) -> View:
    """A picture and what was said about it, a column each: `chat_view(picture, {"adapter on": [(asked, answer)]})`.

    Columns may differ in length: a question that is not answered yet shows a dash.
    """
    rows = []
    for place in range(max(map(len, turns.values()), default=0)):
        said = [column[place] if place < len(column) else None for column in turns.values()]
        asked = next(turn[0] for turn in said if turn is not None)
        rows.append({"asked": asked, "answers": ["—" if turn is None else turn[1] for turn in said]})
    picture = None if image is None else image_uri(image)
    return page("chat_view", picture=picture, names=list(turns), rows=rows, unseen=unseen)


def answers_in_turn(
    embedder: Embedder,
    image: Image.Image | Path | bytes | None,
    question: str,
    turns: Mapping[str, list[Turn]],
    max_new_tokens: int = 64,
) -> Iterator[str]:
    """Asks with the adapter on, then off, each with its own answers so far; adds to `turns` and yields each answer.

    An embedder without an adapter has but one column to fill: `turns` says which.
    """
    for name, said in turns.items():
        with model_turn():
            if name == OFF:
                with embedder.base():
                    answer = embedder.generate(image, question, list(said), max_new_tokens)
            else:
                answer = embedder.generate(image, question, list(said), max_new_tokens)
        said.append((question, answer))
        yield answer


class ChatBox(WidgetBase):
    """Ask the LVLM about a picture, with the adapter and without, side by side: does it still talk?

        ChatBox(embedder, pictures)         # pictures: to choose from; or upload one; or none at all

    Each column keeps its own answers, so that a second question may say "it". Another picture begins anew.
    """

    def __init__(
        self, embedder: Embedder, pictures: Sequence[Image.Image | Path | bytes] = (), max_new_tokens: int = 64
    ) -> None:
        super().__init__()
        self.embedder, self.pictures, self.max_new_tokens = embedder, list(pictures), max_new_tokens
        self.work = Work()
        widgets = controls()
        options = [("no picture", NONE), *((f"picture {n}", n - 1) for n in range(1, len(self.pictures) + 1))]
        first = 0 if self.pictures else NONE
        self.picture = widgets.Dropdown(options=options, value=first, description="about")
        self.upload = widgets.FileUpload(accept="image/*", multiple=False, description="your picture")
        self.question = widgets.Text(
            description="question", continuous_update=False, layout=widgets.Layout(width="36em")
        )
        self.ask_button = widgets.Button(description="ask", button_style="primary")
        self.anew = widgets.Button(description="begin anew")
        self.ask_button.on_click(lambda _: self.ask())
        self.anew.on_click(self._begin)
        self.picture.observe(self._choose, "value")
        self.upload.observe(self._begin, "value")
        self.follow(self.question)
        rows = [[self.picture, self.upload, self.anew], [self.question, self.ask_button]]
        self.box = widgets.VBox([*map(widgets.HBox, rows), self.work.box, self.view])
        self._begin()

    @property
    def image(self) -> Image.Image | Path | bytes | None:
        """The picture that is talked about: the one uploaded last, else the one chosen."""
        own = uploaded(self.upload.value)
        if own is not None or self.picture.value == NONE:
            return own
        return self.pictures[self.picture.value]

    def ask(self) -> None:
        """Puts the question in a thread; `work.wait()` joins it."""
        question = self.question.value.strip()
        if not question:
            self.view.value = page("message", text="the question is empty: write one, as 'what is on the left?'")
            return
        pieces = self._shown(answers_in_turn(self.embedder, self.image, question, self.turns, self.max_new_tokens))
        self.work.start(pieces, len(self.turns), self.refresh, "thinking")

    def _shown(self, answers: Iterator[str]) -> Iterator[str]:
        for answer in answers:
            self.refresh()
            yield answer

    def _choose(self, *_: object) -> None:
        """What was given last is what is talked about."""
        with self.laying():
            clear_upload(self.upload)
            self._begin()

    def _begin(self, *_: object) -> None:
        names = [ON, OFF] if self.embedder.record is not None else [OFF]
        self.turns: dict[str, list[Turn]] = {name: [] for name in names}
        self.refresh()

    def draw(self) -> View:
        """The picture and the answers so far."""
        said = " ".join([self.question.value, *(asked for turns in self.turns.values() for asked, _ in turns)])
        unseen = unseen_words(self.embedder.lvlm.processor.tokenizer, said)
        return chat_view(self.image, self.turns, unseen)

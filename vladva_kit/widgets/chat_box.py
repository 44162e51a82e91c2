"""Ask the LVLM about an image: the same weights answer with the adapter on and with it off."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

from vladva_kit.embedder.embedder import Embedder
from vladva_kit.models.images import ImageLike
from vladva_kit.widgets.base import NO_IMAGE, BackgroundTask, ImagePicker, WidgetBase, controls, text_box, text_of
from vladva_kit.widgets.cached_embedder import model_turn
from vladva_kit.widgets.page import View, page, unseen_words

Turn = tuple[str, str]  # question and answer
ON, OFF = "adapter on", "adapter off"


def chat_view(image: ImageLike | None, turns: Mapping[str, Sequence[Turn]], unseen: Collection[str] = ()) -> View:
    """Show a chat about an image, one column per state: `chat_view(image, {"adapter on": [(question, answer)]})`.

    Columns may differ in length: a missing answer is shown as a dash.
    """
    rows = []
    for number in range(max(map(len, turns.values()), default=0)):
        row = [column[number] if number < len(column) else None for column in turns.values()]
        question = next(turn[0] for turn in row if turn is not None)
        rows.append({"question": question, "answers": ["—" if turn is None else turn[1] for turn in row]})
    return page("chat_view", image=image, names=list(turns), rows=rows, unseen=unseen)


class ChatBox(WidgetBase):
    """Ask the LVLM about an image, with the adapter on and off next to each other: `ChatBox(embedder, images)`.

    Choose one of these images, upload one, or ask without an image; another image starts a new chat. Each column
    continues from its own answers, so a follow-up question may say "it". `work.wait()` joins the generating thread.
    """

    def __init__(self, embedder: Embedder, images: Sequence[ImageLike] = (), max_new_tokens: int = 64) -> None:
        super().__init__()
        self.embedder, self.max_new_tokens = embedder, max_new_tokens
        self.work = BackgroundTask()
        widgets = controls()
        self.picker = ImagePicker(self, images, "about", self._restart, empty="no image")
        self.question = text_box("question")
        self.ask_button = widgets.Button(description="ask", button_style="primary")
        self.new_button = widgets.Button(description="new chat")
        self._assemble([self.picker.menu, self.picker.upload, self.new_button], [self.question, self.ask_button])
        with self.batched():
            self.picker.menu.value = 0 if len(images) else NO_IMAGE
            self._restart()
        self.ask_button.on_click(self.handler(self.ask))
        self.new_button.on_click(self.handler(self._restart))
        self.redraw_on(self.question)

    def ask(self) -> None:
        """Answer the typed question in a thread, first with the adapter on."""
        self.message.value = ""
        with self.reporting():
            image, question = self.picker.image, text_of(self.question).strip()
            steps = [partial(self._answer, name, turns, image, question) for name, turns in self.turns.items()]
            self.work.start(steps, "generating")

    def _answer(self, name: str, turns: list[Turn], image: ImageLike | None, question: str) -> None:
        with model_turn(), self.embedder.base() if name == OFF else nullcontext():
            answer = self.embedder.generate(image, question, list(turns), self.max_new_tokens)
        turns.append((question, answer))
        self.refresh()

    def _restart(self, *_: object) -> None:
        names = [OFF] if self.embedder.config is None else [ON, OFF]
        self.turns: dict[str, list[Turn]] = {name: [] for name in names}
        self.refresh()

    def draw(self) -> View:
        """Show the image and the answers so far."""
        questions = [question for turns in self.turns.values() for question, _ in turns]
        text = " ".join([self.question.value, *questions])
        return chat_view(self.picker.image, self.turns, unseen_words(self.embedder.lvlm.processor.tokenizer, text))

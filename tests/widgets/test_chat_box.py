"""The chat: both columns are what the embedder itself answers, each with its own past."""

import html
import re

import pytest
import torch

import vladva_kit as vk
from vladva_kit.widgets import ChatBox, chat_view

from .conftest import png, put

FIRST, SECOND = "what is the ground?", "how many things are there?"


@pytest.fixture
def embedder(lvlm):
    """With an adapter that changes answers."""
    made = vk.attach(lvlm)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in lvlm.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(2.0 * torch.randn(weight.shape, generator=generator))
    return made


def test_both_columns_are_the_embedders_own_answers_with_their_own_past(embedder, pictures):
    chat = ChatBox(embedder, pictures[:2], max_new_tokens=6)
    for question in (FIRST, SECOND):
        chat.question.value = question
        chat.ask_button.click()
        chat.work.wait()
    on = embedder.generate(pictures[0], FIRST, max_new_tokens=6)
    on_then = embedder.generate(pictures[0], SECOND, [(FIRST, on)], max_new_tokens=6)
    with embedder.base():
        off = embedder.generate(pictures[0], FIRST, max_new_tokens=6)
        off_then = embedder.generate(pictures[0], SECOND, [(FIRST, off)], max_new_tokens=6)
    assert chat.turns == {
        "adapter on": [(FIRST, on), (SECOND, on_then)],
        "adapter off": [(FIRST, off), (SECOND, off_then)],
    }
    assert on != off
    cells = [html.unescape(cell) for cell in re.findall(r'<td class="text">(.*?)</td>', chat.view.value)]
    assert cells == [on, off, on_then, off_then]
    assert chat_view(pictures[0], chat.turns) == chat.view.value


def test_another_picture_begins_anew_and_a_baseline_has_one_column(lvlm, pictures):
    chat = ChatBox(vk.Embedder(lvlm), pictures[:2], max_new_tokens=2)
    chat.question.value = FIRST
    chat.ask_button.click()
    chat.work.wait()
    assert list(chat.turns) == ["adapter off"] and len(chat.turns["adapter off"]) == 1
    chat.picture.value = 1
    assert chat.turns == {"adapter off": []} and "Nothing was asked yet" in chat.view.value
    chat.picture.value = -1
    assert "<img" not in chat.view.value


def test_what_was_given_last_is_what_is_talked_about(lvlm, pictures):
    chat = ChatBox(vk.Embedder(lvlm), pictures[:2])
    put(chat.upload, ("wall.png", png("red")))
    assert chat.image.getpixel((0, 0)) == (220, 30, 40)
    chat.picture.value = 1
    assert chat.image is pictures[1] and not chat.upload.value


class Slow:
    """Answers with a count of its questions, and calls `during` meanwhile; no LVLM behind it."""

    def __init__(self, lvlm):
        self.lvlm, self.record, self.asked, self.during = lvlm, {}, 0, lambda: None

    def base(self):
        return torch.no_grad()  # any block will do

    def generate(self, image, prompt, history=(), max_new_tokens=0):
        self.asked += 1
        self.during()
        return f"answer {self.asked} <b>&</b>"


def test_canceling_leaves_the_second_column_out(lvlm):
    slow = Slow(lvlm)
    chat = ChatBox(slow)
    slow.during = chat.work.cancel.click
    chat.question.value = FIRST
    chat.ask_button.click()
    chat.work.wait()
    assert slow.asked == 1 and "cancelled after 1 of 2" in chat.work.said.value
    assert chat.turns["adapter off"] == [] and "—" in chat.view.value


def test_what_goes_wrong_is_shown_and_raised(lvlm):
    slow = Slow(lvlm)
    chat = ChatBox(slow)

    def fail():
        raise ValueError("no <more> memory")

    slow.during = fail
    chat.question.value = FIRST
    chat.ask_button.click()
    with pytest.raises(ValueError, match="no <more> memory"):
        chat.work.wait()
    assert "ValueError: no &lt;more&gt; memory" in chat.work.said.value and chat.work.cancel.disabled


def test_questions_and_answers_are_text_and_unseen_words_are_marked(lvlm):
    chat = ChatBox(Slow(lvlm))
    chat.question.value = "is <img src=x onerror=alert(1)> a zebra?"
    chat.ask_button.click()
    chat.work.wait()
    assert "<img" not in chat.view.value and "<b>" not in chat.view.value
    assert "answer 1 &lt;b&gt;&amp;&lt;/b&gt;" in chat.view.value
    marked = re.findall(r"<mark[^>]*>(.*?)</mark>", chat.view.value)
    assert "zebra" in marked and "a" not in marked
    chat.question.value = " "
    chat.ask_button.click()
    assert "the question is empty" in chat.view.value

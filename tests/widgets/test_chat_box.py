"""Both columns of the chat are the embedder's own answers, each with its own history."""

import html
import re

import pytest
import torch
from color_encoder import plain, png, put
from tiny import tiny_embedder, tiny_lvlm

import vladva_kit as vk
from vladva_kit.widgets import ChatBox, chat_view

FIRST, SECOND = "what is the ground?", "how many things are there?"
WALLS = [plain("red"), plain("blue")]


def ask(chat, question):
    chat.question.value = question
    chat.ask_button.click()
    chat.work.wait()


def test_each_column_continues_from_its_own_answers(one_thread):
    embedder = tiny_embedder()
    with torch.no_grad():  # so that the answers differ
        for name, weight in embedder.lvlm.model.named_parameters():
            if "lora_B" in name:
                weight.mul_(40)
    chat = ChatBox(embedder, WALLS, max_new_tokens=6)
    ask(chat, FIRST)
    ask(chat, SECOND)
    on = embedder.generate(WALLS[0], FIRST, max_new_tokens=6)
    on_then = embedder.generate(WALLS[0], SECOND, [(FIRST, on)], max_new_tokens=6)
    with embedder.base():
        off = embedder.generate(WALLS[0], FIRST, max_new_tokens=6)
        off_then = embedder.generate(WALLS[0], SECOND, [(FIRST, off)], max_new_tokens=6)
    assert chat.turns == {
        "adapter on": [(FIRST, on), (SECOND, on_then)],
        "adapter off": [(FIRST, off), (SECOND, off_then)],
    }
    assert on != off
    cells = [html.unescape(cell) for cell in re.findall(r'<td class="text">(.*?)</td>', chat.view.value)]
    assert cells == [on, off, on_then, off_then]
    assert chat_view(WALLS[0], chat.turns) == chat.view.value


def test_another_image_starts_a_new_chat_and_a_base_embedder_has_one_column(one_thread):
    chat = ChatBox(vk.Embedder(tiny_lvlm()), WALLS, max_new_tokens=2)
    ask(chat, FIRST)
    assert list(chat.turns) == ["adapter off"] and len(chat.turns["adapter off"]) == 1
    chat.picker.menu.value = 1
    assert chat.turns == {"adapter off": []} and "No questions yet" in chat.view.value
    chat.picker.menu.value = -1
    assert "<img" not in chat.view.value


def test_the_latest_choice_of_image_counts():
    chat = ChatBox(vk.Embedder(tiny_lvlm()), WALLS)
    put(chat.picker.upload, ("wall.png", png("white")))
    assert chat.picker.image.getpixel((0, 0)) == (250, 250, 250) and chat.picker.index is None
    chat.picker.menu.value = 1
    assert chat.picker.image is WALLS[1] and not chat.picker.upload.value


class FakeEmbedder:
    """Answer with the number of questions so far, and call `during` for each."""

    def __init__(self):
        self.lvlm, self.config, self.asked, self.during = tiny_lvlm(), {}, 0, lambda: None

    def base(self):
        return torch.no_grad()  # any context manager

    def generate(self, image, prompt, history=(), max_new_tokens=0):
        self.asked += 1
        self.during()
        return f"answer {self.asked} <b>&</b>"


def test_canceling_leaves_the_second_column_out():
    fake = FakeEmbedder()
    chat = ChatBox(fake)
    fake.during = chat.work.cancel.click
    ask(chat, FIRST)
    assert fake.asked == 1 and "canceled after 1 of 2" in chat.work.status.value
    assert chat.turns["adapter off"] == [] and "—" in chat.view.value


def test_a_new_chat_does_not_get_the_answers_of_the_old_one():
    fake = FakeEmbedder()
    chat = ChatBox(fake)
    fake.during = chat.new_button.click
    ask(chat, FIRST)
    assert fake.asked == 2 and chat.turns == {"adapter on": [], "adapter off": []}


def test_an_error_is_shown_and_raised():
    fake = FakeEmbedder()
    chat = ChatBox(fake)

    def fail():
        raise ValueError("no <more> memory")

    fake.during = fail
    with pytest.raises(ValueError, match="no <more> memory"):
        ask(chat, FIRST)
    assert "no &lt;more&gt; memory" in chat.work.status.value and chat.work.cancel.disabled


def test_questions_and_answers_are_escaped_and_unseen_words_are_marked():
    chat = ChatBox(FakeEmbedder())
    ask(chat, "is <img src=x onerror=alert(1)> a zebra?")
    assert "<img" not in chat.view.value and "<b>" not in chat.view.value
    assert "answer 1 &lt;b&gt;&amp;&lt;/b&gt;" in chat.view.value
    marked = re.findall(r"<mark[^>]*>(.*?)</mark>", chat.view.value)
    assert "zebra" in marked and "a" not in marked


def test_an_empty_question_is_not_asked():
    fake = FakeEmbedder()
    chat = ChatBox(fake)
    ask(chat, " ")
    assert "the field &#39;question&#39; is empty" in chat.message.value and fake.asked == 0
    ask(chat, FIRST)
    assert chat.message.value == "" and fake.asked == 2

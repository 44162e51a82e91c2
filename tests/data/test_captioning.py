"""Missing captions: asked for once, held to the 30-token rule, marked, resumed; the result is an imagefolder."""

import json

import pytest
from PIL import Image
from tiny import tiny_lvlm

import vladva_kit as vk
from vladva_kit.data.captioning import LONG_REQUEST, SHORT_REQUEST, Requests, caption_images, finish
from vladva_kit.data.images import ImageRecord, list_images
from vladva_kit.emoji_world.captions import short_caption
from vladva_kit.models.images import BadInput

SHORT, LONG = "a dog on a mat", "a red dog stands left of a small cat " * 5


class Answers(vk.Embedder):
    """An LVLM whose answers are known: by what is asked, and the picture's first pixel."""

    asked: list

    def generate_batch(self, images, prompts, histories=None, max_new_tokens=128):
        self.asked += [(image.getpixel((0, 0))[0], prompt) for image, prompt in zip(images, prompts, strict=True)]
        return [self.answers(image.getpixel((0, 0))[0], prompt) for image, prompt in zip(images, prompts, strict=True)]

    def answers(self, number, prompt):
        return SHORT if prompt == SHORT_REQUEST else LONG.strip()


@pytest.fixture(scope="module")
def lvlm():
    return tiny_lvlm()


@pytest.fixture
def embedder(lvlm):
    embedder = Answers(lvlm)
    embedder.asked = []
    return embedder


@pytest.fixture
def folder(tmp_path):
    """ImageRecord 0 lacks both captions, 1 the long one, 2 the short one, 3 none; 4 is like 0."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for number, own in enumerate(
        [{}, {"short": "own"}, {"long": "own long"}, {"short": "own", "long": "own long"}, {}]
    ):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", **own}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def read(out):
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def test_only_what_is_missing_is_asked_for_and_marked(embedder, folder, tmp_path):
    out = tmp_path / "out"
    pictures = list_images(folder)
    caption_images(embedder, pictures, out, batch_size=2)
    assert sorted(embedder.asked) == sorted([
        (0, SHORT_REQUEST), (0, LONG_REQUEST), (1, LONG_REQUEST), (2, SHORT_REQUEST), (4, SHORT_REQUEST),
        (4, LONG_REQUEST),
    ])  # fmt: skip
    report = finish(pictures, out, "known")
    rows = read(out)
    assert [row.get("synthetic") for row in rows] == [["long", "short"], ["long"], ["short"], None, ["long", "short"]]
    assert [row.get("captioned_by") for row in rows] == ["known", "known", "known", None, "known"]
    assert rows[1]["short"] == "own" and rows[1]["long"] == LONG.strip()
    assert report.written == {"short": 3, "long": 3} and report.broke_the_rule == {"short": 0, "long": 0}


def test_the_result_is_an_imagefolder_that_trains(embedder, folder, tmp_path):
    pictures = list_images(folder)
    caption_images(embedder, pictures, tmp_path / "out")
    finish(pictures, tmp_path / "out", "known")
    pairs = vk.load_pairs(tmp_path / "out")
    assert len(pairs) == 5 and all(pair.short and pair.long for pair in pairs)
    assert pairs[4].load_image().getpixel((0, 0)) == (4, 0, 0)


def test_a_caption_that_breaks_the_30_token_rule_is_left_out_and_counted(embedder, folder, tmp_path):
    embedder.answers = lambda number, prompt: LONG if prompt == SHORT_REQUEST else "a dog"
    pictures = list_images(folder)
    caption_images(embedder, pictures, tmp_path / "out")
    report = finish(pictures, tmp_path / "out", "known")
    assert report.written == {"short": 0, "long": 0} and report.broke_the_rule == {"short": 3, "long": 3}
    assert [row["file_name"] for row in read(tmp_path / "out")] == ["1.png", "2.png", "3.png"]  # the others have none


def test_what_was_written_before_an_interruption_is_not_asked_for_again(embedder, folder, tmp_path):
    out = tmp_path / "out"
    pictures = list_images(folder)
    told = iter([None, RuntimeError("killed")])

    def interrupt(rows):
        if (error := next(told)) is not None:
            raise error

    with pytest.raises(RuntimeError, match="killed"):
        caption_images(embedder, pictures, out, batch_size=2, progress=interrupt)
    log = out / ".captions-0.jsonl"
    log.write_bytes(log.read_bytes() + b'{"row": 4, "capti')  # a line that a kill cut off
    with pytest.raises(ValueError, match="1 of 5 pictures"):
        finish(pictures, out, "known")
    embedder.asked.clear()
    caption_images(embedder, pictures, out, batch_size=2)
    assert {number for number, _ in embedder.asked} == {4}
    finish(pictures, out, "known")
    assert [row["file_name"] for row in read(out)] == [f"{number}.png" for number in range(5)]


def test_ranks_share_the_pictures(embedder, folder, tmp_path):
    pictures = list_images(folder)
    for rank in (1, 0):
        embedder.asked.clear()
        caption_images(embedder, pictures, tmp_path / "out", rank=rank, ranks=2)
        assert {number % 2 for number, _ in embedder.asked} == {rank}
    assert finish(pictures, tmp_path / "out", "known").pairs == 5


def test_other_pictures_or_a_full_folder_are_refused(embedder, folder, tmp_path):
    pictures = list_images(folder)
    caption_images(embedder, pictures, tmp_path / "out")
    with pytest.raises(ValueError, match="other pictures"):
        caption_images(embedder, pictures[:2], tmp_path / "out")
    with pytest.raises(ValueError, match="not empty"):
        caption_images(embedder, pictures, folder)


def test_a_picture_that_cannot_be_read_is_named(embedder, tmp_path):
    with pytest.raises(BadInput, match="broken.png cannot be read"):
        caption_images(embedder, [ImageRecord("broken.png", b"nothing")], tmp_path / "out")


def test_the_share_of_true_captions_is_reported_where_scenes_are_known(embedder, scenes, pictures, tmp_path):
    import random

    from vladva_kit.emoji_world.truth import is_true

    listed = [ImageRecord(f"{n}.png", picture, {"scene": scene.as_dict()}) for n, (picture, scene) in
              enumerate(zip(pictures, scenes, strict=True))][:4]  # fmt: skip
    said = short_caption(scenes[0], random.Random(1))
    embedder.answers = lambda number, prompt: said
    caption_images(embedder, listed, tmp_path / "out", Requests(short_limit=30))
    report = finish(listed, tmp_path / "out", "known")
    true = sum(is_true(said, scene) for scene in scenes[:4])
    assert (report.judged, report.true) == (4, true) and true >= 1
    assert f"true of their scene: {true} of 4" in "\n".join(report.lines())


def test_a_real_lvlm_is_asked_in_a_batch(lvlm, folder, tmp_path):
    pictures = list_images(folder)
    caption_images(vk.Embedder(lvlm), pictures[1:3], tmp_path / "out", Requests(long_limit=40))
    report = finish(pictures[1:3], tmp_path / "out", "tiny")
    assert report.written["short"] + report.broke_the_rule["short"] == 1

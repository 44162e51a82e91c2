"""Missing captions are generated once, checked by the 30-token rule and marked; the result is an imagefolder."""

import dataclasses
import datetime
import io
import json
import os
import random

import pytest
from PIL import Image
from tiny import tiny_lvlm

import vladva_kit as vk
from vladva_kit.data.captioning import (
    CAPTIONS,
    LONG_REQUEST,
    SHORT_REQUEST,
    CaptionRequests,
    caption_images,
    write_imagefolder,
)
from vladva_kit.data.images import ImageRecord, list_images
from vladva_kit.data.store import Store, read_manifest
from vladva_kit.embedder.prompts import encode_caption
from vladva_kit.emoji_world.captions import short_caption
from vladva_kit.emoji_world.truth import is_true
from vladva_kit.models.files import write_json
from vladva_kit.models.images import BadInput, open_image

SHORT, LONG = "a dog on a mat", "a red dog stands left of a small cat " * 5


class Answers(vk.Embedder):
    """An LVLM whose answers are fixed by the prompt and the number in the image's first pixel."""

    asked: list

    def generate_batch(self, images, prompts, histories=None, max_new_tokens=128):
        numbers = [image.getpixel((0, 0))[0] for image in images]
        self.asked += zip(numbers, prompts, strict=True)
        return [self.answer(number, prompt) for number, prompt in zip(numbers, prompts, strict=True)]

    def answer(self, number, prompt):
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
    """Image 0 lacks both captions, 1 the long one, 2 the short one, 3 neither; 4 is like 0."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = []
    captions = [{}, {"short": "own"}, {"long": "own long"}, {"short": "own", "long": "own long"}, {}]
    for number, existing in enumerate(captions):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", **existing}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def read(out):
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]


def test_only_missing_captions_are_generated_and_marked(embedder, folder, tmp_path):
    out = tmp_path / "out"
    images = list_images(folder)
    caption_images(embedder, images, out, batch_size=2)
    assert sorted(embedder.asked) == sorted([
        (0, SHORT_REQUEST), (0, LONG_REQUEST), (1, LONG_REQUEST), (2, SHORT_REQUEST), (4, SHORT_REQUEST),
        (4, LONG_REQUEST),
    ])  # fmt: skip
    report = write_imagefolder(images, out, "known")
    rows = read(out)
    assert [row.get("synthetic") for row in rows] == [["long", "short"], ["long"], ["short"], None, ["long", "short"]]
    assert [row.get("captioned_by") for row in rows] == ["known", "known", "known", None, "known"]
    assert rows[1]["short"] == "own" and rows[1]["long"] == LONG.strip()
    assert report.written == {"short": 3, "long": 3} and report.rejected == {"short": 0, "long": 0}


def test_the_result_is_a_valid_imagefolder(embedder, folder, tmp_path):
    images = list_images(folder)
    caption_images(embedder, images, tmp_path / "out")
    write_imagefolder(images, tmp_path / "out", "known")
    pairs = vk.load_pairs(tmp_path / "out")
    assert len(pairs) == 5 and all(pair.short and pair.long for pair in pairs)
    assert pairs[4].load_image().getpixel((0, 0)) == (4, 0, 0)


def test_images_in_memory_are_written_as_files(embedder, folder, tmp_path):
    content = (folder / "1.png").read_bytes()
    images = [ImageRecord("000000000", Image.new("RGB", (4, 4), (9, 0, 0))), ImageRecord("000000001", content)]
    caption_images(embedder, images, tmp_path / "out")
    write_imagefolder(images, tmp_path / "out", "known")
    first, second = vk.load_pairs(tmp_path / "out")
    assert first.image.name == "000000000.png" and first.load_image().getpixel((0, 0)) == (9, 0, 0)
    assert second.image.read_bytes() == content


def test_captions_that_break_the_30_token_rule_are_rejected_and_counted(embedder, folder, tmp_path):
    embedder.answer = lambda number, prompt: LONG if prompt == SHORT_REQUEST else "a dog"
    images = list_images(folder)
    caption_images(embedder, images, tmp_path / "out")
    report = write_imagefolder(images, tmp_path / "out", "known")
    assert report.written == {"short": 0, "long": 0} and report.rejected == {"short": 3, "long": 3}
    assert [row["file_name"] for row in read(tmp_path / "out")] == ["1.png", "2.png", "3.png"]  # 0 and 4 have none


@pytest.mark.parametrize(
    ("short_margin", "long_margins", "kinds"),
    [(1, (0, 0), ["long", "short"]), (0, (0, 0), ["long"]), (1, (1, 0), ["short"]), (1, (0, -1), ["short"])],
)
def test_the_length_limits_are_exact(embedder, folder, tmp_path, short_margin, long_margins, kinds):
    """A short caption has fewer tokens than the short limit; a long one at least that many, up to the long limit."""
    tokenizer = embedder.lvlm.processor.tokenizer
    n_short, n_long = (len(encode_caption(tokenizer, text)) for text in (SHORT, LONG.strip()))
    # one limit separates both kinds, so each kind is tested in its own run
    written = []
    for kind, limits in (
        ("short", CaptionRequests(short_limit=n_short + short_margin)),
        ("long", CaptionRequests(short_limit=n_long + long_margins[0], long_limit=n_long + long_margins[1])),
    ):
        caption_images(embedder, list_images(folder)[:1], tmp_path / kind, limits)
        report = write_imagefolder(list_images(folder)[:1], tmp_path / kind, "known")
        written += [kind] * report.written[kind]
    assert sorted(written) == kinds


def test_an_interrupted_run_resumes_at_the_next_missing_shard(embedder, folder, tmp_path):
    out = tmp_path / "out"
    images = list_images(folder)
    answer = embedder.answer

    def interrupt(number, prompt):
        if number == 4:
            raise KeyboardInterrupt
        return answer(number, prompt)

    embedder.answer = interrupt
    with pytest.raises(KeyboardInterrupt):
        caption_images(embedder, images, out, batch_size=2)
    (out / CAPTIONS / ".shard-000002.safetensors.99.part").write_bytes(b"partial")  # left by a kill during a write
    assert Store(out / CAPTIONS).names() == ["000000", "000001"]
    with pytest.raises(ValueError, match="1 of 5 images"):
        write_imagefolder(images, out, "known")
    assert not (out / "metadata.jsonl").exists()
    embedder.answer = answer
    embedder.asked.clear()
    sizes = []
    caption_images(embedder, images, out, batch_size=2, progress=sizes.append)
    assert {number for number, _ in embedder.asked} == {4} and sizes == [2, 2, 1]
    write_imagefolder(images, out, "known")
    caption_images(embedder, images, tmp_path / "uninterrupted")
    write_imagefolder(images, tmp_path / "uninterrupted", "known")
    assert (out / "metadata.jsonl").read_bytes() == (tmp_path / "uninterrupted" / "metadata.jsonl").read_bytes()
    assert [row["file_name"] for row in read(out)] == [f"{number}.png" for number in range(5)]
    assert not list(out.rglob("*.part"))


def test_ranks_caption_alternate_shards(embedder, folder, tmp_path):
    images = list_images(folder)
    for rank, numbers in ((1, {2}), (0, {0, 1, 4})):  # shards of images 0-1, 2-3 and 4; 3 lacks no caption
        embedder.asked.clear()
        caption_images(embedder, images, tmp_path / "out", batch_size=2, rank=rank, ranks=2)
        assert {number for number, _ in embedder.asked} == numbers
    assert write_imagefolder(images, tmp_path / "out", "known").images == 5


def test_a_folder_of_other_images_or_requests_or_without_captions_is_refused(embedder, folder, tmp_path):
    images = list_images(folder)
    caption_images(embedder, images, tmp_path / "out")
    with pytest.raises(ValueError, match="source: .* in the folder, .* now.*rows: 5 in the folder, 2 now"):
        caption_images(embedder, images[:2], tmp_path / "out")
    with pytest.raises(ValueError, match="requests.short: provide a short caption: in the folder, what is it\\? now"):
        caption_images(embedder, images, tmp_path / "out", CaptionRequests(short="what is it?"))
    with pytest.raises(ValueError, match="shard_size: 32 in the folder, 3 now"):
        caption_images(embedder, images, tmp_path / "out", batch_size=3)
    with pytest.raises(ValueError, match="not empty"):
        caption_images(embedder, images, folder)


def test_captions_of_another_adapter_or_resolution_are_not_reused(folder, tmp_path):
    images, out, lvlm = list_images(folder), tmp_path / "out", tiny_lvlm()
    base, embedder = Answers(lvlm), Answers(lvlm, config=vk.attach(lvlm, quiet=True).config)
    base.asked, embedder.asked = [], []
    caption_images(base, images, out, batch_size=2)
    (out / CAPTIONS / "shard-000001.safetensors").unlink()
    with pytest.raises(ValueError, match="identity.adapter: None in the folder, [0-9a-f]{12} now.*use another folder"):
        caption_images(embedder, images, out, batch_size=2)
    lvlm.family = dataclasses.replace(lvlm.family, max_pixels=9)
    with pytest.raises(ValueError, match="identity.max_pixels: None in the folder, 9 now"):
        caption_images(base, images, out, batch_size=2)
    assert not embedder.asked and Store(out / CAPTIONS).names() == ["000000", "000002"]


def test_captions_of_an_older_kit_are_refused_in_one_sentence(embedder, folder, tmp_path):
    images, out = list_images(folder), tmp_path / "out"
    caption_images(embedder, images, out)
    manifest = read_manifest(out / CAPTIONS)
    del manifest["identity"]
    write_json(out / CAPTIONS / "manifest.json", manifest)
    with pytest.raises(ValueError, match="identity: not recorded in the folder.*use another folder or remove this one"):
        caption_images(embedder, images, out)


def test_captions_of_a_replaced_image_are_not_kept(embedder, folder, tmp_path):
    images, out = list_images(folder), tmp_path / "out"
    caption_images(embedder, images, out, batch_size=2)
    (out / CAPTIONS / "shard-000002.safetensors").unlink()
    before = len(embedder.asked)
    content = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(content)  # another date, but the same image
    Image.new("RGB", (4, 4), (99, 0, 0)).save(folder / "3.png")
    with pytest.raises(ValueError, match=r"^3\.png is not the image that .*shard-000001.* remove this file and run"):
        caption_images(embedder, images, out, batch_size=2)
    assert len(embedder.asked) == before and Store(out / CAPTIONS).names() == ["000000", "000001"]
    (out / CAPTIONS / "shard-000001.safetensors").unlink()
    caption_images(embedder, images, out, batch_size=2)
    assert {number for number, _ in embedder.asked[before:]} == {2, 4}  # 3 lacks no caption


def test_an_image_that_cannot_be_read_is_named(embedder, tmp_path):
    with pytest.raises(BadInput, match="broken.png cannot be read"):
        caption_images(embedder, [ImageRecord("broken.png", b"nothing")], tmp_path / "out")


def test_the_share_of_true_captions_is_reported_for_known_scenes(embedder, scenes, pictures, tmp_path):
    images = [
        ImageRecord(f"{number}.png", image, {"scene": scene.as_dict()})
        for number, (image, scene) in enumerate(zip(pictures[:4], scenes[:4], strict=True))
    ]
    caption = short_caption(scenes[0], random.Random(1))
    embedder.answer = lambda number, prompt: caption
    caption_images(embedder, images, tmp_path / "out", CaptionRequests(short_limit=30))
    report = write_imagefolder(images, tmp_path / "out", "known")
    true = sum(is_true(caption, scene) for scene in scenes[:4])
    assert (report.checked, report.true) == (4, true) and true >= 1
    assert f"true of their scene: {true} of 4" in "\n".join(report.lines())


def test_an_lvlm_captions_a_batch(lvlm, folder, tmp_path):
    images = list_images(folder)[1:3]
    caption_images(vk.Embedder(lvlm), images, tmp_path / "out", CaptionRequests(long_limit=40))
    report = write_imagefolder(images, tmp_path / "out", "tiny")
    assert report.written["short"] + report.rejected["short"] == 1


@pytest.mark.parametrize(
    ("column", "kept"),
    [
        ({"scene": "kitchen"}, {"scene": "kitchen"}),
        ({"scene": ["indoor", "kitchen"]}, {"scene": ["indoor", "kitchen"]}),
        ({"scene": {"things": [{"noun": 3}]}}, {"scene": {"things": [{"noun": 3}]}}),
        ({"taken": datetime.datetime(2024, 1, 2, 3)}, {"taken": "2024-01-02T03:00:00"}),
        ({"mask": b"\0\1", "year": 2024}, {"year": 2024}),
        ({"frames": [{"bytes": b"\0", "path": None}]}, {}),
        ({"score": float("nan"), "values": [1.5, float("inf")]}, {"values": [1.5, None]}),
    ],
)
def test_columns_of_other_data_do_not_stop_the_last_step(embedder, tmp_path, column, kept, caplog):
    images = [ImageRecord("0", Image.new("RGB", (4, 4), (1, 0, 0)), column)]
    caption_images(embedder, images, tmp_path / "out")
    report = write_imagefolder(images, tmp_path / "out", "tiny")
    record = json.loads((tmp_path / "out" / "metadata.jsonl").read_text())
    assert {key: record[key] for key in record if key in column} == kept and record["short"] == SHORT
    assert report.checked == 0
    assert ("mask" in caplog.text) == ("mask" in column)  # what is left out is said


def test_a_file_name_that_is_not_utf_8_is_captioned_and_read_again(embedder, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (1, 0, 0)).save(buffer, "PNG")
    (tmp_path / "images").mkdir()
    with open(os.fsencode(tmp_path / "images") + b"/caf\xe9.png", "wb") as file:
        file.write(buffer.getvalue())
    images = list_images(tmp_path / "images")
    caption_images(embedder, images, tmp_path / "out")
    write_imagefolder(images, tmp_path / "out", "tiny")
    assert vk.load_pairs(tmp_path / "out")[0].short == SHORT


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "F", "YCbCr", "RGBA"])
def test_images_of_modes_that_png_lacks_are_written_as_seen(embedder, tmp_path, mode):
    if mode == "LAB":
        image = Image.new("LAB", (4, 4), (200, 128, 128))
    else:
        image = Image.new("L", (4, 4), 200).convert("F" if mode == "F" else "RGB").convert(mode)
    images = [ImageRecord("0", image)]
    caption_images(embedder, images, tmp_path / "out")
    write_imagefolder(images, tmp_path / "out", "tiny")
    written = vk.load_pairs(tmp_path / "out")[0].load_image()
    assert written.getpixel((0, 0)) == open_image(image).getpixel((0, 0)) != (255, 255, 255)


def test_the_usual_column_counts_as_a_caption(embedder, tmp_path):
    images = [ImageRecord("0", Image.new("RGB", (4, 4), (1, 0, 0)), {"text": "a kept caption"})]
    caption_images(embedder, images, tmp_path / "out")
    write_imagefolder(images, tmp_path / "out", "tiny")
    pair = vk.load_pairs(tmp_path / "out")[0]
    assert (pair.short, pair.long) == ("a kept caption", LONG.strip())

"""The recipes for public datasets read miniatures with the datasets' own files and columns."""

import io
import json
import re
import tarfile
from pathlib import Path

import datasets
import pytest
from PIL import Image

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "public-data.md").read_text(encoding="utf-8")
SHARED = PAGE.partition("```python\n")[2].partition("```")[0]
DESCRIPTION = "A brown dog lies on a red mat. Behind it, a white door is half open, and light falls through it."
LONG_SENTENCE = " ".join(["a dog and a cat and a hen and"] * 4) + ". A door."


def recipe(name, folder, monkeypatch):
    """Run a section's code in a folder, and return its pairs."""
    section = PAGE.partition(f"\n### {name}\n")[2].partition("\n#")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(folder)
    names = {}
    exec(SHARED + code, names)
    return names["pairs"]


def image(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(path)


def shades(pairs):
    return [round(pair.load_image().getpixel((4, 3))[0], -1) for pair in pairs]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_docci(tmp_path, monkeypatch):
    rows = [("train", DESCRIPTION), ("test", "Another one."), ("train", LONG_SENTENCE)]
    for number in range(3):
        image(tmp_path / f"docci/images/train_{number:05}.jpg", 40 * number)
    write(
        tmp_path / "docci/docci_descriptions.jsonlines",
        lines(
            {"split": split, "example_id": f"train_{n:05}", "image_file": f"train_{n:05}.jpg", "description": text}
            for n, (split, text) in enumerate(rows)
        ),
    )
    first, last = pairs = recipe("DOCCI", tmp_path, monkeypatch)
    assert shades(pairs) == [0, 80]
    assert (first.short, first.long) == ("A brown dog lies on a red mat", DESCRIPTION)
    assert (last.short, last.long) == (None, LONG_SENTENCE)


def test_sharegpt4v(tmp_path, monkeypatch):
    image(tmp_path / "images/coco/train2017/000000000009.jpg", 120)
    chat = [{"from": "human", "value": "What do you see?\n<image>"}, {"from": "gpt", "value": DESCRIPTION}]
    rows = [{"id": str(n), "image": f"coco/train2017/{n:012}.jpg", "conversations": chat} for n in (9, 25)]
    text_only = {"id": "t", "conversations": chat}
    write(tmp_path / "sharegpt4v_instruct_gpt4-vision_cap100k.json", [*rows, text_only])
    with pytest.warns(UserWarning, match="skipped 1 of 2:\n.*000000000025.jpg does not exist"):
        (pair,) = pairs = recipe("ShareGPT4V", tmp_path, monkeypatch)
    assert shades(pairs) == [120] and (pair.short, pair.long) == ("A brown dog lies on a red mat", DESCRIPTION)


def test_dci(tmp_path, monkeypatch):
    folder = tmp_path / "densely_captioned_images"
    image(folder / "photos/sa_1545118.jpg", 200)
    masks = {"0": {"label": "door", "caption": "A white door."}, "1": {"mask_quality": 2}}
    captions = {"short_caption": "A dog on a mat.", "extra_caption": "word " * 300, "mask_data": masks}
    write(folder / "annotations/sa_1545118.json", {"image": "sa_1545118.jpg", **captions})
    image(folder / "photos/sa_2.jpg", 200)
    write(folder / "annotations/sa_2.json", {"image": "sa_2.jpg", **captions, "extra_caption": ""})
    first, second = recipe("DCI", tmp_path, monkeypatch)
    assert first.short == "A dog on a mat" and len(first.long.split()) == 250
    assert second.long == "A dog on a mat. A white door."


def test_vismin(tmp_path, monkeypatch):
    rows = [("a", None, "Two men"), ("a1", "a", "Three men"), ("b", "", "A cup"), ("a2", "a", "Two women")]
    table = {
        "image_id": [row[0] for row in rows],
        "image": [Image.new("RGB", (8, 6), (40 * n, 0, 0)) for n in range(4)],
        "caption": [row[2] for row in rows],
        "bounding_boxes": ["[]"] * 4,
        "source_image_id": [row[1] for row in rows],
        "category": ["", "counting", "", "object"],
    }
    datasets.DatasetDict(train=datasets.Dataset.from_dict(table)).save_to_disk(tmp_path / "vismin/data")
    pairs = recipe("VisMin", tmp_path, monkeypatch)
    assert [(pair.short, pair.group) for pair in pairs] == [
        ("Two men", "a"), ("Three men", "a"), ("A cup", None), ("Two women", "a"),
    ]  # fmt: skip
    assert shades(pairs) == [0, 40, 80, 120]


def test_coco_counterfactuals(tmp_path, monkeypatch):
    folder = tmp_path / "COCO-Counterfactuals/data"
    rows = []
    for case in ("236308_0", "236308_1"):
        for number in range(2):
            image(folder / f"images/{case}_img_{number}.jpg", 100 * number)
        names = {f"image_{number}": f"{case}_img_{number}" for number in range(2)}
        rows.append({"id": case, **names, "caption_0": "A dog in a car", "caption_1": "A cat in a car"})
    write(folder / "examples.jsonl", lines(rows))
    pairs = recipe("COCO-Counterfactuals", tmp_path, monkeypatch)
    assert [pair.short for pair in pairs] == ["A dog in a car", "A cat in a car"] * 2
    assert [pair.group for pair in pairs] == ["236308_0", "236308_0", "236308_1", "236308_1"]
    assert shades(pairs) == [0, 100, 0, 100]


def test_tripletdata(tmp_path, monkeypatch):
    def png(shade):
        file = io.BytesIO()
        Image.new("RGB", (8, 6), (shade, 0, 0)).save(file, "PNG")
        return file.getvalue()

    (tmp_path / "TripletData").mkdir()
    with tarfile.open(tmp_path / "TripletData/shard-0.tar", "w") as archive:
        for key in ("000", "001"):
            parts = {"image": png(40), "caption": b"a dog", "neg_image": png(80), "neg_caption": b"a cat"}
            for part, content in parts.items():
                member = tarfile.TarInfo(f"{key}.{part}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    pairs = recipe("TripletData", tmp_path, monkeypatch)
    assert [(pair.short, pair.group) for pair in pairs] == [
        ("a dog", "000"), ("a cat", "000"), ("a dog", "001"), ("a cat", "001"),
    ]  # fmt: skip
    assert shades(pairs) == [40, 80, 40, 80]


def test_every_recipe_has_a_test():
    recipes = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
    assert {f"test_{name.lower().replace('-', '_')}" for name in recipes} <= set(globals())

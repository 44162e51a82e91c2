"""Caption files of retrieval benchmarks, in the four formats."""

import json

import datasets
import pytest
from PIL import Image

from vladva_kit.evaluation import evaluate_retrieval
from vladva_kit.evaluation.caption_files import load_caption_dataset, load_caption_file
from vladva_kit.models.images import BadInput


def color(number):
    return number, 0, 9


def wordings(number, n=6):
    return [f"image {number} wording {word}" for word in range(n)]


def karpathy(folder, n=4, **changes):
    """dataset_coco.json with images in val2014/, the last one of another split; six captions an image."""
    (folder / "images" / "val2014").mkdir(parents=True)
    entries = []
    for number in range(n):
        name = f"COCO_val2014_{number:012}.png"
        Image.new("RGB", (2, 2), color(number)).save(folder / "images" / "val2014" / name)
        split = "restval" if number == n - 1 else "test"
        sentences = [{"raw": text, "tokens": text.split()} for text in wordings(number)]
        entries.append({"filepath": "val2014", "filename": name, "split": split, "sentences": sentences})
    entries[1] |= changes
    (folder / "dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": entries}))


def coco(folder, n=3):
    """nocaps' annotations: images and captions apart."""
    (folder / "images").mkdir()
    for number in range(n):
        Image.new("RGB", (2, 2), color(number)).save(folder / "images" / f"{number}.png")
    images = [{"id": 10 + number, "file_name": f"{number}.png"} for number in range(n)]
    annotations = [{"image_id": 10 + i, "id": i, "caption": text} for i in range(n) for text in wordings(i)]
    content = {"images": images, "annotations": annotations[::-1]}
    (folder / "nocaps_val_4500_captions.json").write_text(json.dumps(content))
    return content


def meaning(n):
    return {text: color(number) for number in range(n) for text in wordings(number)}


def test_a_karpathy_file_has_its_split_and_five_captions_per_image(tmp_path, oracle):
    karpathy(tmp_path)
    embedder = oracle(meaning(4))
    result = evaluate_retrieval(embedder, tmp_path)
    assert (result.n_images, result.n_captions) == (3, 15)
    assert evaluate_retrieval(embedder, tmp_path, captions_per_image=6).n_captions == 18
    assert result.captions[:5] == tuple(wordings(0)[:5]) and result.owners[:6] == (0, 0, 0, 0, 0, 1)
    assert result.text_to_image[1].percent == result.image_to_text[1].percent == 100
    assert evaluate_retrieval(embedder, tmp_path / "dataset_coco.json", split="restval").n_images == 1
    with pytest.raises(BadInput, match="has no split 'train'; it has restval, test"):
        load_caption_file(tmp_path, split="train")


def test_repeated_captions_of_an_image_are_kept(tmp_path, oracle):
    karpathy(tmp_path, sentences=[{"raw": "image 1 wording 0"}] * 2 + [{"raw": "image 1 wording 1"}])
    result = evaluate_retrieval(oracle(meaning(4)), tmp_path, captions_per_image=5)
    assert result.n_captions == 13 and result.caption_ranks == (0,) * 13


def test_coco_annotations_are_joined_to_images_by_id(tmp_path, oracle):
    coco(tmp_path)
    result = evaluate_retrieval(oracle(meaning(3)), tmp_path)
    assert (result.n_images, result.n_captions, result.text_to_image[1].percent) == (3, 18, 100)


def test_blip_lists_are_read(tmp_path):
    karpathy(tmp_path, n=2)
    entries = [{"image": "val2014/COCO_val2014_000000000000.png", "caption": ["a", "b"]}]
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps(entries))
    (one,) = load_caption_file(tmp_path / "coco_karpathy_test.json", tmp_path / "images")
    assert one.captions == ("a", "b") and one.image.is_file()
    with pytest.raises(BadInput, match="holds dataset_coco.json, coco_karpathy_test.json; give one of these files"):
        load_caption_file(tmp_path)


@pytest.mark.parametrize("column", ["captions", "caption", "raw", "annotations_captions"])
def test_a_dataset_may_use_any_column_name_of_the_hub(column):
    rows = {"image": [Image.new("RGB", (2, 2), color(number)) for number in range(2)], column: [["a", "b"], ["c"]]}
    dataset = datasets.Dataset.from_dict(rows, features=datasets.Features(
        {"image": datasets.Image(), column: datasets.List(datasets.Value("string"))}
    ))  # fmt: skip
    assert [one.captions for one in load_caption_dataset(dataset)] == [("a", "b"), ("c",)]
    with pytest.raises(BadInput, match="columns image, words; image, captions are needed: rename"):
        load_caption_dataset(dataset.rename_columns({column: "words"}))


def test_only_rows_of_the_split_are_read_from_a_split_column():
    rows = {"image": [Image.new("RGB", (2, 2), color(n)) for n in range(4)], "caption": list("abcd")}
    dataset = datasets.Dataset.from_dict(rows | {"split": ["train", "test", "val", "test"]})
    assert [one.captions for one in load_caption_dataset(dataset)] == [("b",), ("d",)]
    assert len(load_caption_dataset(datasets.Dataset.from_dict(rows | {"split": ["x"] * 4}))) == 4
    with pytest.raises(BadInput, match="column 'split' has no 'validation'; it has test, train, val"):
        load_caption_dataset(dataset, split="validation")
    skipped: list[str] = []
    broken = dataset.map(lambda row, at: {"caption": " " if at == 3 else row["caption"]}, with_indices=True)
    assert len(load_caption_dataset(broken, skipped)) == 1 and skipped[0].startswith("dataset row 3: ")


@pytest.mark.parametrize(
    "change, reason",
    [
        (
            {"filename": "COCO_val2014_000000000000.png"},
            "image 1: COCO_.*0.png is also the id of .*image 0",
        ),
        ({"filename": "gone.png"}, "image 1: .*gone.png does not exist"),
        ({"filename": "../../x.png", "filepath": "."}, "image 1: 'image' .* leaves the folder"),
        ({"sentences": []}, "image 1: no caption; each image needs at least one"),
        ({"sentences": [{"text": "a"}]}, "image 1: found text; needed are raw"),
        ({"sentences": [{"raw": " "}]}, "image 1: 'caption' is an empty caption"),
    ],
)
def test_a_bad_image_raises_before_encoding_or_is_skipped(tmp_path, random_encoder, change, reason):
    karpathy(tmp_path, **change)
    with pytest.raises(BadInput, match=reason):
        evaluate_retrieval(random_encoder, tmp_path)
    assert random_encoder.images == random_encoder.texts == []
    result = evaluate_retrieval(random_encoder, tmp_path, on_error="skip")
    assert result.n_images == 2 and len(result.skipped) == len(result.as_dict()["skipped"]) == 1


def test_truncated_and_unknown_files_are_rejected(tmp_path):
    content = coco(tmp_path)
    path = tmp_path / "nocaps_val_4500_captions.json"
    complete = path.read_text()
    for text, reason in (
        (complete[:-40], "not JSON .*the file may be truncated: download it again"),
        ('{"pictures": []}', "found pictures; Karpathy's or COCO's images"),
        (json.dumps(content | {"annotations": [{"image": 1}]}), "annotation 0: found image; needed are image_id, cap"),
        (json.dumps(content | {"images": content["images"] * 2}), "image 3: 10 is also the id of .*image 0"),
        (json.dumps(content | {"images": [{"id": 1}]}), "image 0: found id; needed are id, file_name"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=reason):
            load_caption_file(tmp_path)
    with pytest.raises(BadInput, match="is not a folder; give image_folder="):
        load_caption_file(tmp_path, tmp_path / "nowhere")

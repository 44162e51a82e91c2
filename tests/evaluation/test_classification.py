"""Zero-shot classification against plain loops."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation import evaluate_classification, retrieval
from vladva_kit.evaluation.bootstrap import bootstrap_interval, bootstrap_means, interval_of
from vladva_kit.models.images import BadInput

CLASSES = ["blue_bird", "cat", "dog", "owl", "yak", "zebra"]


def color(label, number=0):
    return 40 * label, number % 256, number // 256


def write_folder(folder, each=3, split="test"):
    for label, name in enumerate(CLASSES):
        (folder / split / name).mkdir(parents=True)
        for number in range(each + (label == 2)):  # one more dog
            Image.new("RGB", (2, 2), color(label, number)).save(folder / split / name / f"{number}.png")
    (folder / split / "cat" / "notes.txt").write_text("not an image")


class Recognizes:
    """Recognizes the class of an image by its red, except for the labels in `wrong`; knows the words of each class."""

    def __init__(self, words, wrong=()):
        self.words, self.wrong, self.texts = list(words), wrong, []

    def encode_image(self, images):
        labels = [image.getpixel((0, 0))[0] // 40 for image in images]
        return np.eye(len(self.words), dtype=np.float32)[
            [(n + 1) % len(self.words) if n in self.wrong else n for n in labels]
        ]

    def encode_text(self, texts):
        self.texts += texts
        return np.eye(len(self.words), dtype=np.float32)[[self.words.index(text.split("a ")[-1]) for text in texts]]


WORDS = [name.replace("_", " ") for name in CLASSES]


def test_an_oracle_scores_100_and_a_constant_encoder_0(tmp_path, constant_encoder):
    write_folder(tmp_path)
    for embedder, percent, ties in ((Recognizes(WORDS), 100, 0), (constant_encoder, 0, 19)):
        result = evaluate_classification(embedder, tmp_path, templates=("a {}", "this is a {}"), ks=(1, 2))
        assert [result.top[1].percent, result.top[2].percent, result.mean_per_class.percent] == [percent] * 3
        assert (result.n, result.ties) == (19, ties)
    assert result.classes == tuple(WORDS)
    assert (result.top[1].chance, result.top[2].chance) == pytest.approx((100 / 6, 200 / 6))


def test_random_embeddings_score_at_chance(tmp_path, random_encoder):
    write_folder(tmp_path, each=80)
    result = evaluate_classification(random_encoder, tmp_path, ks=(3,))
    assert result.top[3].low <= 50 <= result.top[3].high


def test_accuracy_weights_images_and_the_mean_weights_classes(tmp_path):
    write_folder(tmp_path)
    result = evaluate_classification(Recognizes(WORDS, wrong=(2,)), tmp_path, templates=("a {}",))
    assert result.top[1].percent == pytest.approx(100 * 15 / 19)
    assert result.mean_per_class.percent == pytest.approx(100 * 5 / 6)
    assert result.per_class["dog"].percent == 0 and result.per_class["dog"].n == 4
    cases = list(result.per_case())
    assert {case.other for case in cases if not case.correct} == {"owl"}
    assert result.worst(1)[0].id == "dog/0.png"


def test_repeats_of_an_image_are_resampled_together(random_encoder):
    images = [Image.new("RGB", (2, 2), color(row % 3, row // 6)) for row in range(60)]  # each image twice
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    rows = {"image": images, "label": [row % 3 for row in range(60)]}
    result = evaluate_classification(random_encoder, datasets.Dataset.from_dict(rows, features=features))
    cases = list(result.per_case())
    groups, correct = [case.image for case in cases], [case.correct for case in cases]
    assert len(set(groups)) == 30
    assert (result.top[1].low, result.top[1].high) == bootstrap_interval(correct, groups=groups)
    means = bootstrap_means(correct, groups=groups, parts=[case.category for case in cases])
    assert (result.mean_per_class.low, result.mean_per_class.high) == interval_of(means)


def test_a_class_embedding_is_the_normalized_mean_of_its_sentences(tmp_path, random_encoder, monkeypatch):
    write_folder(tmp_path, each=8)
    monkeypatch.setattr(retrieval, "BLOCK", 5)
    templates = ("a photo of a {}.", "a drawing of a {}.", "a {}")
    result = evaluate_classification(random_encoder, tmp_path, templates=templates, ks=(1, 5))
    means = []
    for name in WORDS:
        mean = np.mean([random_encoder.unit([template.format(name)])[0].numpy() for template in templates], axis=0)
        means.append(mean / np.linalg.norm(mean))
    hits = {1: 0, 5: 0}
    for case in result.cases:
        label, number = case.label, int(case.id.split("/")[1].split(".")[0])
        scores = np.array(means) @ random_encoder.unit([color(label, number)])[0].numpy()
        for k in hits:
            hits[k] += label in np.argsort(-scores)[:k]
    assert {k: one.percent for k, one in result.top.items()} == pytest.approx(
        {k: 100 * n / 49 for k, n in hits.items()}
    )


def test_a_dataset_scores_like_the_folder_and_classes_can_be_renamed(tmp_path):
    write_folder(tmp_path)
    expected = evaluate_classification(Recognizes(WORDS, wrong=(1,)), tmp_path, templates=("a {}",))
    paths = [path for name in CLASSES for path in sorted((tmp_path / "test" / name).glob("*.png"))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    rows = {"image": [str(path) for path in paths], "label": [path.parent.name for path in paths]}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    found = evaluate_classification(Recognizes(WORDS, wrong=(1,)), dataset, templates=("a {}",))
    assert found.top == expected.top
    names = {name: f"big {name}" for name in CLASSES}
    renamed = Recognizes([f"big {name}" for name in CLASSES])
    assert evaluate_classification(renamed, dataset, ("a {}",), names).classes == tuple(names.values())
    assert evaluate_classification(renamed, dataset, ("a {}",), list(names.values())).top[1].percent == 100


def test_as_dict_survives_json(tmp_path, random_encoder):
    write_folder(tmp_path)
    plain = evaluate_classification(random_encoder, tmp_path).as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["templates"] == ["a photo of a {}."] and plain["accuracy"]["top-1"]["n"] == 19


def test_a_bad_image_raises_or_is_skipped(tmp_path, random_encoder):
    write_folder(tmp_path)
    (tmp_path / "test" / "owl" / "1.png").write_bytes(b"not an image")
    with pytest.raises(BadInput, match="owl/1.png: .*cannot be read"):
        evaluate_classification(random_encoder, tmp_path)
    assert random_encoder.images == []
    result = evaluate_classification(random_encoder, tmp_path, on_error="skip")
    assert result.n == 18 and len(result.skipped) == 1


def test_bad_templates_class_names_and_folders_are_rejected(tmp_path, random_encoder):
    write_folder(tmp_path)
    dataset = datasets.Dataset.from_dict({"picture": ["a.png"], "label": [1]})
    for call, reason in (
        (
            lambda: evaluate_classification(random_encoder, tmp_path, ("a photo",)),
            "templates hold 'a photo'; give a list",
        ),
        (lambda: evaluate_classification(random_encoder, tmp_path, "a {}"), "templates hold"),
        (lambda: evaluate_classification(random_encoder, tmp_path, (), None), "templates hold"),
        (lambda: evaluate_classification(random_encoder, tmp_path, class_names=["a"]), "1 class names for 6 classes"),
        (lambda: evaluate_classification(random_encoder, tmp_path, class_names="abcdef"), "class_names is the text"),
        (lambda: evaluate_classification(random_encoder, tmp_path, class_names={"cat": "cat"}), "lacks blue_bird, dog"),
        (lambda: evaluate_classification(random_encoder, tmp_path / "nowhere"), "is not a folder; give an ImageFolder"),
        (lambda: evaluate_classification(random_encoder, tmp_path / "test" / "owl"), "holds no folders"),
        (
            lambda: evaluate_classification(random_encoder, dataset),
            "columns picture, label; image, label are needed",
        ),
    ):
        with pytest.raises(BadInput, match=reason):
            call()
    with pytest.raises(ValueError, match="each k must be at least 1"):
        evaluate_classification(random_encoder, tmp_path, ks=())


def test_classes_of_one_name_are_kept_and_their_images_count_as_wrong(tmp_path):
    """CLIP's own ImageNet names hold "missile" and "sunglasses" twice, and published results are made with them."""
    write_folder(tmp_path)
    names = ["blue bird", "cat", "dog", "cat", "yak", "zebra"]
    with pytest.warns(UserWarning, match=r"images of classes that share a name count as wrong: 'cat' \(2 classes\)"):
        result = evaluate_classification(Recognizes(WORDS), tmp_path, ("a {}",), class_names=names)
    assert result.classes == ("blue bird", "cat (class 1)", "dog", "cat (class 3)", "yak", "zebra")
    assert result.per_class["cat (class 1)"].percent == result.per_class["cat (class 3)"].percent == 0
    assert result.per_class["dog"].percent == 100 and result.n == 19


def test_labels_without_names_are_refused_with_the_ways_out(random_encoder):
    images = [Image.new("RGB", (2, 2), color(label)) for label in range(2)]
    for labels, named in (([0, 1], None), (["cat", "dog"], None)):
        rows = datasets.Dataset.from_dict({"image": images, "label": labels})
        with pytest.raises(BadInput, match=r"give class_names=.* or make the column a ClassLabel with .*class_encode"):
            evaluate_classification(random_encoder, rows, class_names=named)
    with pytest.raises(BadInput, match="the label is 'cat'; it must be a number .*class_encode_column"):
        evaluate_classification(random_encoder, rows, class_names=["cat", "dog"])


def test_hidden_folders_are_no_classes_and_images_may_lie_deeper(tmp_path):
    write_folder(tmp_path)
    folder = tmp_path / "test"
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
        (folder / name).mkdir()
        Image.new("RGB", (2, 2)).save(folder / name / "0.png")
    (folder / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    (folder / "cat" / "kittens").mkdir()
    Image.new("RGB", (2, 2), color(1, 99)).save(folder / "cat" / "kittens" / "0.JFIF", "JPEG")
    result = evaluate_classification(Recognizes(WORDS), tmp_path, ("a {}",))
    assert result.classes == tuple(WORDS) and result.n == 20
    assert "cat/kittens/0.JFIF" in {case.id for case in result.cases}


def test_a_class_without_images_is_named(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test" / "empty").mkdir()
    with pytest.warns(UserWarning, match="no images in the classes empty, which are still possible answers"):
        assert len(evaluate_classification(Recognizes([*WORDS, "empty"]), tmp_path, ("a {}",)).classes) == 7


def test_splits_are_not_taken_for_classes(tmp_path, random_encoder):
    for split in ("train", "val"):
        for name in ("dog", "train"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / "0.png")
    with pytest.raises(BadInput, match="has no split 'test'; it has train, val"):
        evaluate_classification(random_encoder, tmp_path)
    assert evaluate_classification(random_encoder, tmp_path, split="val").classes == ("dog", "train")


@pytest.mark.parametrize("labels", [[True, False], [0.0, 1.0]])
def test_a_label_that_is_no_whole_number_is_named(random_encoder, labels):
    images = [Image.new("RGB", (4, 4), (label, 0, 0)) for label in (1, 2)]
    dataset = datasets.Dataset.from_dict({"image": images, "label": labels}).cast_column("image", datasets.Image())
    with pytest.raises(BadInput, match=f"row 0: the label is {labels[0]}; it must be a number from 0 to 1 .int."):
        evaluate_classification(random_encoder, dataset, class_names=["a", "b"])

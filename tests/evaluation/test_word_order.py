"""ARO's word order against plain loops, and its files."""

import json

import datasets
import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation import evaluate_word_order
from vladva_kit.evaluation.bootstrap import bootstrap_interval, bootstrap_means, interval_of
from vladva_kit.evaluation.word_order import choice_margin
from vladva_kit.models.images import BadInput


def color(number):
    return number % 256, number // 256, 5


def write_genome(folder, n=12, name="visual_genome_relation.json", **changes):
    """ARO's relations: two cases per image, each with a box of one color."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(n):
        path = folder / "images" / f"{number // 2}.png"
        image = Image.open(path).convert("RGB") if path.exists() else Image.new("RGB", (8, 4))
        box = (4 * (number % 2), 0, 4, 4)
        image.paste(color(number), (box[0], 0, box[0] + 4, 4))
        image.save(path)
        entries.append({
            "image_path": path.name,
            **dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True)),
            "true_caption": f"the {number} is on the floor",
            "false_caption": f"the floor is on the {number}",
            "relation_name": "on" if number < n - 3 else "near",
        })  # fmt: skip
    entries[1] |= changes
    (folder / name).write_text(json.dumps(entries))
    return entries


def write_order(folder, n=6, wrong=4, **changes):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(n):
        Image.new("RGB", (2, 2), color(100 + number)).save(folder / "images" / f"o{number}.png")
        options = [f"picture {number}", *(f"{number} shuffled {way}" for way in range(wrong))]
        entries.append({"image": f"o{number}.png", "caption_options": options})
    entries[1] |= changes
    (folder / "coco_order.json").write_text(json.dumps(entries))
    return entries


def meaning(genome=12, order=6):
    known = {f"the {number} is on the floor": color(number) for number in range(genome)}
    return known | {f"picture {number}": color(100 + number) for number in range(order)}


@pytest.mark.parametrize("wrong", [1, 4])
def test_the_rule_equals_a_loop_with_strict_ties(wrong):
    scores = np.random.default_rng(0).integers(0, 9, (300, 1 + wrong)) / 9
    margins = [choice_margin(true, false) for true, *false in scores for false in [np.array(false)]]
    assert [margin > 0 for margin in margins] == [all(true > one for one in false) for true, *false in scores]
    assert [margin == 0 for margin in margins] == [true == max(false) for true, *false in scores] and 0 in margins


def test_an_oracle_scores_100_and_a_constant_encoder_0(tmp_path, oracle, constant_encoder):
    write_genome(tmp_path)
    write_order(tmp_path)
    for embedder, percent, ties in ((oracle(meaning()), 100, 0), (constant_encoder, 0, 18)):
        result = evaluate_word_order(embedder, tmp_path)
        assert [one.percent for one in (*result.accuracy.values(), *result.macro.values())] == [percent] * 3
        assert (result.n, result.ties) == (18, ties)
    assert list(result.accuracy) == ["relation", "coco_order"] and list(result.macro) == ["relation"]
    assert (result.accuracy["relation"].chance, result.accuracy["coco_order"].chance) == (50, 20)


def test_images_are_cropped_to_the_box(tmp_path, random_encoder):
    write_genome(tmp_path, n=4)
    evaluate_word_order(random_encoder, tmp_path)
    assert random_encoder.images == [
        color(number) for number in range(4)
    ]  # the encoder records the first pixel of each


def test_boxes_of_one_image_are_resampled_together(tmp_path, random_encoder):
    write_genome(tmp_path, n=40)
    result = evaluate_word_order(random_encoder, tmp_path)
    cases = list(result.per_case())
    assert len({case.image for case in cases}) == 20
    groups, correct = [case.image for case in cases], [case.correct for case in cases]
    accuracy, macro = result.accuracy["relation"], result.macro["relation"]
    assert (accuracy.low, accuracy.high) == bootstrap_interval(correct, groups=groups)
    means = bootstrap_means(correct, groups=groups, parts=[case.category for case in cases])
    assert (macro.low, macro.high) == interval_of(means)


def test_random_embeddings_score_at_chance(tmp_path, random_encoder):
    write_order(tmp_path, n=400)
    found = evaluate_word_order(random_encoder, tmp_path).accuracy["coco_order"]
    assert found.low <= found.chance == 20 <= found.high


def test_the_mean_weights_relations_equally_and_leaves_out_those_named(tmp_path, oracle):
    entries = write_genome(tmp_path)
    known = {text: color for text, color in meaning().items() if int(text.split()[1]) < 9}  # "on" has 9 of 12
    known |= {entry["false_caption"]: color(number) for number, entry in enumerate(entries) if number >= 9}
    result = evaluate_word_order(oracle(known), tmp_path)
    assert result.accuracy["relation"].percent == pytest.approx(75)
    assert result.macro["relation"].percent == 50
    assert {name: (one.percent, one.n) for name, one in result.breakdown["relation"].items()} == {
        "near": (0, 3),
        "on": (100, 9),
    }
    assert evaluate_word_order(oracle(known), tmp_path, without=["near"]).macro["relation"].percent == 100


def test_rare_pairs_of_attributes_are_not_in_the_mean(tmp_path, random_encoder):
    entries = write_genome(tmp_path, n=30, name="visual_genome_attribution.json")
    for number, entry in enumerate(entries):
        del entry["relation_name"]
        entry["attributes"] = ["wet", "old"] if number < 25 else ["red", "old"]
    (tmp_path / "visual_genome_attribution.json").write_text(json.dumps(entries))
    result = evaluate_word_order(random_encoder, tmp_path)
    assert list(result.breakdown["attribution"]) == ["wet_old"] and result.macro["attribution"].n == 25
    assert result.accuracy["attribution"].n == 30


@pytest.mark.parametrize("true, wrong", [("true_caption", ["false_caption"]), ("correct_caption", ["hard_text_1"])])
def test_a_dataset_may_use_the_column_names_of_the_hub(true, wrong, oracle):
    rows = [{"image": Image.new("RGB", (2, 2), color(n)), true: f"the {n} is on the floor"} for n in range(4)]
    features = {"image": datasets.Image(), true: datasets.Value("string"), wrong[0]: datasets.Value("string")}
    dataset = datasets.Dataset.from_list([row | {wrong[0]: "no"} for row in rows], features=datasets.Features(features))
    result = evaluate_word_order(oracle(meaning()), dataset)
    assert result.accuracy["accuracy"].percent == 100 and result.n == 4
    with pytest.raises(BadInput, match="the dataset has the columns .*image, true_caption, false_caption are needed"):
        evaluate_word_order(oracle(meaning()), dataset.rename_columns({true: "text"}))


def test_scores_equal_a_loop_over_the_options(tmp_path, random_encoder):
    entries = write_order(tmp_path, n=40)
    result = evaluate_word_order(random_encoder, tmp_path)
    right = []
    for number, entry in enumerate(entries):
        image = random_encoder.unit([color(100 + number)])[0].numpy()
        scores = [image @ random_encoder.unit([text])[0].numpy() for text in entry["caption_options"]]
        right.append(all(scores[0] > other for other in scores[1:]))
    assert result.accuracy["coco_order"].percent == pytest.approx(100 * np.mean(right))
    assert [case.correct for case in result.per_case()] == right
    plain = result.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["accuracy"] == plain["accuracy"]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"image_path": "gone.png"}, "entry 1: .*gone.png does not exist"),
        ({"bbox_w": 0}, "entry 1: the box .* has no width or height"),
        ({"bbox_h": 0.5}, "entry 1: the box .* has no width or height"),
        ({"bbox_x": float("nan")}, "entry 1: the box .* has no width or height"),
        ({"bbox_w": float("inf")}, "entry 1: the box .* has no width or height"),
        ({"bbox_x": 8}, "entry 1: the box .* holds no pixel of the image of 8 x 4"),
        ({"bbox_y": -4}, "entry 1: the box .* holds no pixel of the image of 8 x 4"),
        ({"false_caption": None}, "entry 1: 'caption' is None"),
    ],
)
def test_a_bad_entry_raises_before_encoding_or_is_skipped(tmp_path, random_encoder, change, reason):
    write_genome(tmp_path, **change)
    with pytest.raises(BadInput, match=f"visual_genome_relation.json, {reason}"):
        evaluate_word_order(random_encoder, tmp_path)
    assert random_encoder.images == random_encoder.texts == []
    result = evaluate_word_order(random_encoder, tmp_path, on_error="skip")
    assert result.n == 11 and len(result.skipped) == 1


def test_other_files_are_rejected(tmp_path, random_encoder):
    write_order(tmp_path, caption_options=["only one"])
    with pytest.raises(BadInput, match="coco_order.json, entry 1: .* is not a list of a true caption and at"):
        evaluate_word_order(random_encoder, tmp_path)
    path = tmp_path / "coco_order.json"
    for text, reason in (
        ("{}", "found an empty JSON dict; a list of entries is needed"),
        ("[{", "not JSON"),
        ('[{"image": 1}]', "found image"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=reason):
            evaluate_word_order(random_encoder, tmp_path)
    path.unlink()
    with pytest.raises(BadInput, match="does not hold, any of visual_genome_relation.json"):
        evaluate_word_order(random_encoder, tmp_path)

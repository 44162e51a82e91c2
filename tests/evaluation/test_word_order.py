import json

import datasets
import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation import evaluate_word_order
from vladva_kit.models.images import BadInput


def color(number):
    return number % 256, number // 256, 5


def write_genome(folder, n=12, name="visual_genome_relation.json", **changes):
    """ARO's relations: two cases an image, whose boxes hold one color each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for number in range(n):
        path = folder / "images" / f"{number // 2}.png"
        picture = Image.open(path).convert("RGB") if path.exists() else Image.new("RGB", (8, 4))
        box = (4 * (number % 2), 0, 4, 4)
        picture.paste(color(number), (box[0], 0, box[0] + 4, 4))
        picture.save(path)
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


def test_an_encoder_that_knows_has_100_and_one_that_sees_nothing_has_0(tmp_path, knowing, blind):
    write_genome(tmp_path)
    write_order(tmp_path)
    for embedder, percent, ties in ((knowing(meaning()), 100, 0), (blind, 0, 18)):
        result = evaluate_word_order(embedder, tmp_path)
        assert [one.percent for one in (*result.accuracy.values(), *result.macro.values())] == [percent] * 3
        assert (result.n, result.ties) == (18, ties)
    assert list(result.accuracy) == ["relation", "coco_order"] and list(result.macro) == ["relation"]
    assert (result.accuracy["relation"].chance, result.accuracy["coco_order"].chance) == (50, 20)


def test_pictures_are_cut_to_the_box(tmp_path, guessing):
    write_genome(tmp_path, n=4)
    evaluate_word_order(guessing, tmp_path)
    assert guessing.images == [color(number) for number in range(4)]  # the fake tells a picture by its first pixel


def test_guessing_is_at_chance_within_its_interval(tmp_path, guessing):
    write_order(tmp_path, n=400)
    found = evaluate_word_order(guessing, tmp_path).accuracy["coco_order"]
    assert found.low <= found.chance == 20 <= found.high


def test_the_mean_counts_relations_the_same_and_leaves_out_those_named(tmp_path, knowing):
    entries = write_genome(tmp_path)
    known = {text: color for text, color in meaning().items() if int(text.split()[1]) < 9}  # "on" has 9 of 12
    known |= {entry["false_caption"]: color(number) for number, entry in enumerate(entries) if number >= 9}
    result = evaluate_word_order(knowing(known), tmp_path)
    assert result.accuracy["relation"].percent == pytest.approx(75)
    assert result.macro["relation"].percent == 50
    assert {name: (one.percent, one.n) for name, one in result.breakdown["relation"].items()} == {
        "near": (0, 3),
        "on": (100, 9),
    }
    assert evaluate_word_order(knowing(known), tmp_path, without=["near"]).macro["relation"].percent == 100


def test_pairs_of_attributes_with_few_cases_are_not_in_the_mean(tmp_path, guessing):
    entries = write_genome(tmp_path, n=30, name="visual_genome_attribution.json")
    for number, entry in enumerate(entries):
        del entry["relation_name"]
        entry["attributes"] = ["wet", "old"] if number < 25 else ["red", "old"]
    (tmp_path / "visual_genome_attribution.json").write_text(json.dumps(entries))
    result = evaluate_word_order(guessing, tmp_path)
    assert list(result.breakdown["attribution"]) == ["wet_old"] and result.macro["attribution"].n == 25
    assert result.accuracy["attribution"].n == 30


@pytest.mark.parametrize("true, wrong", [("true_caption", ["false_caption"]), ("correct_caption", ["hard_text_1"])])
def test_a_dataset_is_read_by_the_names_its_columns_have_on_the_hub(true, wrong, knowing):
    rows = [{"image": Image.new("RGB", (2, 2), color(n)), true: f"the {n} is on the floor"} for n in range(4)]
    features = {"image": datasets.Image(), true: datasets.Value("string"), wrong[0]: datasets.Value("string")}
    dataset = datasets.Dataset.from_list([row | {wrong[0]: "no"} for row in rows], features=datasets.Features(features))
    result = evaluate_word_order(knowing(meaning()), dataset)
    assert result.accuracy["accuracy"].percent == 100 and result.n == 4
    with pytest.raises(BadInput, match="the dataset has the columns .*needed are image, true_caption and false_cap"):
        evaluate_word_order(knowing(meaning()), dataset.rename_columns({true: "text"}))


def test_scores_equal_a_plain_loop_and_margins_are_kept(tmp_path, guessing):
    entries = write_order(tmp_path, n=40)
    result = evaluate_word_order(guessing, tmp_path)
    right = []
    for number, entry in enumerate(entries):
        image = guessing._unit([color(100 + number)])[0].numpy()
        scores = [image @ guessing._unit([text])[0].numpy() for text in entry["caption_options"]]
        right.append(all(scores[0] > other for other in scores[1:]))
    assert result.accuracy["coco_order"].percent == pytest.approx(100 * np.mean(right))
    assert [case.correct for case in result.margins()] == right
    plain = result.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["accuracy"] == plain["accuracy"]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"image_path": "gone.png"}, "entry 1: .*gone.png does not exist"),
        ({"bbox_w": 0}, "entry 1: the box .* has no width or height"),
        ({"false_caption": None}, "entry 1: 'caption' is None"),
    ],
)
def test_a_bad_entry_is_named_and_nothing_is_scored_unless_asked(tmp_path, guessing, change, reason):
    write_genome(tmp_path, **change)
    with pytest.raises(BadInput, match=f"visual_genome_relation.json, {reason}"):
        evaluate_word_order(guessing, tmp_path)
    assert guessing.images == guessing.texts == []
    result = evaluate_word_order(guessing, tmp_path, on_error="skip")
    assert result.n == 11 and len(result.skipped) == 1


def test_other_files_are_refused_in_one_sentence(tmp_path, guessing):
    write_order(tmp_path, caption_options=["only one"])
    with pytest.raises(BadInput, match="coco_order.json, entry 1: .* is no list of a true caption and at least one wr"):
        evaluate_word_order(guessing, tmp_path)
    path = tmp_path / "coco_order.json"
    for text, reason in (
        ("{}", "a JSON dict; needed is a list"),
        ("[{", "not JSON"),
        ('[{"image": 1}]', "found image"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=reason):
            evaluate_word_order(guessing, tmp_path)
    path.unlink()
    with pytest.raises(BadInput, match="holds none of, visual_genome_relation.json"):
        evaluate_word_order(guessing, tmp_path)

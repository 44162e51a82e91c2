"""Winoground's rule against a plain loop, and its files."""

import json

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from vladva_kit.evaluation import evaluate_winoground
from vladva_kit.evaluation.bootstrap import bootstrap_interval
from vladva_kit.evaluation.winoground import winoground_margins
from vladva_kit.models.images import BadInput


def color(case, index):
    return case % 256, case // 256, index


def write_cases(folder, n, **changes):
    """`n` cases in the format of facebook/winoground: PNG images named without a suffix, one of them RGBA."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for case in range(n):
        for index in range(2):
            mode = "RGBA" if case == 0 else "RGB"
            picture = Image.new("RGB", (3, 3), color(case, index)).convert(mode)
            picture.save(folder / "images" / f"ex_{case}_img_{index}.png")
        images = {f"image_{index}": f"ex_{case}_img_{index}" for index in range(2)}
        captions = {f"caption_{index}": f"case {case} caption {index}" for index in range(2)}
        tags = {"tag": "Noun", "secondary_tag": "", "num_main_preds": 1 + case % 2}
        tags["collapsed_tag"] = ("Object", "Relation")[case % 2]
        rows.append({"id": case, **images, **captions, **tags, **changes})
    write_rows(folder, rows)
    return rows


def write_rows(folder, rows):
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def meaning(n):
    return {f"case {case} caption {index}": color(case, index) for case in range(n) for index in range(2)}


def test_the_rule_equals_a_loop_with_ties():
    scores = np.random.default_rng(0).integers(0, 4, (300, 2, 2)) / 4
    margins = winoground_margins(scores)
    for case, ((i0c0, i0c1), (i1c0, i1c1)) in enumerate(scores):
        text, image = i0c0 > i0c1 and i1c1 > i1c0, i0c0 > i1c0 and i1c1 > i0c1
        right = {name: part.correct[case] for name, part in margins.items()}
        assert right == {"text": text, "image": image, "group": text and image}
        assert margins["group"].tied[case] == (i0c0 in (i0c1, i1c0) or i1c1 in (i1c0, i0c1))
    assert margins["group"].tied.any() and not winoground_margins(np.ones((5, 2, 2)))["text"].correct.any()


def test_the_rule_distinguishes_images_from_captions():
    # both images prefer their own caption, but the first image has the highest score for both captions
    margins = winoground_margins(torch.tensor([[[0.75, 0.5], [0.0, 0.25]]], dtype=torch.bfloat16, requires_grad=True))
    assert [margins[name].correct.tolist() for name in ("text", "image", "group")] == [[True], [False], [False]]


@pytest.mark.parametrize("shape, reason", [((4, 2, 3), r"shape \(4, 2, 3\)"), ((0, 2, 2), "none of them empty")])
def test_scores_of_another_shape_are_rejected(shape, reason):
    with pytest.raises(ValueError, match=reason):
        winoground_margins(np.ones(shape))


def test_an_oracle_scores_100_and_a_constant_encoder_0(tmp_path, oracle, constant_encoder):
    write_cases(tmp_path, 6)
    for embedder, percent, ties in ((oracle(meaning(6)), 100, 0), (constant_encoder, 0, 6)):
        result = evaluate_winoground(embedder, tmp_path)
        assert [result.text.percent, result.image.percent, result.group.percent] == [percent] * 3
        assert (result.n, result.ties, result.text.ties) == (6, ties, ties)


def test_random_embeddings_score_at_chance(tmp_path, random_encoder):
    write_cases(tmp_path, 400)
    result = evaluate_winoground(random_encoder, tmp_path)
    for found, chance in ((result.text, 25), (result.image, 25), (result.group, 100 / 6)):
        assert found.chance == chance
        assert found.low <= chance <= found.high


def test_a_dataset_scores_like_the_folder(tmp_path, random_encoder):
    rows = write_cases(tmp_path, 8)
    stored = [
        row | {key: str(tmp_path / "images" / f"{row[key]}.png") for key in ("image_0", "image_1")} for row in rows
    ]
    dataset = datasets.Dataset.from_list(stored)
    dataset = dataset.cast_column("image_0", datasets.Image()).cast_column("image_1", datasets.Image())
    expected = evaluate_winoground(random_encoder, tmp_path).as_dict()
    assert evaluate_winoground(random_encoder, dataset).as_dict() == expected
    assert evaluate_winoground(random_encoder, datasets.DatasetDict(test=dataset)).as_dict() == expected
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "examples.jsonl").rename(tmp_path / "snapshot" / "examples.jsonl")
    (tmp_path / "images").rename(tmp_path / "snapshot" / "images")
    (tmp_path / "snapshot").rename(tmp_path / "data")
    assert evaluate_winoground(random_encoder, tmp_path).as_dict() == expected


def test_similarities_are_indexed_by_image_then_caption(tmp_path, random_encoder):
    write_cases(tmp_path, 3)
    case = evaluate_winoground(random_encoder, tmp_path).cases[2]
    images = [Image.new("RGB", (1, 1), color(2, index)) for index in range(2)]
    expected = random_encoder.encode_image(images) @ random_encoder.encode_text(list(case.captions)).T
    assert np.array(case.similarities) == pytest.approx(expected.numpy(), abs=1e-6)
    (s00, s01), (s10, s11) = case.similarities
    assert case.text_margin == min(s00 - s01, s11 - s10)
    assert case.image_margin == min(s00 - s10, s11 - s01)


def test_each_image_and_caption_is_encoded_once_in_batches(tmp_path, random_encoder):
    rows = write_cases(tmp_path, 5)
    rows[3] |= {"image_0": rows[0]["image_0"], "caption_0": rows[0]["caption_0"]}
    write_rows(tmp_path, rows)
    result = evaluate_winoground(random_encoder, tmp_path, batch_size=4)
    assert len(random_encoder.images) == len(set(random_encoder.images)) == 9
    assert len(random_encoder.texts) == len(set(random_encoder.texts)) == 9
    assert random_encoder.batches == [4, 4, 1]
    assert result.cases[3].similarities[0][0] == result.cases[0].similarities[0][0]


def test_scores_are_reported_by_tag(tmp_path, oracle):
    write_cases(tmp_path, 10)
    known = {text: color for text, color in meaning(10).items() if int(text.split()[1]) % 2 == 0}
    result = evaluate_winoground(oracle(known), tmp_path)
    parts = result.breakdown["collapsed_tag"]
    assert list(parts) == ["Object", "Relation"]
    assert parts["Object"]["group"].percent == 100 and parts["Object"]["group"].n == 5
    expected = np.mean([case.text_margin > 0 for case in result.cases if case.tags["collapsed_tag"] == "Relation"])
    assert parts["Relation"]["text"].percent == 100 * expected
    assert list(result.breakdown["num_main_preds"]) == ["1", "2"]
    assert "secondary_tag" not in result.breakdown


def test_worst_returns_the_lowest_margins_with_their_images(tmp_path, random_encoder):
    write_cases(tmp_path, 12)
    result = evaluate_winoground(random_encoder, tmp_path)
    worst = result.worst(3)
    assert [case.group_margin for case in worst] == sorted(case.group_margin for case in result.cases)[:3]
    assert worst[0].images[1].name == f"ex_{worst[0].id}_img_1.png"


def test_as_dict_survives_json(tmp_path, random_encoder):
    write_cases(tmp_path, 4)
    plain = evaluate_winoground(random_encoder, tmp_path).as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)).keys() == plain.keys()
    assert plain["cases"][0]["id"] == "0" and "images" not in plain["cases"][0]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"id": 0}, r"line 2: 0 is also the id of .*line 1"),
        ({"id": None}, "line 2: the id is None"),
        ({"image_1": "ex_9_img_1"}, "line 2: .*ex_9_img_1.png does not exist"),
        ({"image_1": "ex_9_img_1.jpg"}, "line 2: .*ex_9_img_1.jpg does not exist"),
        ({"image_1": "../secret"}, "line 2: 'image_1' '../secret' leaves the folder"),
        ({"caption_0": ""}, "line 2: 'caption_0' is an empty caption"),
        ({"caption_0": ["a"]}, "line 2: 'caption_0' is .*of type list"),
    ],
)
def test_a_bad_case_raises_before_encoding(tmp_path, random_encoder, change, reason):
    rows = write_cases(tmp_path, 3)
    write_rows(tmp_path, [rows[0], rows[1] | change, rows[2]])
    with pytest.raises(BadInput, match=reason):
        evaluate_winoground(random_encoder, tmp_path)
    assert random_encoder.images == random_encoder.texts == []


def test_bad_cases_can_be_skipped(tmp_path, random_encoder):
    rows = write_cases(tmp_path, 5)
    complete = evaluate_winoground(random_encoder, tmp_path)
    write_rows(tmp_path, [rows[0], rows[1] | {"image_0": "gone"}, rows[2], rows[3] | {"id": 0}, rows[4]])
    with (tmp_path / "examples.jsonl").open("a") as lines:
        lines.write('{"id": 5, "image_0"')
    result = evaluate_winoground(random_encoder, tmp_path, on_error="skip")
    assert [case.id for case in result.cases] == ["0", "2", "4"]
    assert [f"line {line}:" in reason for line, reason in zip((2, 4, 6), result.skipped, strict=True)] == [True] * 3
    assert result.data != complete.data and result.as_dict()["skipped"] == list(result.skipped)
    assert result.cases[1].similarities == complete.cases[2].similarities


def test_per_case_has_each_case_and_score(tmp_path, random_encoder):
    write_cases(tmp_path, 9)
    result = evaluate_winoground(random_encoder, tmp_path)
    cases = list(result.per_case())
    assert len({case.key for case in cases}) == len(cases) == 27
    for name in ("text", "image", "group"):
        correct = [case.correct for case in cases if case.score == name]
        assert 100 * np.mean(correct) == pytest.approx(getattr(result, name).percent)
    assert {case.category for case in cases} == {"Object", "Relation"}
    assert [case.tags for case in cases[::3]] == [tuple(case.tags.values()) for case in result.cases]


def test_cases_that_share_an_image_are_resampled_together(tmp_path, random_encoder):
    rows = write_cases(tmp_path, 40)
    apart = evaluate_winoground(random_encoder, tmp_path)
    for case, row in enumerate(rows):  # five cases share their first image
        row["image_0"] = f"ex_{case // 5}_img_0"
    write_rows(tmp_path, rows)
    result = evaluate_winoground(random_encoder, tmp_path)
    cases = [case for case in result.per_case() if case.score == "text"]
    assert [case.image for case in cases] == [str(case // 5 * 5) for case in range(40)]
    clustered = bootstrap_interval([case.correct for case in cases], groups=[case.image for case in cases])
    assert (result.text.low, result.text.high) == clustered
    assert [case.image for case in apart.per_case()][::3] == [str(case) for case in range(40)]


def test_other_columns_and_broken_files_are_rejected(tmp_path, random_encoder):
    rows = write_cases(tmp_path, 2)
    with pytest.raises(BadInput, match="the dataset: found id, image, text; needed are id, image_0"):
        evaluate_winoground(random_encoder, datasets.Dataset.from_dict({"id": [1], "image": ["a.png"], "text": ["a"]}))
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1])[:-9])
    with pytest.raises(BadInput, match="line 2: not JSON"):
        evaluate_winoground(random_encoder, tmp_path)
    path.write_text("")
    with pytest.raises(BadInput, match="no usable case"):
        evaluate_winoground(random_encoder, tmp_path)
    path.unlink()
    with pytest.raises(BadInput, match="holds no examples.jsonl; give Winoground's folder"):
        evaluate_winoground(random_encoder, tmp_path)


def test_images_that_are_not_unpacked_are_reported(tmp_path, random_encoder):
    write_cases(tmp_path, 1)
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(BadInput, match="unpack Winoground's images.zip"):
        evaluate_winoground(random_encoder, tmp_path)


def test_embeddings_without_unit_length_are_rejected(tmp_path, random_encoder):
    write_cases(tmp_path, 1)
    unit = random_encoder.encode_text
    random_encoder.encode_text = lambda texts: 3 * unit(texts)
    with pytest.raises(ValueError, match="encode_text returned an embedding of length 3 .*divide each by its norm"):
        evaluate_winoground(random_encoder, tmp_path)
    random_encoder.encode_text = lambda texts: float("nan") * unit(texts)
    with pytest.raises(ValueError, match="length nan"):
        evaluate_winoground(random_encoder, tmp_path)

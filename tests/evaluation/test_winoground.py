import json

import datasets
import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation import evaluate_winoground
from vladva_kit.models.images import BadInput


def color(case, place):
    return case % 256, case // 256, place


def write_cases(folder, n, **changes):
    """`n` cases as facebook/winoground writes them: image names without ending, PNG, one of them RGBA."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for case in range(n):
        for place in range(2):
            mode = "RGBA" if case == 0 else "RGB"
            picture = Image.new("RGB", (3, 3), color(case, place)).convert(mode)
            picture.save(folder / "images" / f"ex_{case}_img_{place}.png")
        images = {f"image_{place}": f"ex_{case}_img_{place}" for place in range(2)}
        captions = {f"caption_{place}": f"case {case} caption {place}" for place in range(2)}
        tags = {"tag": "Noun", "secondary_tag": "", "num_main_preds": 1 + case % 2}
        tags["collapsed_tag"] = ("Object", "Relation")[case % 2]
        rows.append({"id": case, **images, **captions, **tags, **changes})
    write_rows(folder, rows)
    return rows


def write_rows(folder, rows):
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def meaning(n):
    return {f"case {case} caption {place}": color(case, place) for case in range(n) for place in range(2)}


def test_an_encoder_that_knows_has_100_and_one_that_sees_nothing_has_0(tmp_path, knowing, blind):
    write_cases(tmp_path, 6)
    for embedder, percent, ties in ((knowing(meaning(6)), 100, 0), (blind, 0, 6)):
        result = evaluate_winoground(embedder, tmp_path)
        assert [result.text.percent, result.image.percent, result.group.percent] == [percent] * 3
        assert (result.n, result.ties, result.text.ties) == (6, ties, ties)


def test_guessing_is_at_chance_within_its_interval(tmp_path, guessing):
    write_cases(tmp_path, 400)
    result = evaluate_winoground(guessing, tmp_path)
    for found, chance in ((result.text, 25), (result.image, 25), (result.group, 100 / 6)):
        assert found.chance == chance
        assert found.low <= chance <= found.high


def test_a_dataset_gives_what_the_folder_gives(tmp_path, guessing):
    rows = write_cases(tmp_path, 8)
    stored = [
        row | {key: str(tmp_path / "images" / f"{row[key]}.png") for key in ("image_0", "image_1")} for row in rows
    ]
    dataset = datasets.Dataset.from_list(stored)
    dataset = dataset.cast_column("image_0", datasets.Image()).cast_column("image_1", datasets.Image())
    expected = evaluate_winoground(guessing, tmp_path).as_dict()
    assert evaluate_winoground(guessing, dataset).as_dict() == expected
    assert evaluate_winoground(guessing, datasets.DatasetDict(test=dataset)).as_dict() == expected
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "examples.jsonl").rename(tmp_path / "snapshot" / "examples.jsonl")
    (tmp_path / "images").rename(tmp_path / "snapshot" / "images")
    (tmp_path / "snapshot").rename(tmp_path / "data")
    assert evaluate_winoground(guessing, tmp_path).as_dict() == expected


def test_the_similarities_are_the_embedders_own_with_images_first(tmp_path, guessing):
    write_cases(tmp_path, 3)
    case = evaluate_winoground(guessing, tmp_path).cases[2]
    images = [Image.new("RGB", (1, 1), color(2, place)) for place in range(2)]
    expected = guessing.encode_image(images) @ guessing.encode_text(list(case.captions)).T
    assert np.array(case.similarities) == pytest.approx(expected.numpy(), abs=1e-6)
    (s00, s01), (s10, s11) = case.similarities
    assert case.text_margin == min(s00 - s01, s11 - s10)
    assert case.image_margin == min(s00 - s10, s11 - s01)


def test_each_image_and_caption_is_encoded_once_in_batches_as_asked(tmp_path, guessing):
    rows = write_cases(tmp_path, 5)
    rows[3] |= {"image_0": rows[0]["image_0"], "caption_0": rows[0]["caption_0"]}
    write_rows(tmp_path, rows)
    result = evaluate_winoground(guessing, tmp_path, batch_size=4)
    assert len(guessing.images) == len(set(guessing.images)) == 9
    assert len(guessing.texts) == len(set(guessing.texts)) == 9
    assert guessing.batches == [4, 4, 1]
    assert result.cases[3].similarities[0][0] == result.cases[0].similarities[0][0]


def test_scores_are_broken_down_by_each_tag(tmp_path, knowing):
    write_cases(tmp_path, 10)
    known = {text: color for text, color in meaning(10).items() if int(text.split()[1]) % 2 == 0}
    result = evaluate_winoground(knowing(known), tmp_path)
    parts = result.breakdown["collapsed_tag"]
    assert list(parts) == ["Object", "Relation"]
    assert parts["Object"]["group"].percent == 100 and parts["Object"]["group"].n == 5
    expected = np.mean([case.text_margin > 0 for case in result.cases if case.tags["collapsed_tag"] == "Relation"])
    assert parts["Relation"]["text"].percent == 100 * expected
    assert list(result.breakdown["num_main_preds"]) == ["1", "2"]
    assert "secondary_tag" not in result.breakdown


def test_the_worst_cases_come_first_and_bring_their_pictures(tmp_path, guessing):
    write_cases(tmp_path, 12)
    result = evaluate_winoground(guessing, tmp_path)
    worst = result.worst(3)
    assert [case.group_margin for case in worst] == sorted(case.group_margin for case in result.cases)[:3]
    assert worst[0].images[1].name == f"ex_{worst[0].id}_img_1.png"


def test_the_result_goes_to_json_and_back(tmp_path, guessing):
    write_cases(tmp_path, 4)
    plain = evaluate_winoground(guessing, tmp_path).as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)).keys() == plain.keys()
    assert plain["cases"][0]["id"] == "0" and "images" not in plain["cases"][0]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"id": 0}, r"line 2: the id 0 is that of .*line 1 too"),
        ({"id": None}, "line 2: the id is None"),
        ({"image_1": "ex_9_img_1"}, "line 2: .*ex_9_img_1.png does not exist"),
        ({"image_1": "ex_9_img_1.jpg"}, "line 2: .*ex_9_img_1.jpg does not exist"),
        ({"image_1": "../secret"}, "line 2: 'image_1' '../secret' leaves the folder"),
        ({"caption_0": ""}, "line 2: 'caption_0' is an empty caption"),
        ({"caption_0": ["a"]}, "line 2: 'caption_0' is .*of type list"),
    ],
)
def test_a_bad_case_is_an_error_before_anything_is_encoded(tmp_path, guessing, change, reason):
    rows = write_cases(tmp_path, 3)
    write_rows(tmp_path, [rows[0], rows[1] | change, rows[2]])
    with pytest.raises(BadInput, match=reason):
        evaluate_winoground(guessing, tmp_path)
    assert guessing.images == guessing.texts == []


def test_bad_cases_are_left_out_only_if_asked_and_counted(tmp_path, guessing):
    rows = write_cases(tmp_path, 5)
    whole = evaluate_winoground(guessing, tmp_path)
    write_rows(tmp_path, [rows[0], rows[1] | {"image_0": "gone"}, rows[2], rows[3] | {"id": 0}, rows[4]])
    with (tmp_path / "examples.jsonl").open("a") as lines:
        lines.write('{"id": 5, "image_0"')
    result = evaluate_winoground(guessing, tmp_path, on_error="skip")
    assert [case.id for case in result.cases] == ["0", "2", "4"]
    assert [f"line {line}:" in reason for line, reason in zip((2, 4, 6), result.skipped, strict=True)] == [True] * 3
    assert result.data != whole.data and result.as_dict()["skipped"] == list(result.skipped)
    assert result.cases[1].similarities == whole.cases[2].similarities


def test_margins_are_kept_for_each_case_and_score(tmp_path, guessing):
    write_cases(tmp_path, 9)
    result = evaluate_winoground(guessing, tmp_path)
    cases = list(result.margins())
    assert len({case.key for case in cases}) == len(cases) == 27
    for name in ("text", "image", "group"):
        kept = [case.correct for case in cases if case.score == name]
        assert 100 * np.mean(kept) == pytest.approx(getattr(result, name).percent)
    assert {case.category for case in cases} == {"Object", "Relation"}
    assert [case.tags for case in cases[::3]] == [tuple(case.tags.values()) for case in result.cases]


def test_other_columns_and_broken_files_are_refused_in_one_sentence(tmp_path, guessing):
    rows = write_cases(tmp_path, 2)
    with pytest.raises(
        BadInput, match="the dataset: no image_0, image_1, caption_0, caption_1 .columns: id, image, text"
    ):
        evaluate_winoground(guessing, datasets.Dataset.from_dict({"id": [1], "image": ["a.png"], "text": ["a"]}))
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1])[:-9])
    with pytest.raises(BadInput, match="line 2: not JSON"):
        evaluate_winoground(guessing, tmp_path)
    path.write_text("")
    with pytest.raises(BadInput, match="no Winoground case in it"):
        evaluate_winoground(guessing, tmp_path)
    path.unlink()
    with pytest.raises(BadInput, match="holds no examples.jsonl; give the folder"):
        evaluate_winoground(guessing, tmp_path)


def test_images_still_in_their_archive_are_asked_for(tmp_path, guessing):
    write_cases(tmp_path, 1)
    (tmp_path / "images").rename(tmp_path / "pictures")
    with pytest.raises(BadInput, match="unpack Winoground's images.zip"):
        evaluate_winoground(guessing, tmp_path)


def test_embeddings_that_are_not_unit_length_are_refused(tmp_path, guessing):
    write_cases(tmp_path, 1)
    unit = guessing.encode_text
    guessing.encode_text = lambda texts: 3 * unit(texts)
    with pytest.raises(ValueError, match="encode_text gave an embedding of length 3 .*divide each by its norm"):
        evaluate_winoground(guessing, tmp_path)
    guessing.encode_text = lambda texts: float("nan") * unit(texts)
    with pytest.raises(ValueError, match="length nan"):
        evaluate_winoground(guessing, tmp_path)

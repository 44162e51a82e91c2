import json

import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation import evaluate_sugarcrepe
from vladva_kit.evaluation.sugarcrepe import CATEGORIES, words_of
from vladva_kit.models.images import BadInput

SIZES = {name: 6 + 4 * place for place, name in enumerate(CATEGORIES)}


def color(number):
    return number % 256, number // 256, 7


def write_files(folder, images=10, sizes=SIZES, pictures="images"):
    """The seven official files, each a dict by index, one index left out as in swap_obj, images in val2017's names."""
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        Image.new("RGB", (3, 3), color(number)).save(folder / pictures / f"{number:012}.png")
    for name, size in sizes.items():
        entries = {}
        for index in (index for index in range(size + 1) if index != 2):
            texts = {"caption": f"{name} {index} right", "negative_caption": f"{name} {index} wrong"}
            entries[str(index)] = {"filename": f"{index % images:012}.png", **texts}
        write_entries(folder, name, entries)


def write_entries(folder, name, entries):
    (folder / f"{name}.json").write_text(json.dumps(entries))


def entries_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def meaning(folder, categories=CATEGORIES, key="caption"):
    entries = [entry for name in categories for entry in entries_of(folder, name).values()]
    return {entry[key]: color(int(entry["filename"][:12])) for entry in entries}


def test_an_encoder_that_knows_has_100_and_one_that_sees_nothing_has_0(tmp_path, knowing, blind):
    write_files(tmp_path)
    n = sum(SIZES.values())
    for embedder, percent, ties in ((knowing(meaning(tmp_path)), 100, 0), (blind, 0, n)):
        result = evaluate_sugarcrepe(embedder, tmp_path)
        every = [*result.categories.values(), *result.groups.values(), result.macro, result.micro]
        assert {one.percent for one in every} == {percent}
        assert (result.n, result.ties, result.micro.ties, result.macro.ties) == (n, ties, ties, ties)


def test_an_encoder_that_knows_the_wrong_caption_has_0_without_ties(tmp_path, knowing):
    write_files(tmp_path)
    result = evaluate_sugarcrepe(knowing(meaning(tmp_path, key="negative_caption")), tmp_path)
    assert result.macro.percent == result.micro.percent == result.ties == 0


def test_guessing_is_at_chance_within_its_interval(tmp_path, guessing):
    write_files(tmp_path, images=100, sizes=dict.fromkeys(CATEGORIES, 100))
    result = evaluate_sugarcrepe(guessing, tmp_path)
    for found in (result.macro, result.micro):
        assert found.low <= found.chance == 50 <= found.high
    assert result.macro.high - result.macro.low < 10


def test_macro_micro_and_groups_are_the_means_they_say(tmp_path, knowing):
    write_files(tmp_path)
    result = evaluate_sugarcrepe(knowing(meaning(tmp_path, ["swap_obj", "add_att"])), tmp_path)
    right = {name: [case.positive > case.negative for case in result.cases if case.category == name] for name in SIZES}
    percent = {name: 100 * float(np.mean(right[name])) for name in CATEGORIES}
    assert percent["swap_obj"] == percent["add_att"] == 100
    assert {name: one.percent for name, one in result.categories.items()} == percent
    assert {name: one.n for name, one in result.categories.items()} == SIZES
    assert result.macro.percent == pytest.approx(np.mean(list(percent.values())))
    assert result.micro.percent == pytest.approx(100 * np.mean(sum(right.values(), [])))
    assert result.groups["swap"].percent == pytest.approx((percent["swap_obj"] + percent["swap_att"]) / 2)
    assert result.groups["replace"].n == SIZES["replace_obj"] + SIZES["replace_att"] + SIZES["replace_rel"]
    assert result.macro.low <= result.macro.percent <= result.macro.high


def test_cases_of_the_same_words_in_another_order_have_a_score_of_their_own(tmp_path, blind):
    write_files(tmp_path)
    entries = entries_of(tmp_path, "swap_att")
    entries["0"] |= {"caption": "A red dog, a blue cat.", "negative_caption": "a blue dog; a red cat"}
    entries["1"] |= {"caption": "the man's hat", "negative_caption": "the hat's man"}  # other words
    write_entries(tmp_path, "swap_att", entries)
    result = evaluate_sugarcrepe(blind, tmp_path)
    assert result.word_order["same words"].n == result.word_order["same words"].ties == 1
    assert result.word_order["other words"].n == sum(SIZES.values()) - 1
    assert [case.key[1] for case in result.margins() if "same words" in case.tags] == ["swap_att/0"]
    assert words_of("A cat's toy: a toy!") == ["a", "a", "cat's", "toy", "toy"]


def test_margins_are_kept_for_each_case(tmp_path, guessing):
    write_files(tmp_path)
    result = evaluate_sugarcrepe(guessing, tmp_path)
    cases = list(result.margins())
    assert len({case.key for case in cases}) == len(cases) == result.n
    assert 100 * np.mean([case.correct for case in cases]) == pytest.approx(result.micro.percent)
    assert [case.margin for case in cases] == [case.margin for case in result.cases]
    assert [case.tags for case in cases] == [(case.category, "other words") for case in result.cases]


def test_bad_cases_are_left_out_only_if_asked_and_counted(tmp_path, guessing):
    write_files(tmp_path)
    whole = evaluate_sugarcrepe(guessing, tmp_path)
    entries = entries_of(tmp_path, "swap_att")
    entries["3"]["filename"], entries["4"]["caption"] = "gone.png", ""
    write_entries(tmp_path, "swap_att", entries)
    with pytest.raises(BadInput, match="entry 3"):
        evaluate_sugarcrepe(guessing, tmp_path)
    result = evaluate_sugarcrepe(guessing, tmp_path, on_error="skip")
    assert result.n == whole.n - 2 and result.data != whole.data
    assert [reason[:22] for reason in result.skipped] == ["swap_att.json, entry 3", "swap_att.json, entry 4"]
    write_entries(tmp_path, "swap_att", {"0": {"filename": "gone.png", "caption": "a", "negative_caption": "b"}})
    with pytest.raises(BadInput, match="no case of swap_att can be used: .*gone.png does not exist"):
        evaluate_sugarcrepe(guessing, tmp_path, on_error="skip")
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        evaluate_sugarcrepe(guessing, tmp_path, on_error="ignore")


def test_the_fingerprint_of_the_data_changes_with_a_caption_or_a_picture(tmp_path, guessing):
    write_files(tmp_path)
    before = evaluate_sugarcrepe(guessing, tmp_path).data
    assert evaluate_sugarcrepe(guessing, tmp_path).data == before
    Image.new("RGB", (3, 3), "red").save(tmp_path / "images" / f"{0:012}.png")
    other_picture = evaluate_sugarcrepe(guessing, tmp_path).data
    entries = entries_of(tmp_path, "add_att")
    entries["0"]["caption"] += " indeed"
    write_entries(tmp_path, "add_att", entries)
    assert len({before, other_picture, evaluate_sugarcrepe(guessing, tmp_path).data}) == 3


def test_each_image_and_caption_is_encoded_once(tmp_path, guessing):
    write_files(tmp_path)
    evaluate_sugarcrepe(guessing, tmp_path, batch_size=7)
    assert len(guessing.images) == len(set(guessing.images)) == 10
    assert len(guessing.texts) == len(set(guessing.texts)) == 2 * sum(SIZES.values())
    assert guessing.batches == [7, 3]


def test_captions_with_one_embedding_tie(tmp_path, knowing):
    write_files(tmp_path)
    right, wrong = meaning(tmp_path), meaning(tmp_path, key="negative_caption")
    result = evaluate_sugarcrepe(knowing(right | wrong), tmp_path)
    assert result.ties == result.n and result.micro.percent == 0


def test_the_images_may_lie_elsewhere(tmp_path, guessing):
    write_files(tmp_path, pictures="val2017")
    with pytest.raises(BadInput, match="images is no folder; give image_folder="):
        evaluate_sugarcrepe(guessing, tmp_path)
    assert evaluate_sugarcrepe(guessing, tmp_path, image_folder=tmp_path / "val2017").n == sum(SIZES.values())


def test_the_result_goes_to_json_and_back(tmp_path, guessing):
    write_files(tmp_path)
    result = evaluate_sugarcrepe(guessing, tmp_path)
    plain = result.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["cases"][2]["key"] == "3" and plain["cases"][2]["image"] == "000000000003.png"
    assert [case.margin for case in result.worst(2)] == sorted(case["margin"] for case in plain["cases"])[:2]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"filename": "000000000099.png"}, "swap_att.json, entry 3: .*000000000099.png does not exist"),
        ({"filename": "../a.png"}, "swap_att.json, entry 3: 'filename' '../a.png' leaves the folder"),
        ({"negative_caption": " "}, "swap_att.json, entry 3: 'negative_caption' is an empty caption"),
        ({"caption": None}, "swap_att.json, entry 3: 'caption' is None"),
    ],
)
def test_a_bad_entry_is_an_error_before_anything_is_encoded(tmp_path, guessing, change, reason):
    write_files(tmp_path)
    entries = entries_of(tmp_path, "swap_att")
    entries["3"] |= change
    write_entries(tmp_path, "swap_att", entries)
    with pytest.raises(BadInput, match=reason):
        evaluate_sugarcrepe(guessing, tmp_path)
    assert guessing.images == guessing.texts == []


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"0": {"filename": "000000000000.png", "caption": "a"', "swap_att.json: not JSON"),
        ("[]", "swap_att.json: a JSON list of nothing usable"),
        ("{}", "swap_att.json: a JSON dict of nothing usable"),
        (
            '{"0": {"image": "a", "text": "b"}}',
            "swap_att.json, entry 0: found image, text; needed are filename, caption",
        ),
        ('{"0": 1, "0": 2}', "swap_att.json: 0 occurs twice"),
    ],
)
def test_a_broken_file_is_refused_in_one_sentence(tmp_path, guessing, text, reason):
    write_files(tmp_path)
    (tmp_path / "swap_att.json").write_text(text)
    with pytest.raises(BadInput, match=reason):
        evaluate_sugarcrepe(guessing, tmp_path)


def test_a_missing_file_is_named(tmp_path, guessing):
    write_files(tmp_path)
    (tmp_path / "add_obj.json").unlink()
    (tmp_path / "swap_obj.json").unlink()
    with pytest.raises(BadInput, match="holds no swap_obj.json, add_obj.json; all seven files are needed"):
        evaluate_sugarcrepe(guessing, tmp_path)

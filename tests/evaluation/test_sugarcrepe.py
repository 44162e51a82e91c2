"""SugarCrepe's rule against a plain loop, and its files."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import vladva_kit as vk
from vladva_kit.evaluation import evaluate_sugarcrepe
from vladva_kit.evaluation.sugarcrepe import CATEGORIES, load_sugarcrepe, sorted_words, sugarcrepe_margins
from vladva_kit.models.images import BadInput

SIZES = {name: 6 + 4 * index for index, name in enumerate(CATEGORIES)}


def color(number):
    return number % 256, number // 256, 7


def write_files(folder, images=10, sizes=SIZES, pictures="images"):
    """The seven official files, each with one index missing, as in swap_obj; images are named as in val2017."""
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


def test_the_rule_equals_a_loop_with_ties():
    positive, negative = np.random.default_rng(0).integers(0, 4, (2, 200)) / 4
    margins = sugarcrepe_margins(positive, negative)
    assert margins.correct.tolist() == [p > n for p, n in zip(positive, negative, strict=True)]
    assert margins.tied.sum() == sum(p == n for p, n in zip(positive, negative, strict=True)) > 0


def test_scores_that_differ_in_the_last_bit_do_not_tie():
    low = np.float32(0.3)
    margins = sugarcrepe_margins(np.array([np.nextafter(low, np.float32(1)), low]), np.array([low, low]))
    assert margins.correct.tolist() == [True, False] and margins.tied.tolist() == [False, True]


def test_an_oracle_scores_100_and_a_constant_encoder_0(tmp_path, oracle, constant_encoder):
    write_files(tmp_path)
    n = sum(SIZES.values())
    for embedder, percent, ties in ((oracle(meaning(tmp_path)), 100, 0), (constant_encoder, 0, n)):
        result = evaluate_sugarcrepe(embedder, tmp_path)
        every = [*result.categories.values(), *result.groups.values(), result.macro, result.micro]
        assert {one.percent for one in every} == {percent}
        assert (result.n, result.ties, result.micro.ties, result.macro.ties) == (n, ties, ties, ties)


def test_preferring_the_wrong_captions_scores_0_without_ties(tmp_path, oracle):
    write_files(tmp_path)
    result = evaluate_sugarcrepe(oracle(meaning(tmp_path, key="negative_caption")), tmp_path)
    assert result.macro.percent == result.micro.percent == result.ties == 0


def test_random_embeddings_score_at_chance(tmp_path, random_encoder):
    write_files(tmp_path, images=100, sizes=dict.fromkeys(CATEGORIES, 100))
    result = evaluate_sugarcrepe(random_encoder, tmp_path)
    for found in (result.macro, result.micro):
        assert found.low <= found.chance == 50 <= found.high
    assert result.macro.high - result.macro.low < 10


def test_macro_micro_and_groups_equal_means_of_the_cases(tmp_path, oracle):
    write_files(tmp_path)
    result = evaluate_sugarcrepe(oracle(meaning(tmp_path, ["swap_obj", "add_att"])), tmp_path)
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


def test_cases_with_the_same_words_are_scored_separately(tmp_path, constant_encoder):
    write_files(tmp_path)
    entries = entries_of(tmp_path, "swap_att")
    entries["0"] |= {"caption": "A red dog, a blue cat.", "negative_caption": "a blue dog; a red cat"}
    entries["1"] |= {"caption": "the man's hat", "negative_caption": "the hat's man"}  # different words
    write_entries(tmp_path, "swap_att", entries)
    result = evaluate_sugarcrepe(constant_encoder, tmp_path)
    assert result.word_order["same words"].n == result.word_order["same words"].ties == 1
    assert result.word_order["other words"].n == sum(SIZES.values()) - 1
    assert [case.case for case in result.per_case() if "same words" in case.tags] == ["swap_att/0"]
    assert sorted_words("A cat's toy: a toy!") == ["a", "a", "cat's", "toy", "toy"]


def test_per_case_has_each_case_once(tmp_path, random_encoder):
    write_files(tmp_path)
    result = evaluate_sugarcrepe(random_encoder, tmp_path)
    cases = list(result.per_case())
    assert len({case.key for case in cases}) == len(cases) == result.n
    assert 100 * np.mean([case.correct for case in cases]) == pytest.approx(result.micro.percent)
    assert [case.margin for case in cases] == [case.margin for case in result.cases]
    assert [case.tags for case in cases] == [(case.category, "other words") for case in result.cases]


def test_bad_cases_can_be_skipped(tmp_path, random_encoder):
    write_files(tmp_path)
    complete = evaluate_sugarcrepe(random_encoder, tmp_path)
    entries = entries_of(tmp_path, "swap_att")
    entries["3"]["filename"], entries["4"]["caption"] = "gone.png", ""
    write_entries(tmp_path, "swap_att", entries)
    with pytest.raises(BadInput, match="entry 3"):
        evaluate_sugarcrepe(random_encoder, tmp_path)
    result = evaluate_sugarcrepe(random_encoder, tmp_path, on_error="skip")
    assert result.n == complete.n - 2 and result.data != complete.data
    assert [reason[:22] for reason in result.skipped] == ["swap_att.json, entry 3", "swap_att.json, entry 4"]
    write_entries(tmp_path, "swap_att", {"0": {"filename": "gone.png", "caption": "a", "negative_caption": "b"}})
    with pytest.raises(BadInput, match="no usable case of swap_att: .*gone.png does not exist"):
        evaluate_sugarcrepe(random_encoder, tmp_path, on_error="skip")
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        evaluate_sugarcrepe(random_encoder, tmp_path, on_error="ignore")


def test_the_data_fingerprint_changes_with_a_caption_or_an_image(tmp_path, random_encoder):
    write_files(tmp_path)
    before = evaluate_sugarcrepe(random_encoder, tmp_path).data
    assert evaluate_sugarcrepe(random_encoder, tmp_path).data == before
    Image.new("RGB", (3, 3), "red").save(tmp_path / "images" / f"{0:012}.png")
    other_image = evaluate_sugarcrepe(random_encoder, tmp_path).data
    entries = entries_of(tmp_path, "add_att")
    entries["0"]["caption"] += " indeed"
    write_entries(tmp_path, "add_att", entries)
    assert len({before, other_image, evaluate_sugarcrepe(random_encoder, tmp_path).data}) == 3


def test_each_image_and_caption_is_encoded_once(tmp_path, random_encoder):
    write_files(tmp_path)
    evaluate_sugarcrepe(random_encoder, tmp_path, batch_size=7)
    assert len(random_encoder.images) == len(set(random_encoder.images)) == 10
    assert len(random_encoder.texts) == len(set(random_encoder.texts)) == 2 * sum(SIZES.values())
    assert random_encoder.batches == [7, 3]


def test_captions_with_equal_embeddings_tie(tmp_path, oracle):
    write_files(tmp_path)
    right, wrong = meaning(tmp_path), meaning(tmp_path, key="negative_caption")
    result = evaluate_sugarcrepe(oracle(right | wrong), tmp_path)
    assert result.ties == result.n and result.micro.percent == 0


def test_the_image_folder_can_be_given(tmp_path, random_encoder):
    write_files(tmp_path, pictures="val2017")
    with pytest.raises(BadInput, match="images is not a folder; give image_folder="):
        evaluate_sugarcrepe(random_encoder, tmp_path)
    assert evaluate_sugarcrepe(random_encoder, tmp_path, image_folder=tmp_path / "val2017").n == sum(SIZES.values())


def test_as_dict_survives_json(tmp_path, random_encoder):
    write_files(tmp_path)
    result = evaluate_sugarcrepe(random_encoder, tmp_path)
    plain = result.as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["cases"][2]["id"] == "replace_obj/3" and plain["cases"][2]["image"] == "000000000003.png"
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
def test_a_bad_entry_raises_before_encoding(tmp_path, random_encoder, change, reason):
    write_files(tmp_path)
    entries = entries_of(tmp_path, "swap_att")
    entries["3"] |= change
    write_entries(tmp_path, "swap_att", entries)
    with pytest.raises(BadInput, match=reason):
        evaluate_sugarcrepe(random_encoder, tmp_path)
    assert random_encoder.images == random_encoder.texts == []


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"0": {"filename": "000000000000.png", "caption": "a"', "swap_att.json: not JSON"),
        ("[]", "swap_att.json: found an empty JSON list; an object with the entries by index is needed"),
        ("{}", "swap_att.json: found an empty JSON dict"),
        (
            '{"0": {"image": "a", "text": "b"}}',
            "swap_att.json, entry 0: found image, text; needed are filename, caption",
        ),
        ('{"0": 1, "0": 2}', "swap_att.json: 0 occurs twice"),
    ],
)
def test_a_broken_file_is_rejected(tmp_path, random_encoder, text, reason):
    write_files(tmp_path)
    (tmp_path / "swap_att.json").write_text(text)
    with pytest.raises(BadInput, match=reason):
        evaluate_sugarcrepe(random_encoder, tmp_path)


def test_missing_files_are_named(tmp_path, random_encoder):
    write_files(tmp_path)
    (tmp_path / "add_obj.json").unlink()
    (tmp_path / "swap_obj.json").unlink()
    with pytest.raises(BadInput, match="holds no swap_obj.json, add_obj.json; all seven files are needed"):
        evaluate_sugarcrepe(random_encoder, tmp_path)


def test_the_repository_with_its_folder_data_is_read(tmp_path):
    shutil.copytree(vk.sample("sugarcrepe_mini"), tmp_path / "sugar-crepe" / "data")
    assert len(load_sugarcrepe(tmp_path / "sugar-crepe")) == len(load_sugarcrepe(vk.sample("sugarcrepe_mini")))

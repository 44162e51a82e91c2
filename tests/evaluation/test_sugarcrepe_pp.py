"""SugarCrepe++'s rules against plain loops, and its files."""

import json

import numpy as np
import pytest
from PIL import Image

from vladva_kit.evaluation import evaluate_sugarcrepe_pp, sugarcrepe_pp
from vladva_kit.evaluation.sugarcrepe_pp import CATEGORIES, itt_margins, tot_margins
from vladva_kit.models.images import BadInput

SIZES = {name: 4 + 3 * index for index, name in enumerate(CATEGORIES)}


def color(number):
    return number % 256, number // 256, 11


def write_files(folder, images=8, sizes=SIZES):
    """The five official lists, images named as in val2017; the texts differ from file to file."""
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        Image.new("RGB", (3, 3), color(number)).save(folder / "images" / f"{number:012}.png")
    for name, size in sizes.items():
        write(folder, name, [
            {
                "id": index,
                "filename": f"{index % images:012}.png",
                "caption": f"{name} {index} right",
                "caption2": f"{name} {index} also right",
                "negative_caption": f"{name} {index} wrong",
            }
            for index in range(size)
        ])  # fmt: skip


def write(folder, name, entries):
    (folder / f"{name}.json").write_text(json.dumps(entries))


def entries_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def meaning(folder, *keys):
    entries = [entry for name in CATEGORIES for entry in entries_of(folder, name)]
    return {entry[key]: color(int(entry["filename"][:12])) for entry in entries for key in keys}


@pytest.mark.parametrize("seed", range(5))
def test_both_rules_equal_a_loop_with_ties(seed):
    p1, p2, n, p12, p1n, p2n = np.random.default_rng(seed).integers(0, 4, (6, 200)) / 4
    itt, tot = itt_margins(p1, p2, n), tot_margins(p12, p1n, p2n)
    for case in range(200):
        assert itt.correct[case] == (p1[case] > n[case] and p2[case] > n[case])
        assert itt.tied[case] == (min(p1[case], p2[case]) == n[case])
        assert tot.correct[case] == (p12[case] > p1n[case] and p12[case] > p2n[case])
        assert tot.tied[case] == (p12[case] == max(p1n[case], p2n[case]))
    assert itt.tied.any() and tot.tied.any()


def test_an_oracle_scores_100_and_a_constant_encoder_0(tmp_path, oracle, constant_encoder):
    write_files(tmp_path)
    n = sum(SIZES.values())
    for embedder, percent, ties in (
        (oracle(meaning(tmp_path, "caption", "caption2")), 100, 0),
        (constant_encoder, 0, n),
    ):
        result = evaluate_sugarcrepe_pp(embedder, tmp_path)
        for task in (result.itt, result.tot):
            assert set(task) == {*CATEGORIES, "macro", "micro"}
            assert {one.percent for one in task.values()} == {percent}
            assert (task["macro"].n, task["micro"].ties) == (n, ties)
        assert (result.n, result.ties) == (n, ties)


def test_one_true_caption_is_not_enough(tmp_path, oracle):
    write_files(tmp_path)
    entries = [entry for name in CATEGORIES for entry in entries_of(tmp_path, name)]
    known = meaning(tmp_path, "caption")
    # the second true caption and the false one have the same embedding, so they tie for every image
    known |= {entry[key]: "elsewhere" for entry in entries for key in ("caption2", "negative_caption")}
    result = evaluate_sugarcrepe_pp(oracle(known), tmp_path)
    assert result.itt["macro"].percent == result.tot["macro"].percent == 0
    assert all(case.tot < 0 for case in result.cases)  # the second true caption is closer to the false one


def test_random_embeddings_score_at_chance(tmp_path, random_encoder):
    write_files(tmp_path, images=200, sizes=dict.fromkeys(CATEGORIES, 200))
    result = evaluate_sugarcrepe_pp(random_encoder, tmp_path)
    for task in (result.itt, result.tot):
        for name in ("macro", "micro"):
            assert task[name].low <= task[name].chance == pytest.approx(100 / 3)
            assert task[name].high >= 100 / 3


def test_scores_equal_the_official_rule_in_a_loop(tmp_path, random_encoder):
    write_files(tmp_path)
    result = evaluate_sugarcrepe_pp(random_encoder, tmp_path)
    itt, tot = {}, {}
    for name in CATEGORIES:
        for entry in entries_of(tmp_path, name):
            image = random_encoder.unit([color(int(entry["filename"][:12]))])[0].numpy()
            keys = ("caption", "caption2", "negative_caption")
            p1, p2, n = (random_encoder.unit([entry[key]])[0].numpy() for key in keys)
            itt.setdefault(name, []).append(image @ p1 > image @ n and image @ p2 > image @ n)
            tot.setdefault(name, []).append(p1 @ p2 > p1 @ n and p1 @ p2 > p2 @ n)
    for task, right in ((result.itt, itt), (result.tot, tot)):
        percent = {name: 100 * np.mean(values) for name, values in right.items()}
        assert {name: task[name].percent for name in CATEGORIES} == pytest.approx(percent)
        assert task["macro"].percent == pytest.approx(np.mean(list(percent.values())))
        assert task["micro"].percent == pytest.approx(100 * np.mean(sum(right.values(), [])))
    correct = [case.correct for case in result.per_case() if case.score == "tot"]
    assert 100 * np.mean(correct) == pytest.approx(result.tot["micro"].percent)


def test_a_hub_id_is_downloaded_file_by_file(tmp_path, random_encoder, monkeypatch):
    write_files(tmp_path)
    requested = []

    def hub_file(repo_id, names):
        requested.append((repo_id, names[0]))
        return tmp_path / names[-1]

    monkeypatch.setattr(sugarcrepe_pp, "hub_file", hub_file)
    result = evaluate_sugarcrepe_pp(random_encoder, "Aman-J/SugarCrepe_pp", tmp_path / "images")
    assert result.n == sum(SIZES.values())
    assert requested == [("Aman-J/SugarCrepe_pp", f"data/{name}.json") for name in CATEGORIES]


def test_as_dict_survives_json(tmp_path, random_encoder):
    write_files(tmp_path)
    plain = evaluate_sugarcrepe_pp(random_encoder, tmp_path).as_dict()
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again["itt"]["macro"] == plain["itt"]["macro"] and len(again["cases"]) == plain["n"]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"filename": "gone.png"}, "swap_att.json, entry 3: .*gone.png does not exist"),
        ({"caption2": ""}, "swap_att.json, entry 3: 'caption2' is an empty caption"),
        ({"id": 0}, "swap_att.json, entry 3: swap_att/0 is also the id of swap_att.json, entry 0"),
    ],
)
def test_a_bad_entry_raises_before_encoding_or_is_skipped(tmp_path, random_encoder, change, reason):
    write_files(tmp_path)
    entries = entries_of(tmp_path, "swap_att")
    entries[3] |= change
    write(tmp_path, "swap_att", entries)
    with pytest.raises(BadInput, match=reason):
        evaluate_sugarcrepe_pp(random_encoder, tmp_path)
    assert random_encoder.images == random_encoder.texts == []
    result = evaluate_sugarcrepe_pp(random_encoder, tmp_path, on_error="skip")
    assert result.n == sum(SIZES.values()) - 1 and len(result.skipped) == 1


def test_other_files_are_rejected(tmp_path, random_encoder):
    write_files(tmp_path)
    for text, reason in (
        ('{"0": {}}', "found a JSON dict; a list of entries is needed"),
        ('[{"id": 1', "not JSON .*truncated"),
        ('[{"id": 1, "image": 2}]', "found id, image; needed are id, filename, caption, caption2, negative_caption"),
    ):
        (tmp_path / "swap_att.json").write_text(text)
        with pytest.raises(BadInput, match=f"swap_att.json.*{reason}"):
            evaluate_sugarcrepe_pp(random_encoder, tmp_path)
    (tmp_path / "swap_att.json").unlink()
    with pytest.raises(BadInput, match="holds no swap_att.json; all five files are needed: give 'Aman-J/SugarCrepe_pp"):
        evaluate_sugarcrepe_pp(random_encoder, tmp_path)
    with pytest.raises(BadInput, match="is not a folder; give image_folder=, which is COCO's val2017"):
        evaluate_sugarcrepe_pp(random_encoder, tmp_path, tmp_path / "nowhere")

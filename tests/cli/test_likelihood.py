"""`vladva likelihood` compares three uses of one model in one table."""

import json

import pytest
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app

pytestmark = pytest.mark.usefixtures("one_thread")
run = CliRunner().invoke


@pytest.fixture
def small_data(tmp_path):
    """Two Winoground cases, and SugarCrepe with one case per category."""
    winoground, sugarcrepe = tmp_path / "winoground", tmp_path / "sugarcrepe"
    for source, target in ((vk.sample("winoground_mini"), winoground), (vk.sample("sugarcrepe_mini"), sugarcrepe)):
        target.mkdir()
        (target / "images").symlink_to(source / "images")
    lines = (vk.sample("winoground_mini") / "examples.jsonl").read_text().splitlines()
    (winoground / "examples.jsonl").write_text("\n".join(lines[:2]))
    for path in vk.sample("sugarcrepe_mini").glob("*.json"):
        (sugarcrepe / path.name).write_text(json.dumps(dict(list(json.loads(path.read_text()).items())[:1])))
    return ["--winoground", str(winoground), "--sugarcrepe", str(sugarcrepe), "--limit", "4", "--rerank", "2"]


def test_the_table_holds_winoground_sugarcrepe_and_reranked_retrieval(small_data, tmp_path):
    out = tmp_path / "out"
    shown = run(app, ["likelihood", *small_data, "--out", str(out)], env={"COLUMNS": "80"})
    assert shown.exit_code == 0, shown.output
    saved = json.loads((out / "results.json").read_text())["models"]
    asked = vk.evaluate_winoground(vk.LikelihoodScorer(vk.load_lvlm()), small_data[1])
    assert saved["likelihood"]["winoground"]["group"]["percent"] == asked.group.percent
    reranked = saved["embedding"]["retrieval"]["reranked"]
    (row,) = (line for line in shown.output.splitlines() if "best 2 re-ranked" in line)
    assert f"{reranked['text_to_image']['R@1']['percent']:.1f}" in row and "s per query" in shown.output
    (likelihood,) = (line.split() for line in shown.output.splitlines() if line.strip().startswith("likelihood "))
    assert likelihood[1] == f"{asked.group.percent:.1f}" and likelihood[3:] == ["—", "—"]


def test_a_clip_has_no_likelihood(small_data):
    refused = run(app, ["likelihood", "emoji-clip", *small_data], env={"COLUMNS": "120"})
    assert refused.exit_code == 2 and "'emoji-clip' has no likelihood" in refused.output


def test_json_prints_what_results_json_holds_and_nothing_else(small_data, tmp_path):
    shown = run(app, ["likelihood", *small_data, "--json", "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout) == json.loads((tmp_path / "out" / "results.json").read_text())

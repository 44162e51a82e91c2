"""The demo, on a small world: every file it promises, and figures that the functions give too."""

import json

import pytest

import vladva_kit as vk
from vladva_kit.cli import demo
from vladva_kit.emoji_world import cases, samples
from vladva_kit.emoji_world.samples import write_sample
from vladva_kit.evaluation.compare import compare


@pytest.fixture
def small_world(monkeypatch, tmp_path):
    monkeypatch.setattr(samples, "SPLITS", {"train": 24, "validation": 3, "test": 12, "unseen_style": 12})
    monkeypatch.setattr(samples, "WINOGROUND_KINDS", {"object": 3, "color": 3, "size": 3, "relation": 3})
    monkeypatch.setattr(cases, "SUGARCREPE_EACH", 3)
    monkeypatch.setattr(demo, "TALKS_ABOUT", 6)
    folders = {name: write_sample(name, tmp_path / "samples" / name) for name in samples.DRAWN[:3]}
    monkeypatch.setattr(vk, "sample", folders.__getitem__, raising=False)
    return tmp_path


def test_it_writes_adapter_results_figures_and_page(small_world):
    out = small_world / "run"
    said = []
    results = demo.run_demo(out, vk.Settings(steps=3, batch_size=8, warmup=1), "vladva demo", said.append)
    assert set(results["models"]) == {"emoji-clip", "base", "fine-tuned"}
    saved = json.loads((out / "results.json").read_text())
    assert saved["command"] == "vladva demo" and len(saved["history"]) == 3
    assert {"torch", "transformers", "peft"} <= saved["versions"].keys()
    assert saved["data"].keys() == results["models"]["base"].keys() and len(saved["data"]["winoground/seen"]) == 64
    assert saved["identity"]["base"]["adapter"] is None and len(saved["identity"]["fine-tuned"]["adapter"]) == 64
    found = compare(f"{out}:base", out)
    assert (found.first, found.second, found.alone) == ("base", "fine-tuned", ())
    for one in found.differences:
        if (one.benchmark, one.score, one.category) == ("winoground/seen", "group", ""):
            assert one.second == results["models"]["fine-tuned"]["winoground/seen"]["group"]["percent"] and one.n == 12
            break
    else:
        raise AssertionError("no difference in Winoground's group score")
    assert "generation/seen" in compare(f"{out}:emoji-clip", f"{out}:base").alone
    page = (out / "report.html").read_text()
    assert "emoji-clip" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert (out / "figures" / "training.svg").is_file() and (out / "figures" / "training.png").is_file()

    again = vk.Embedder.from_pretrained(out / "adapter")
    ours = vk.evaluate_winoground(again, vk.sample("winoground_mini"))
    assert ours.group.percent == saved["models"]["fine-tuned"]["winoground/seen"]["group"]["percent"]
    base = vk.evaluate_retrieval(vk.Embedder(vk.load_lvlm()), vk.sample("emoji_pairs"))
    assert base.image_to_text[1].percent == saved["models"]["base"]["retrieval/seen"]["image_to_text"]["R@1"]["percent"]
    with again.base():
        assert vk.evaluate_retrieval(again, vk.sample("emoji_pairs")).image_ranks == base.image_ranks


def test_clip_is_not_asked_questions_and_the_lvlm_is(small_world):
    judged = demo.judge(vk.ClipEmbedder("emoji-clip"), talk=False, say=lambda text: None)
    assert not any(key.startswith("generation") for key in judged)
    assert {key.split("/")[1] for key in judged} == {"seen", "unseen style"}

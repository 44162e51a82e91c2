"""The demo on small samples: it writes all files, and its numbers match the functions it calls."""

import json

import pytest

import vladva_kit as vk
from experiments.world import cases, samples
from experiments.world.samples import write_sample
from vladva_kit.cli import demo
from vladva_kit.evaluation.compare import compare

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small_world(monkeypatch, tmp_path):
    """The demo's samples with only a few images and cases."""
    monkeypatch.setattr(samples, "SPLITS", {"train": 40, "validation": 3, "test": 12, "unseen_style": 12})
    monkeypatch.setattr(samples, "TWIN_GROUPS", 8)
    monkeypatch.setattr(samples, "WINOGROUND_KINDS", {"object": 3, "color": 3, "size": 3, "relation": 3})
    monkeypatch.setattr(cases, "CASES_PER_CATEGORY", 3)
    monkeypatch.setattr(demo, "N_GENERATION_IMAGES", 2)
    folders = {name: write_sample(name, tmp_path / "samples" / name) for name in samples.DRAWN[:3]}
    monkeypatch.setattr(vk, "sample", folders.__getitem__, raising=False)
    return tmp_path


def test_the_demo_writes_adapter_results_figures_and_report(small_world):
    out, messages = small_world / "run", []
    mix = {"groups": 0.25, "mined": 0.5, "random": 0.25}
    settings = vk.Settings(steps=3, batch_size=16, warmup=1, batches=mix)
    results = demo.run_demo(out, settings, "vladva demo", messages.append)
    assert list(results["models"]) == ["emoji-clip", "CLIP, same batches", "base", "base, likelihood", "fine-tuned"]
    assert "fine-tuning: 3 steps of 16 pairs" in messages
    assert results["effect"] == messages[-2:] and "Winoground group, unseen style: base" in messages[-1]
    saved = json.loads((out / "results.json").read_text())
    assert saved["command"] == "vladva demo" and len(saved["history"]) == 3
    assert {"torch", "transformers", "peft"} <= saved["versions"].keys()
    assert (
        saved["data"].keys() == results["models"]["base"].keys() > results["models"]["base, likelihood"].keys()
        and len(saved["data"]["winoground/seen"]) == 64
    )
    assert saved["identity"]["base"]["adapter"] is None and len(saved["identity"]["fine-tuned"]["adapter"]) == 64

    comparison = compare(f"{out}:base", out)
    assert (comparison.first, comparison.second, comparison.alone) == ("base", "fine-tuned", ())
    (group,) = (
        difference
        for difference in comparison.differences
        if (difference.benchmark, difference.score, difference.category) == ("winoground/seen", "group", "")
    )
    assert group.second == results["models"]["fine-tuned"]["winoground/seen"]["group"]["percent"] and group.n == 12
    assert "generation/seen" in compare(f"{out}:emoji-clip", f"{out}:base").alone
    page = (out / "report.html").read_text()
    assert f"<h1>{results['effect'][-1]}</h1>" in page  # the page leads with the effect
    assert "emoji-clip" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert (out / "figures" / "training.svg").is_file() and (out / "figures" / "training.png").is_file()

    loaded = vk.Embedder.from_pretrained(out / "adapter")
    winoground = vk.evaluate_winoground(loaded, vk.sample("winoground_mini"))
    assert winoground.group.percent == saved["models"]["fine-tuned"]["winoground/seen"]["group"]["percent"]
    base = vk.evaluate_retrieval(vk.Embedder(vk.load_lvlm()), vk.sample("emoji_pairs"))
    assert base.image_to_text[1].percent == saved["models"]["base"]["retrieval/seen"]["image_to_text"]["R@1"]["percent"]
    with loaded.base():
        assert vk.evaluate_retrieval(loaded, vk.sample("emoji_pairs")).image_ranks == base.image_ranks


def test_clip_is_evaluated_without_generation(small_world):
    results = demo.evaluate_all(vk.ClipEmbedder("emoji-clip"), generation=False, log=lambda text: None)
    assert not any(key.startswith("generation") for key in results)
    assert {key.split("/")[1] for key in results} == {"seen", "unseen style"}

"""The commands: quick to start, clear when wrong, and the same as the functions they call."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app, main

run = CliRunner().invoke


def test_importing_the_kit_loads_nothing_heavy():
    code = (
        "import sys, vladva_kit; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_loads_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from vladva_kit.cli.app import app; "
        "r = CliRunner().invoke(app, ['--help']); sys.exit(r.exit_code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_help_names_every_command():
    shown = run(app, ["--help"]).output
    words = set(shown.split())
    assert {"demo", "train", "eval", "ablate", "reproduction", "prompts", "world", "pretrain", "compare"} <= words


def test_eval_gives_what_the_function_gives(tmp_path):
    out = tmp_path / "run"
    assert run(app, ["eval", "emoji-clip", "--benchmark", "winoground", "--out", str(out)]).exit_code == 0
    result = vk.evaluate_winoground(vk.ClipEmbedder("emoji-clip"), vk.sample("winoground_mini"))
    told = json.loads((out / "results.json").read_text())
    assert told["models"]["emoji-clip"]["winoground"]["group"]["percent"] == pytest.approx(result.group.percent)
    assert told["data"] == {"winoground": result.data}


@pytest.fixture
def miniatures(tmp_path, monkeypatch):
    """A few cases of each miniature, drawn for the test, in place of the samples."""
    from vladva_kit.data import samples as data
    from vladva_kit.emoji_world import cases, miniatures, samples

    monkeypatch.setattr(cases, "SUGARCREPE_EACH", 12)
    monkeypatch.setattr(miniatures, "EACH", 4)
    monkeypatch.setattr(miniatures, "CLASS_PICTURES", 1)
    monkeypatch.setattr(miniatures, "CLASSES", miniatures.CLASSES[:3])
    monkeypatch.setattr(data, "sample", lambda name: drawn / name)
    drawn = tmp_path / "drawn"
    for name in samples.DRAWN[2:]:
        samples.write_sample(name, drawn / name)
    return drawn


def test_each_miniature_s_figures_are_the_same_through_the_command_and_the_function(tmp_path, miniatures, monkeypatch):
    clip = vk.ClipEmbedder("emoji-clip")
    monkeypatch.setattr("vladva_kit.cli.evaluate.named_embedder", lambda name: clip)
    images = miniatures / "sugarcrepe_mini" / "images"
    files = miniatures / "captions_mini"
    for benchmark, result in {
        "sugarcrepe_pp": vk.evaluate_sugarcrepe_pp(clip, miniatures / "sugarcrepe_pp_mini", images),
        "word_order": vk.evaluate_word_order(clip, miniatures / "word_order_mini", images),
        "coco": vk.evaluate_retrieval(clip, files / "dataset_coco.json", captions_per_image=5, image_folder=images),
        "nocaps": vk.evaluate_retrieval(clip, files / "nocaps_val_4500_captions.json", image_folder=images),
        "classification": vk.evaluate_classification(clip, miniatures / "classification_mini", ("a {}", "one {}")),
    }.items():
        out = tmp_path / benchmark
        arguments = [
            "eval",
            "emoji-clip",
            "--benchmark",
            benchmark,
            "--out",
            str(out),
            "--cache",
            str(tmp_path / "c" / benchmark),
        ]
        templates = ["--template", "a {}", "--template", "one {}"] if benchmark == "classification" else []
        shown = run(app, [*arguments, *templates])
        assert shown.exit_code == 0, shown.output
        told = json.loads((out / "results.json").read_text())
        assert told["data"] == {benchmark: result.data}
        assert told["models"]["emoji-clip"][benchmark] == json.loads(json.dumps(result.as_dict()))
        assert len(told["identity"]["emoji-clip"]["weights"]) == 64


def test_questions_about_pictures_are_put_to_the_model_by_the_command(tmp_path, miniatures, monkeypatch):
    class Says:
        fingerprint = "yes"

        def generate_batch(self, images, prompts, histories=None, max_new_tokens=128):
            return ["yes"] * len(prompts)

    monkeypatch.setattr("vladva_kit.cli.evaluate.named_embedder", lambda name: Says())
    assert run(app, ["eval", "x", "--benchmark", "vqa", "--out", str(tmp_path / "r")]).exit_code == 0
    told = json.loads((tmp_path / "r" / "results.json").read_text())["models"]["x"]["vqa"]
    (questions,) = (miniatures / "vqa_mini").glob("*annotations.json")
    people = [one["answers"][0]["answer"] for one in json.loads(questions.read_text())["annotations"]]
    assert told["accuracy"]["percent"] == pytest.approx(100 * people.count("yes") / len(people))


def test_demo_runs_with_what_it_is_told_and_prints_table_seconds_and_page(tmp_path, monkeypatch):
    told = {}

    def run_demo(folder, settings, command, say):
        told.update(folder=folder, settings=settings, command=command)
        say("fine-tuning")
        scores = {"text": {"percent": 41.5}, "image": {"percent": 30.0}, "group": {"percent": 12.3}, "n": 8}
        return {"models": {"base": {"winoground/seen": scores}}, "seconds": {"judging": 70.4, "fine-tuning": 120.0}}

    monkeypatch.setattr("vladva_kit.cli.demo.run_demo", run_demo)
    shown = run(app, ["demo", "--out", str(tmp_path), "--steps", "7", "--seed", "3"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0, shown.output
    assert (told["folder"], told["settings"].steps, told["settings"].seed) == (tmp_path, 7, 3)
    assert told["command"] == "vladva demo --steps 7 --batch-size 64 --seed 3"
    assert "fine-tuning" in shown.output and "41.5" in shown.output and "12.3" in shown.output
    assert "190 s." in shown.output and str(tmp_path / "report.html") in shown.output.replace("\n", "")


def test_world_draws_the_samples_asked_for_into_the_folder(tmp_path, monkeypatch):

    monkeypatch.setattr(samples, "WINOGROUND_KINDS", {"object": 1, "color": 1, "size": 1, "relation": 1})
    assert run(app, ["world", "winoground_mini", "--out", str(tmp_path / "by command"), "--seed", "3"]).exit_code == 0
    samples.write_sample("winoground_mini", tmp_path / "by function", 3)
    one, other = tmp_path / "by command" / "winoground_mini", tmp_path / "by function"
    files = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert len(files) == 2 + 2 * 2 * 4  # two styles, two pictures a case
    assert all((one / file).read_bytes() == (other / file).read_bytes() for file in files)
    shown = run(app, ["world", "winogrande", "--out", str(tmp_path / "none")])
    assert shown.exit_code and "winoground_mini" in shown.output and not (tmp_path / "none").exists()


def test_bad_cases_stop_the_command_unless_it_is_told_to_leave_them_out(tmp_path, miniatures):
    path = miniatures / "sugarcrepe_mini" / "swap_obj.json"
    cases = json.loads(path.read_text())
    cases["1"]["caption"] = ""
    path.write_text(json.dumps(cases))
    arguments = ["eval", "emoji-clip", "--benchmark", "sugarcrepe", "--data", str(path.parent)]
    failed = run(app, arguments)
    assert failed.exit_code and "swap_obj.json, entry 1: 'caption' is an empty caption" in str(failed.exception)
    shown = run(app, [*arguments, "--skip-bad"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0 and "83, 1 left out" in shown.output
    assert "left out: swap_obj.json, entry 1" in shown.stderr


def test_train_writes_an_adapter_that_loads(tmp_path, pairs):
    data = tmp_path / "data" / "train"
    data.mkdir(parents=True)
    rows = []
    for number, pair in enumerate(pairs):
        pair.image.save(data / f"{number}.png")
        rows.append(json.dumps({"file_name": f"{number}.png", "short": pair.short, "long": pair.long}))
    rows.append(json.dumps({"file_name": "missing.png", "short": "a dog"}))
    (data / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    arguments = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--steps", "2", "--batch-size", "4"]
    failed = run(app, arguments)
    assert failed.exit_code and "missing.png" in str(failed.exception)
    with pytest.warns(UserWarning, match=r"missing\.png"):
        assert run(app, [*arguments, "--skip-bad"]).exit_code == 0
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())) == 2
    assert vk.Embedder.from_pretrained(tmp_path / "run" / "adapter").trainable()["LoRA"] > 0


def test_export_writes_what_the_function_writes_and_refuses_a_clip(tmp_path):
    from vladva_kit.embedder.export import export

    assert run(app, ["export", "emoji-llava", "--out", str(tmp_path / "one")]).exit_code == 0
    export(vk.Embedder(vk.load_lvlm()), tmp_path / "two")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    assert {"model.safetensors", "modules.json"} <= {str(file) for file in files}
    refused = run(app, ["export", "emoji-clip", "--out", str(tmp_path / "clip")])
    assert refused.exit_code and "no LVLM" in refused.output and not (tmp_path / "clip").exists()


def test_what_the_user_can_mend_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vladva", "eval", "emoji-lama"])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "emoji-llava" in error and "Traceback" not in error


def test_an_unknown_benchmark_lists_the_known_ones():
    shown = run(app, ["eval", "emoji-clip", "--benchmark", "imagenet"]).output
    assert "winoground" in shown and "sugarcrepe" in shown

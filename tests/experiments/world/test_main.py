"""`python -m experiments.world` draws the samples."""

from typer.testing import CliRunner

from experiments.world import samples
from experiments.world.__main__ import app

run = CliRunner().invoke


def test_the_command_writes_the_same_files_as_write_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "WINOGROUND_KINDS", {"object": 1, "color": 1, "size": 1, "relation": 1})
    assert run(app, [str(tmp_path / "command"), "winoground_mini", "--seed", "3"]).exit_code == 0
    by_command, by_function = tmp_path / "command" / "winoground_mini", tmp_path / "function"
    samples.write_sample("winoground_mini", by_function, 3)
    files = sorted(path.relative_to(by_function) for path in by_function.rglob("*") if path.is_file())
    assert len(files) == 2 + 2 * 2 * 4  # two styles, each with metadata and two images for each of four cases
    assert all((by_command / file).read_bytes() == (by_function / file).read_bytes() for file in files)


def test_an_unknown_sample_lists_the_known_ones(tmp_path):
    shown = run(app, [str(tmp_path / "out"), "winogrande"], env={"COLUMNS": "120"})
    assert shown.exit_code == 2 and "winoground_mini" in shown.output and not (tmp_path / "out").exists()


def test_an_existing_sample_stops_the_command_before_anything_is_drawn(tmp_path):
    (tmp_path / "vqa_mini").mkdir()
    shown = run(app, [str(tmp_path), "winoground_mini", "vqa_mini"], env={"COLUMNS": "200"})
    assert shown.exit_code == 2 and "exists: remove it" in shown.output
    assert [path.name for path in tmp_path.iterdir()] == ["vqa_mini"]

"""The notebooks as they are committed: one form for all of them, and outputs that belong to the cells above them."""

import re
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

import vladva_kit as vk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import run_notebooks as rn

PATHS = sorted(rn.FOLDER.glob("*.ipynb"))
LONGEST = 45  # lines of a code cell; the step of notebook 03 is the longest
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def output_texts(notebook):
    """Everything that the outputs say, pictures left out."""
    for output in outputs(notebook):
        yield output.get("text", "")
        yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


@pytest.fixture
def small():
    """A notebook of the form that all have, with an output of each kind that is tidied away."""
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("# old heading\n\nWhat you will see", id="title"),
        new.new_code_cell('N = 200  #@param {type:"integer"}', id="form"),
        new.new_markdown_cell("Try this\n\n**Next:** [old](old.ipynb)", id="end"),
    ]
    cells[1].metadata["execution"] = {"iopub.execute_input": "2000-01-01"}
    bundle = {rn.WIDGET_VIEW: {"model_id": "1"}, "text/html": "<p>view</p>", "text/plain": "Probe"}
    cells[1].outputs = [new.new_output("display_data", bundle)]
    return new.new_notebook(cells=cells, metadata={"widgets": {"state": {}}})


def test_the_seven_are_there():
    assert [path.stem for path in PATHS] == list(rn.TITLES)


@every_notebook
def test_it_begins_with_title_badge_what_is_seen_and_how_long_then_one_install_cell_and_one_form(path):
    notebook = read(path)
    title, install, form = notebook.cells[0], *code_cells(notebook)[:2]
    assert (title.id, title.cell_type, install.id, form.id) == ("title", "markdown", "install", "form")
    assert title.source.startswith(f"# {path.stem[:2]} · ")
    assert "What you will see" in title.source and "How long it takes" in title.source
    assert f"({rn.in_colab(path.stem)})" in title.source
    assert install.source == rn.install_source()
    assert [cell.id for cell in code_cells(notebook) if re.search(r"^\s*[%!]pip|#@param", cell.source, re.M)] == [
        "install",
        "form",
    ]
    for line in ('MODEL = "emoji-llava"', r"N = \d+", r"SEED = \d+"):
        assert re.search(rf"(?m)^{line}  #@param ", form.source), f"the form cell has no line {line}  #@param"


@every_notebook
def test_it_ends_with_things_to_try_and_the_way_on(path):
    end = read(path).cells[-1]
    assert (end.id, end.cell_type) == ("end", "markdown")
    assert re.search(r"(?m)^## Try this", end.source)
    onward = re.search(r"\]\((\w+\.ipynb)\)", end.source.splitlines()[-1])
    assert (path.parent / onward[1]).is_file()


@every_notebook
def test_its_code_cells_are_short_and_each_text_comes_in_its_turn(path):
    for cell in code_cells(read(path)):
        assert cell.source.count("\n") < LONGEST, f"cell {cell.id}"


@every_notebook
def test_its_addresses_are_those_of_pyproject(path):
    home = tomllib.loads((rn.ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    owner = home.removeprefix("https://github.com/")
    text = path.read_text()
    assert home in text and f"colab.research.google.com/github/{owner}/" in text
    assert set(re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/", text)) == {owner}
    assert set(re.findall(r"git\+(https://[\w./-]+)", text)) == {home}


@every_notebook
def test_its_outputs_are_those_of_its_cells(path):
    assert rn.drifted(path) is None


@every_notebook
def test_it_ran_once_from_top_to_bottom_without_a_warning(path):
    notebook = read(path)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs(notebook))
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook)), "no figure"


@every_notebook
def test_it_can_be_shown_everywhere(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata  # GitHub refuses those that lack a state
    assert not any(rn.WIDGET_VIEW in output.get("data", {}) for output in outputs(notebook))
    assert path.stat().st_size <= rn.MOST_BYTES


@every_notebook
def test_its_outputs_name_no_folder_of_the_machine_it_ran_on(path):
    package = Path(vk.__file__).resolve().parent
    for text in output_texts(read(path)):
        assert str(package.parent) not in text and "site-packages" not in text and "/tmp/" not in text


def test_what_all_share_is_written_into_a_notebook_and_written_again_changes_nothing(small):
    once = rn.shared(small, "02_prompts_and_lora")
    sources = [cell.source for cell in once.cells]
    assert [cell.id for cell in once.cells] == ["title", "install", "form", "end"]
    assert sources[0].startswith("# 02 · Prompts and LoRA\n\n[![Open in Colab]") and "old" not in sources[0]
    assert "(03_finetune.ipynb)" in sources[3] and "old" not in sources[3]
    assert [cell.source for cell in rn.shared(once, "02_prompts_and_lora").cells] == sources


def test_tidying_keeps_the_view_and_drops_widgets_timing_and_their_state(small):
    tidy = rn.tidied(small)
    assert dict(tidy.cells[1].outputs[0].data) == {"text/html": "<p>view</p>", "text/plain": "Probe"}
    assert "widgets" not in tidy.metadata and "execution" not in tidy.cells[1].metadata
    bar = {rn.WIDGET_VIEW: {"model_id": "2"}, "text/plain": "images:   0%|          | 0/200 [00:00<?, ?it/s]"}
    small.cells[1].outputs.append(nbformat.v4.new_output("display_data", bar))
    assert len(rn.tidied(small).cells[1].outputs) == 1
    del small.cells[1].outputs[0].data["text/html"]
    small.cells[1].outputs[0].data[rn.WIDGET_VIEW] = {}
    with pytest.raises(ValueError, match="cell form shows a widget that has no static view"):
        rn.tidied(small)


def test_a_changed_cell_is_noticed(small, tmp_path):
    path = tmp_path / "02_prompts_and_lora.ipynb"
    nbformat.write(rn.tidied(rn.shared(small, path.stem)), path)
    assert rn.drifted(path) is None
    path.write_text(path.read_text().replace("N = 200", "N = 201"))
    assert "not those that made its outputs" in rn.drifted(path)


def test_a_form_without_the_name_to_be_changed_is_refused_before_anything_runs(small):
    with pytest.raises(ValueError, match="0 lines 'MODEL = "):
        rn.executed(small, {"MODEL": '"elsewhere"'})


def test_the_failure_notebook_shows_the_figures_that_the_function_gives():
    cells = code_cells(read(rn.FOLDER / "06_failure_cases.ipynb"))
    cell = next(cell for cell in cells if cell.source.startswith("scores = {name: (result.text"))
    names, *rows = (line.split() for line in cell.outputs[0].data["text/plain"].splitlines())
    table = {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
    result = vk.evaluate_winoground(vk.load_baseline(), vk.sample("winoground_mini"))
    for score in ("text", "image", "group"):
        assert table[score]["emoji-clip"] == f"{getattr(result, score).percent:.1f}"

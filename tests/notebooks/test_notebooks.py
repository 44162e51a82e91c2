"""The committed notebooks: their common structure, and outputs that belong to their cells."""

import re
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

import vladva_kit as vk
from vladva_kit.widgets.static_view import STATIC_STYLE, static_html

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import run_notebooks as rn

PATHS = sorted(rn.FOLDER.glob("*.ipynb"))
MAX_LINES = 45  # of a code cell; the training step in notebook 03 is the longest
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def output_texts(notebook):
    """Yield all text in the outputs."""
    for output in outputs(notebook):
        yield output.get("text", "")
        yield from (text for kind, text in output.get("data", {}).items() if kind.startswith("text/"))


@pytest.fixture
def small():
    """A notebook with the common structure, and with metadata and outputs that are to be removed."""
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


def test_each_title_has_a_notebook():
    assert [path.stem for path in PATHS] == list(rn.TITLES)


@every_notebook
def test_notebook_starts_with_title_badge_contents_and_duration_then_install_and_form_cells(path):
    notebook = read(path)
    title, install, form = notebook.cells[0], *code_cells(notebook)[:2]
    assert (title.id, title.cell_type, install.id, form.id) == ("title", "markdown", "install", "form")
    assert title.source.startswith(f"# {path.stem[:2]} · ")
    assert "What you will see" in title.source and "How long it takes" in title.source
    assert f"({rn.colab_url(path.stem)})" in title.source and f"({rn.kaggle_url(path.stem)})" in title.source
    assert install.source == rn.install_source()
    assert [cell.id for cell in code_cells(notebook) if re.search(r"^\s*[%!]pip|#@param", cell.source, re.M)] == [
        "install",
        "form",
    ]
    number = [] if path.stem.startswith("06") else [r"N = \d+"]  # 06 uses all cases
    for line in ('MODEL = "emoji-llava"', *number, r"SEED = \d+"):
        assert re.search(rf"(?m)^{line}  #@param ", form.source), f"the form cell has no line {line}  #@param"


@every_notebook
def test_notebook_ends_with_suggestions_and_a_link_to_the_next(path):
    end = read(path).cells[-1]
    assert (end.id, end.cell_type) == ("end", "markdown")
    assert re.search(r"(?m)^## Try this", end.source)
    link = re.search(r"\]\((\w+\.ipynb)\)", end.source.splitlines()[-1])
    assert (path.parent / link[1]).is_file()


@every_notebook
def test_code_cells_are_short(path):
    assert [cell.id for cell in code_cells(read(path)) if cell.source.count("\n") >= MAX_LINES] == []


@every_notebook
def test_each_figure_is_followed_by_a_computed_sentence(path):
    for cell in code_cells(read(path)):
        for figure in re.finditer(r"^display\(plots\..*", cell.source, re.M):
            assert re.search(r"^ *print\(", cell.source[figure.end() :], re.M), f"cell {cell.id}"
        last = cell.source.splitlines()[-1]
        assert not last.startswith("plots."), f"cell {cell.id}: end it with display(figure) and a computed sentence"


@every_notebook
def test_each_widget_and_table_comes_with_a_computed_sentence(path):
    shown = [
        cell
        for cell in code_cells(read(path))
        if re.search(r"\bwidgets\.(?!Cached)\w+\(|^ *display\(", cell.source, re.M)
    ]
    assert [cell.id for cell in shown if "print(" not in cell.source and cell.id != "dashboard"] == []


@every_notebook
def test_install_form_and_setup_cells_are_folded(path):
    cells = {cell.id: cell for cell in code_cells(read(path))}
    for name in rn.FOLDED:
        assert cells[name].source.startswith("#@title ") and cells[name].metadata.cellView == "form"
        hidden = cells[name].metadata.get("jupyter", {}).get("source_hidden", False)
        assert hidden == (name != "form")  # JupyterLab has no forms: values are edited in the source
    assert "vk.notebook(" in cells["setup"].source


@every_notebook
def test_no_heading_is_a_question(path):
    headings = [line for cell in read(path).cells for line in cell.source.splitlines() if line.startswith("#")]
    assert [line for line in headings if line.endswith("?")] == []


@every_notebook
def test_addresses_are_those_of_pyproject(path):
    home = tomllib.loads((rn.ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    owner = home.removeprefix("https://github.com/")
    text = path.read_text()
    assert home in text and f"colab.research.google.com/github/{owner}/" in text
    assert set(re.findall(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/", text)) == {owner}
    assert set(re.findall(r"git\+(https://[\w./-]+)", text)) == {home}


@every_notebook
def test_outputs_were_made_by_the_cells(path):
    assert rn.find_drift(path) is None


@every_notebook
def test_notebook_was_run_once_from_top_to_bottom_without_a_warning(path):
    notebook = read(path)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs(notebook))
    shown = [output.get("data", {}) for output in outputs(notebook)]
    assert any("image/png" in data or "<img " in data.get("text/html", "") for data in shown), "no figure"


@every_notebook
def test_notebook_displays_without_a_kernel(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata  # GitHub rejects widget metadata without a state
    assert not any(rn.WIDGET_VIEW in output.get("data", {}) for output in outputs(notebook))
    assert path.stat().st_size <= rn.MAX_BYTES


@every_notebook
def test_outputs_contain_no_local_path(path):
    package = Path(vk.__file__).resolve().parent
    for text in output_texts(read(path)):
        assert str(package.parent) not in text and "site-packages" not in text and "/tmp/" not in text


def test_adding_the_shared_parts_twice_changes_nothing(small):
    once = rn.add_shared_parts(small, "02_prompts_and_lora")
    sources = [cell.source for cell in once.cells]
    assert [cell.id for cell in once.cells] == ["title", "install", "form", "end"]
    assert sources[0].startswith("# 02 · Prompts and LoRA\n\n[![Open in Colab]") and "old" not in sources[0]
    assert "(03_finetune.ipynb)" in sources[3] and "old" not in sources[3]
    assert [cell.source for cell in rn.add_shared_parts(once, "02_prompts_and_lora").cells] == sources


def test_cleaning_keeps_the_static_view_and_removes_widgets_and_timing(small):
    cleaned = rn.clean_outputs(small)
    assert dict(cleaned.cells[1].outputs[0].data) == {"text/html": "<p>view</p>", "text/plain": "Probe"}
    assert "widgets" not in cleaned.metadata and "execution" not in cleaned.cells[1].metadata


def test_cleaning_removes_progress_bars(small):
    bar = {rn.WIDGET_VIEW: {"model_id": "2"}, "text/plain": "images:   0%|          | 0/200 [00:00<?, ?it/s]"}
    small.cells[1].outputs.append(nbformat.v4.new_output("display_data", bar))
    assert len(rn.clean_outputs(small).cells[1].outputs) == 1


def test_cleaning_keeps_the_static_view_of_a_widget_that_is_two_outputs(small):
    bundles = [{"text/html": STATIC_STYLE}, {rn.WIDGET_VIEW: {"model_id": "2"}}, {"text/html": static_html("<p>3</p>")}]
    small.cells[1].outputs = [nbformat.v4.new_output("display_data", bundle) for bundle in bundles]
    assert [output.data for output in rn.clean_outputs(small).cells[1].outputs] == bundles[2:]


def test_cleaning_rejects_a_widget_without_a_static_view(small):
    del small.cells[1].outputs[0].data["text/html"]
    with pytest.raises(ValueError, match="cell form shows a widget that has no static view"):
        rn.clean_outputs(small)


def test_a_changed_cell_is_detected(small, tmp_path):
    path = tmp_path / "02_prompts_and_lora.ipynb"
    nbformat.write(rn.clean_outputs(rn.add_shared_parts(small, path.stem)), path)
    assert rn.find_drift(path) is None
    path.write_text(path.read_text().replace("N = 200", "N = 201"))
    assert "made by other cells" in rn.find_drift(path)


def test_form_values_are_replaced(small):
    rn.set_form(small, {"N": "24"})
    assert small.cells[1].source == 'N = 24  #@param {type:"integer"}'


def test_a_name_that_the_form_lacks_is_rejected(small):
    with pytest.raises(ValueError, match="0 lines 'MODEL = "):
        rn.set_form(small, {"MODEL": '"elsewhere"'})


def test_stored_winoground_scores_of_notebook_06_equal_the_function():
    cell = next(cell for cell in code_cells(read(rn.FOLDER / "06_failure_cases.ipynb")) if cell.id == "parts")
    head, body = cell.outputs[0].data["text/html"].split("</thead>")
    names = re.findall(r"<th>([^<]+)</th>", head)
    stored = {
        part: dict(zip(names, re.findall(r"<td>([^<]+)</td>", row), strict=True))
        for part, row in re.findall(r"<th>(\w+)</th>(.*?)</tr>", body, re.DOTALL)
    }
    result = vk.evaluate_winoground(vk.load_baseline(), vk.sample("winoground_mini") / "unseen_style")
    for part in ("text", "image", "group"):
        assert stored[part]["CLIP"] == f"{getattr(result, part).percent:.1f}"

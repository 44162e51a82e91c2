"""The README and docs/ match the files that they are generated from, and their links, commands and code work."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

import vladva_kit as vk
from experiments.paper.__main__ import app as paper_app
from experiments.paper.page import reproduction_page
from vladva_kit.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
UPDATE = runpy.run_path(str(ROOT / "docs" / "update_readme.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {page: page.read_text() for page in PAGES}
IMAGES = [
    (page, *image) for page in PAGES for image in re.findall(r"!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)", TEXTS[page])
]
MAX_README_LINES = 130
MAX_SCREENSHOT_BYTES = 300_000
MAX_FIGURES_BYTES = 1_500_000


def test_readme_is_short():
    assert len(TEXTS[ROOT / "README.md"].splitlines()) <= MAX_README_LINES


def name_of(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_exist(page):
    links = re.findall(r"\]\((?!https?:|#)([^)\s#]+)", TEXTS[page])
    assert [link for link in links if not (page.parent / link).exists()] == []


def linked_pages(page):
    return {(page.parent / link).resolve() for link in re.findall(r"\]\(([^)\s#]+\.md)\)", TEXTS[page])}


def test_readme_or_docs_index_links_to_every_page():
    readme, index = ROOT / "README.md", ROOT / "docs" / "index.md"
    assert index in linked_pages(readme)
    assert set(PAGES) - {readme, index} <= linked_pages(readme) | linked_pages(index)


def test_images_load_and_have_alt_text():
    assert len(IMAGES) >= 5
    for page, alt_text, path in IMAGES:
        assert len(alt_text.split()) > 4, path
        if not path.endswith(".svg"):
            with Image.open(page.parent / path) as image:
                image.load()
                assert image.width > 400, path


def test_every_screenshot_is_used_and_small():
    used = {(page.parent / path).resolve() for page, _, path in IMAGES}
    screenshots = set((ROOT / "docs" / "images").iterdir())
    assert len(screenshots) >= 3 and screenshots <= used
    assert all(path.stat().st_size <= MAX_SCREENSHOT_BYTES for path in screenshots)


def test_docs_figures_are_one_format_and_small():
    docs = ROOT / "docs"
    figures = [*docs.glob("*.png"), *(docs / "images").iterdir(), *(docs / "figures").iterdir()]
    assert {path.suffix for path in figures} == {".png"}
    assert sum(path.stat().st_size for path in figures) <= MAX_FIGURES_BYTES


# The memory table is tested in tests/training/test_memory.py, where it is computed anyway.
def test_study_table_is_up_to_date():
    assert UPDATE["read_table"]("study") == UPDATE["study_tables"]()


def test_the_recorded_collapse_is_that_of_the_results():
    recorded = ROOT / "vladva_kit" / "plots" / "recorded_collapse.json"
    assert json.loads(recorded.read_text()) == json.loads(json.dumps(UPDATE["collapse_record"]()))


def test_results_without_the_collapse_name_the_command_that_runs_it(tmp_path):
    (tmp_path / "results.json").write_text('{"experiments": {}}')
    with pytest.raises(ValueError, match=r"results.json: no 'collapse'; run python -m experiments.paper"):
        UPDATE["collapse_record"](tmp_path / "results.json")


def test_benchmarks_table_is_up_to_date():
    table = UPDATE["read_table"]("benchmarks")
    assert table == UPDATE["targets_table"]()
    assert table.count("(../experiments/benchmarks/results/step.md)") == 3


def test_the_demos_tables_are_those_of_its_committed_results():
    demo = json.loads((ROOT / "docs" / "demo.json").read_text())
    assert UPDATE["read_table"]("demo") == UPDATE["demo_table"](demo)
    assert UPDATE["read_table"]("summary") == UPDATE["summary_table"](demo)


def test_the_summary_has_a_row_per_model_and_the_counts_of_fixed_cases():
    demo = json.loads((ROOT / "docs" / "demo.json").read_text())
    tuned = demo["models"]["fine-tuned"]["winoground/unseen style"]["group"]["percent"]
    sentences, table, gallery = UPDATE["summary_table"](demo).split("\n\n")
    assert re.search(rf"unseen style: base [\d.]+ → fine-tuned {tuned:.1f} % \(\d+ fixed, \d+ broken", sentences)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == list(demo["models"])
    assert f" {tuned:.1f} |" in table
    assert gallery == "R@1 is among 500 images and 1,500 captions.\n"


def test_committed_results_hold_scores_but_no_cases():
    results = {"history": [1], "seed": 0, "models": {"base": {"a": {"cases": [1, 2], "image_ranks": [0], "n": 2}}}}
    assert UPDATE["without_cases"](results) == {"seed": 0, "models": {"base": {"a": {"n": 2}}}}
    assert results["models"]["base"]["a"]["cases"] == [1, 2]


def test_writing_a_table_replaces_the_old_one_only(tmp_path):
    (tmp_path / "docs").mkdir()
    page = Path(shutil.copy(ROOT / "docs" / "performance.md", tmp_path / "docs"))
    UPDATE["write_table"]("benchmarks", "| new |\n", tmp_path)
    assert UPDATE["read_table"]("benchmarks", tmp_path) == "| new |\n"
    UPDATE["write_table"]("benchmarks", UPDATE["targets_table"](), tmp_path)
    assert page.read_text() == TEXTS[ROOT / "docs" / "performance.md"]


def test_page_without_markers_is_an_error(tmp_path):
    (tmp_path / "README.md").write_text("no table here")
    with pytest.raises(ValueError, match="README.md lacks the markers '<!-- summary table -->'"):
        UPDATE["write_table"]("summary", "| new |\n", tmp_path)
    assert (tmp_path / "README.md").read_text() == "no table here"


def test_readmes_scores_in_openmoji_are_the_committed_ones():
    scores = json.loads((ROOT / "docs" / "openmoji.json").read_text())["scores"]
    base, tuned = (scores[name]["Winoground group"][0] for name in ("base", "emoji-llava-vladva"))
    text = " ".join(TEXTS[ROOT / "README.md"].split())
    assert f"({base:.1f} → {tuned:.1f} in OpenMoji" in text


def numbers(text):
    """Return the decimal numbers in a text: "from 72.4 to 84.3" -> {"72.4", "84.3"}."""
    return set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", text))


def prose(page, heading):
    """Return a section's text without its tables."""
    section = TEXTS[page].partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return "\n".join(line for line in section.splitlines() if not line.startswith("|"))


def test_numbers_in_the_demo_section_are_in_its_table_or_the_model_card():
    found = numbers(prose(ROOT / "docs" / "results.md", "What the demo shows"))
    card = (ROOT / "vladva_kit/emoji_world/emoji-llava/README.md").read_text()
    where = re.search(r"^\| where \| \S+ \[.*?\] \| (\S+) ", card, re.MULTILINE)[1]
    table = re.sub(r"\[.*?\]", "", UPDATE["read_table"]("demo"))
    assert len(found) > 10 and found <= numbers(table) | {where}


def test_numbers_in_the_study_section_come_from_the_study():
    tables = UPDATE["study_tables"]() + (ROOT / "docs" / "reproduction.md").read_text()
    found = numbers(prose(ROOT / "docs" / "results.md", "The paper's study in miniature"))
    assert len(found) > 8 and found <= numbers(re.sub(r"± \S+", "", tables))


def test_numbers_on_missed_targets_come_from_the_benchmarks():
    pages = (ROOT / "experiments" / "benchmarks" / "results").glob("*.md")
    found = numbers(prose(ROOT / "docs" / "performance.md", "Missed targets"))
    assert len(found) == 5 and found <= numbers(" ".join(page.read_text() for page in pages))


def commands(text):
    """Return (program, command, options) of each command line of the kit or of the study in a page."""
    pattern = r"(?:\b(vladva)|-m (vladva_kit|experiments\.paper)) ([a-z]+)((?: +[^\s`#|]+)*)"
    for kit, module, command, rest in re.findall(pattern, text):
        yield kit or module, command, re.findall(r"(?<!\S)--[a-z-]+", rest)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_exist(page):
    programs = {"experiments.paper": get_command(paper_app).commands}
    for program, command, options in commands(TEXTS[page]):
        known = programs.get(program, get_command(app).commands)
        assert command in known, f"{program} {command}"
        assert set(options) <= {name for parameter in known[command].params for name in parameter.opts}, command


def test_commands_are_found_in_a_page():
    text = "`vladva eval M --data D` and\naccelerate launch -m vladva_kit train F --steps 2  # --no"
    assert list(commands(text)) == [("vladva", "eval", ["--data"]), ("vladva_kit", "train", ["--steps"])]


def python_code(page):
    """Return the page's Python blocks as one script."""
    return "\n".join(re.findall(r"```python\n(.*?)```", TEXTS[page], re.DOTALL))


WITH_CODE = [page for page in PAGES if python_code(page) and page.name != "CONTRIBUTING.md"]  # shows parts of files


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_python_code_parses_and_starts_with_the_import(page):
    assert ast.unparse(ast.parse(python_code(page)).body[0]) == "import vladva_kit as vk"


def few_cases(sample, folder):
    """Return the sample; of SugarCrepe's, a copy with two cases per category."""
    if sample.name != "sugarcrepe_mini":
        return sample
    if folder.exists():
        return folder
    folder.mkdir()
    for path in sample.glob("*.json"):
        (folder / path.name).write_text(json.dumps(dict(list(json.loads(path.read_text()).items())[:2])))
    (folder / "images").symlink_to(sample / "images")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_readme_code_prints_what_its_comments_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = python_code(ROOT / "README.md")
    expected = re.findall(r"^print\(.*\)  # (?:.*: )?(\S+)", code, re.MULTILINE)
    full, short = (
        'vk.sample("emoji_pairs"), vk.Settings(steps=120, batch_size=64)',
        "pairs, vk.Settings(steps=1, batch_size=4)",
    )
    assert full in code
    exec(code.replace(full, short), {})
    *scores, answer = [line.split(" ")[0] for line in capsys.readouterr().out.splitlines()[:4]]
    assert list(map(float, scores)) == pytest.approx([float(value) for value in expected[:3]], abs=1.2)  # two cases
    assert answer == expected[3]
    assert (tmp_path / "my-adapter" / "adapter_config.json").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_widgets_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample = vk.sample
    monkeypatch.setattr(vk, "sample", lambda name: few_cases(sample(name), tmp_path / name))
    names = {}
    exec(python_code(ROOT / "docs" / "widgets.md"), names)
    assert len(names) > 10  # every line ran, up to the last widget


def test_reproduction_page_is_up_to_date():
    page = (ROOT / "docs" / "reproduction.md").read_text()
    results = json.loads((ROOT / "docs" / "ablation.json").read_text())
    command = re.search(r"Generated by `([^`]+)`", page)[1]
    figures = [path.stem for path in (ROOT / "docs" / "figures").glob("*.png")]
    assert reproduction_page(results, figures, command) == page


def trust_commands():
    """Return the commands of docs/trust.md."""
    rows = [line.split(" | ") for line in TEXTS[ROOT / "docs" / "trust.md"].splitlines() if line.startswith("| ")]
    found = [command for row in rows for command in re.findall(r"`([^`]+)`", row[1])]
    assert len(found) >= 30
    return dict.fromkeys(found)


def test_every_claim_has_a_command_and_a_file_that_exists():
    page = ROOT / "docs" / "trust.md"
    rows = [line for line in TEXTS[page].splitlines() if line.startswith("| ") and "---" not in line]
    claims = [line.strip("| ").split(" | ") for line in rows if not line.startswith("| claim |")]
    for claim, command, files in claims:
        links = re.findall(r"\]\(([^)\s]+)\)", files)
        assert "`" in command and links, claim
        assert all((page.parent / link).exists() for link in links), claim


def test_makefile_and_test_paths_of_the_claims_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in trust_commands():
        program, *words = command.split()
        if program == "make":
            assert words[0] in targets, command
        elif words[:2] == ["-m", "pytest"]:
            assert all((ROOT / path).exists() for path in words[2:]), command
        elif words and words[0].endswith(".py"):
            assert ast.parse((ROOT / words[0]).read_text()), command


PROGRAMS = [c for c in trust_commands() if c.startswith("vladva ") or c.startswith("python -m experiments.")]


@pytest.mark.parametrize("command", PROGRAMS)
def test_programs_of_the_claims_print_their_help_with_each_option(command):
    program, *words = command.split()
    head = [sys.executable, "-m", "vladva_kit"] if program == "vladva" else [sys.executable, "-m", words.pop(1)]
    words = [word for word in words if word != "-m"]
    subcommand = words[:1] if program == "vladva" or head[2] == "experiments.paper" else []
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    line = [*head, *subcommand, "--help"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for option in (word for word in words if word.startswith("--")):
        assert option in done.stdout, option


@pytest.mark.parametrize(
    "page",
    [
        "README.md", "docs/results.md", "docs/reproduction.md", "docs/getting-started.md",
        "docs/concepts/likelihood.md",
        *(f"vladva_kit/emoji_world/{name}/README.md" for name in ("emoji-llava", "emoji-clip")),
        *(f"notebooks/{name}.ipynb" for name in ("00_playground", "01_load_an_lvlm", "04_embeddings", "05_similarity")),
        "notebooks/06_failure_cases.ipynb",
    ],
)  # fmt: skip
def test_pages_that_score_the_base_say_that_it_is_not_strictly_zero_shot(page):
    text = " ".join((ROOT / page).read_text().split())
    assert "not strictly zero-shot" in text and "two embedding prompts" in text

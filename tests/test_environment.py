"""environment.yml lists the dependencies of pyproject.toml, and the README's badges link to the repository."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import vladva_kit as vk

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"torch": "pytorch"}


def parse_requirement(requirement):
    """Split a requirement into name and version: "torch>=2.6" -> ("torch", ">=2.6")."""
    name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0]
    return name.lower(), requirement[len(name) :].replace(" ", "")


def test_conda_environment_has_the_dependencies_of_pyproject():
    requirements = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["notebooks"]]
    expected = {CONDA_NAMES.get(name, name): version for name, version in map(parse_requirement, requirements)}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *packages, pip_packages = environment["dependencies"]
    installed = dict(map(parse_requirement, packages))
    assert len(installed) == len(packages)
    assert installed.pop("python") == PROJECT["requires-python"]
    assert installed.pop("pip") == ""
    assert installed == expected
    assert pip_packages == {"pip": ["-e .[notebooks]"]}
    assert environment["channels"] == ["conda-forge"]


def test_readme_badges_link_to_the_repository():
    repository = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    readme = (ROOT / "README.md").read_text()
    linked = re.findall(r"(?:colab\.research\.google\.com/github|mybinder\.org/v2/gh)/([\w.-]+/[\w.-]+)/", readme)
    assert set(linked) == {repository}
    assert f"git clone --depth 1 https://github.com/{repository} " in readme


def test_readme_table_has_a_link_and_a_badge_for_each_notebook():
    readme = (ROOT / "README.md").read_text()
    link, badge = r"\[[^\]]+\]\(notebooks/(\w+)\.ipynb\)", r"/blob/main/notebooks/(\w+)\.ipynb\)"
    rows = re.findall(rf"^\| <img [^>]+> \| {link}.*{badge}", readme, re.MULTILINE)
    assert all(link == badge for link, badge in rows)
    assert [link for link, _ in rows] == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_every_imported_library_is_declared():
    """A library that only comes with another one may leave it with a new version."""
    optional = {
        "bitsandbytes",
        "faiss",
        "open_clip",
        "sentence_transformers",
        "umap",
        "ipywidgets",
        "anywidget",
        "traitlets",
        "IPython",
    }
    optional |= {"pycocoevalcap", "torchvision", "deepspeed", "mteb", "torchao"}
    optional |= {"typing_extensions"}  # for type checkers only
    optional |= {"pandas"}  # comes with datasets
    imported = set()
    for path in (ROOT / "vladva_kit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").partition(".")[0])
    names = {"PIL": "pillow", "yaml": "pyyaml"}
    used = {names.get(name, name) for name in imported - set(sys.stdlib_module_names) - optional - {"vladva_kit"}}
    assert used <= {parse_requirement(requirement)[0] for requirement in PROJECT["dependencies"]}


def test_one_file_holds_the_repositorys_address_and_all_copies_agree():
    repository = PROJECT["urls"]["Repository"]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    files = [ROOT / name for name in tracked if name] or [ROOT / "README.md", ROOT / "CITATION.cff"]
    texts = {".md", ".cff", ".yml", ".yaml", ".ipynb", ".toml", ".j2"}
    pages = [path for path in files if path.suffix in texts and path.is_file()]
    owner = repository.removeprefix("https://github.com/").partition("/")[0]
    for path in pages:
        found = re.findall(rf"https://github\.com/{owner}/[\w.-]+", path.read_text(encoding="utf-8"))
        assert {link.removesuffix(".git") for link in found} <= {repository}, path
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["repository-code"] == repository and citation["version"] == PROJECT["version"]
    assert not [path for path in (ROOT / "vladva_kit").rglob("*.py") if repository in path.read_text()]


def test_the_changelog_starts_with_todays_version():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE)[1] == PROJECT["version"] == vk.__version__


def test_workflow_and_hooks_run_what_the_makefile_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    runs = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {target for run in runs for target in re.findall(r"\bmake ([a-z0-9-]+)", run)}
    assert used <= targets and {"test", "types", "wheel"} <= used
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [hook["id"] for repo in hooks["repos"] for hook in repo["hooks"]] == ["ruff", "ruff-format"]
    for template in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(template.read_text())["body" if template.stem != "config" else "contact_links"]

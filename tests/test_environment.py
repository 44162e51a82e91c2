"""environment.yml lists the dependencies of pyproject.toml, and the README's badges link to the repository."""

import re
import tomllib
from pathlib import Path

import yaml

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
    rows = re.findall(
        r"^\| \[[^\]]+\]\(notebooks/(\w+)\.ipynb\).*/blob/main/notebooks/(\w+)\.ipynb\)", readme, re.MULTILINE
    )
    assert all(link == badge for link, badge in rows)
    assert [link for link, _ in rows] == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))

"""The conda environment asks for what pyproject.toml asks for, and the README's addresses are the repository's."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IN_CONDA = {"torch": "pytorch"}


def named(requirement):
    """A requirement's name and pins: "torch>=2.6" -> ("torch", ">=2.6")."""
    name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0]
    return name.lower(), requirement[len(name) :].replace(" ", "")


def test_the_conda_environment_has_pyprojects_packages_with_its_pins():
    asked = dict(map(named, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["notebooks"]]))
    asked = {IN_CONDA.get(name, name): pins for name, pins in asked.items()}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    lines = [line for line in environment["dependencies"] if isinstance(line, str)]
    had = dict(map(named, lines))
    assert had.pop("python") == PROJECT["requires-python"]
    assert had.pop("pip") == ""
    assert had == asked and len(lines) == len(had) + 2
    assert environment["channels"] == ["conda-forge"]
    assert environment["dependencies"][-1] == {"pip": ["-e .[notebooks]"]}


def test_the_readmes_badges_lead_to_the_repository():
    owner = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    readme = (ROOT / "README.md").read_text()
    led_to = re.findall(r"(?:colab\.research\.google\.com/github|mybinder\.org/v2/gh)/([\w.-]+/[\w.-]+)/", readme)
    assert len(led_to) >= 8 and set(led_to) == {owner}  # seven in Colab, one on Binder
    names = re.findall(r"/blob/main/notebooks/(\w+)\.ipynb", readme)
    assert names == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))

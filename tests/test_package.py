"""The public names of the package: quick to import, and all of them exist."""

import ast
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vladva_kit as vk

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = "vladva_kit.data_samples"


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, vladva_kit; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", vk.__all__)
def test_every_public_name_resolves(name):
    value = getattr(vk, name)
    assert value.__name__.rpartition(".")[2] == name and value.__doc__


def test_an_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match="no attribute 'load_vlm'; available: load_lvlm, "):
        vk.load_vlm  # noqa: B018
    assert set(vk.__all__) <= set(dir(vk))


def test_type_checkers_see_the_lazy_names():
    tree = ast.parse((ROOT / "vladva_kit" / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING" and (ROOT / "vladva_kit" / "py.typed").exists()
    found = {alias.asname: statement.module for statement in block.body for alias in statement.names}
    lazy = {name: f"vladva_kit.{module}" if module else "vladva_kit" for name, module in vk._LAZY_EXPORTS.items()}
    assert found == lazy


def test_the_code_of_the_pages_is_collected_for_the_type_checker(tmp_path):
    write_snippets = runpy.run_path(str(ROOT / "docs" / "snippets.py"))["write_snippets"]
    scripts = {path.name: path.read_text() for path in write_snippets(tmp_path)}
    assert {"README.py", "widgets.py"} <= scripts.keys()
    assert all(code.startswith("import vladva_kit as vk") for code in scripts.values())


def test_the_wheel_contains_every_subpackage_and_the_samples():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [path.parent.relative_to(ROOT) for path in (ROOT / "vladva_kit").rglob("__init__.py")]
    assert sorted(setuptools["packages"]) == sorted([".".join(folder.parts) for folder in folders] + [SAMPLES])
    assert setuptools["package-dir"] == {SAMPLES: "data_samples"}
    assert setuptools["package-data"][SAMPLES] == ["**/*"] and setuptools["package-data"]["vladva_kit"] == ["py.typed"]

"""The public names of the package: quick to import, and all of them exist."""

import subprocess
import sys

import pytest

import vladva_kit as vk


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

"""Each notebook runs offline, in an empty folder: on emoji-llava, and on a tiny Qwen2-VL in a local folder.

All runs share one kernel, so that the libraries are imported once; its variables are cleared before each run. The
samples are replaced by small ones, since the outputs are not checked here.
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import datasets
import nbformat
import pytest
from tiny_families import build

import vladva_kit as vk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import run_notebooks as rn

PATHS = sorted(rn.FOLDER.glob("*.ipynb"))
MAX_SECONDS = 120
FORM = {"N": "24", "STEPS": "3", "BATCH": "16", "PAIRS": "48"}  # replaces the values of the form cells
PATCH = """
from pathlib import Path
import vladva_kit.data.samples
import vladva_kit.widgets.notebook
vladva_kit.widgets.notebook.HELD_OUT = 24  # of the small dataset of photos
sample = lambda name, folder=Path({samples!r}): folder / name  # the default survives %reset
vladva_kit.widgets.notebook.sample = vladva_kit.data.samples.sample = sample
"""
RESET = """
%reset -f
import os, tempfile
os.chdir(tempfile.mkdtemp(dir={folder!r}))
del os, tempfile
"""


def write_samples(folder):
    """Write the first rows of the samples that the notebooks use."""
    for split, n in (("train", 48), ("unseen_style", 24)):
        source, target = vk.sample("emoji_pairs") / split, folder / "emoji_pairs" / split
        target.mkdir(parents=True)
        lines = (source / "metadata.jsonl").read_text().splitlines()
        lines = [*lines[: 2 * n // 3], *lines[-n // 3 :]]  # of train, random pairs and groups of twins
        last = json.loads(lines[-1]).get("group")
        lines = [line for line in lines if json.loads(line).get("group") in (None, last)] if last else lines
        (target / "metadata.jsonl").write_text("\n".join(lines))
        for line in lines:
            shutil.copy(source / json.loads(line)["file_name"], target)
    shutil.copytree(vk.sample("photos"), folder / "photos")
    source, target = vk.sample("winoground_mini") / "unseen_style", folder / "winoground_mini" / "unseen_style"
    shutil.copytree(source / "images", target / "images")
    cases = (source / "examples.jsonl").read_text().splitlines()
    (target / "examples.jsonl").write_text("\n".join(cases[:: len(cases) // 9]))  # of all categories
    source, target = vk.sample("sugarcrepe_mini") / "unseen_style", folder / "sugarcrepe_mini" / "unseen_style"
    shutil.copytree(source / "images", target / "images")
    for path in source.glob("*.json"):
        (target / path.name).write_text(json.dumps(dict(list(json.loads(path.read_text()).items())[:2])))


def write_photos(folder):
    """Write a dataset with the columns of UCSC-VLAA/Recap-COCO-30K, which the notebooks read from the Hub."""
    folder.mkdir()
    pairs = vk.load_pairs(vk.sample("emoji_pairs"), "validation")[:72]
    columns = {
        "image": [{"bytes": pair.image.read_bytes(), "path": pair.image.name} for pair in pairs],
        "caption": [pair.short for pair in pairs],
        "recaption": [pair.long for pair in pairs],
    }
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    rows.to_parquet(folder / "train.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def tiny_qwen(folder):
    """The form values that select a tiny Qwen2-VL and photos."""
    pairs = [*vk.load_pairs(vk.sample("emoji_pairs"), "validation"), *vk.load_pairs(vk.sample("photos")) * 9]
    words = " ".join(f"{pair.short} {pair.long or ''}" for pair in pairs)
    build("qwen2_vl", folder / "qwen2_vl", lines=words, tokens=2500)  # whole words: short captions have few tokens
    write_photos(folder / "photos")
    paths = {name: repr(str(folder / path)) for name, path in (("MODEL", "qwen2_vl"), ("PHOTOS", "photos"))}
    return {**paths, "BASELINE": '"emoji-clip"'}


@pytest.fixture(scope="module")
def kernel(folder):
    write_samples(folder / "samples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # tiny models: a second thread costs more than it saves
        patch.setenv("HOME", str(folder))  # where the adapter of another model is kept
        with rn.started_kernel(folder) as client:
            run_source(client, PATCH.format(samples=str(folder / "samples")))
            yield client


def run_source(kernel, source):
    cell = nbformat.v4.new_code_cell(source)
    rn.execute(nbformat.v4.new_notebook(cells=[cell]), kernel)


@pytest.mark.parametrize("model", ["emoji-llava", "tiny Qwen2-VL"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom_in_time_without_a_network(path, model, kernel, folder, tiny_qwen):
    notebook = nbformat.read(path, as_version=4)
    form = next(cell.source for cell in notebook.cells if cell.id == "form")
    values = FORM if model == "emoji-llava" else FORM | tiny_qwen
    rn.set_form(notebook, {name: value for name, value in values.items() if f"\n{name} = " in f"\n{form}"})
    run_source(kernel, RESET.format(folder=str(folder)))
    start = time.monotonic()
    rn.execute(notebook, kernel)
    assert time.monotonic() - start < MAX_SECONDS * float(os.environ.get("VLADVA_PATIENCE", "1"))
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")

"""Each notebook runs as a lone file, offline and in time: on emoji-llava, and on a tiny Qwen2-VL in a local folder.

Two run at a time, each on one core: they are separate processes, and much of their time is spent importing.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import nbformat
import pytest
from tiny_families import build

import vladva_kit as vk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import run_notebooks as rn

PATHS = sorted(rn.FOLDER.glob("*.ipynb"))
SECONDS = 240
FEW = {"N": "24", "STEPS": "12"}  # in place of the form's, where it has them


def photographs(folder):
    """A dataset as notebook 03 reads it from the hub: the columns of UCSC-VLAA/Recap-COCO-30K."""
    pairs = vk.load_pairs(vk.sample("emoji_pairs"), "validation")[:72]
    columns = {
        "image": [{"bytes": pair.image.read_bytes(), "path": pair.image.name} for pair in pairs],
        "caption": [pair.short for pair in pairs],
        "recaption": [pair.long for pair in pairs],
    }
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    rows.to_parquet(folder / "train.parquet")
    return folder


def form_of(path, model, folder):
    """What a run's form says, as the texts that stand in it."""
    form = next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.id == "form")
    there = {key: value for key, value in FEW.items() if f"\n{key} = " in form}
    if model == "emoji-llava":
        return there
    tiny = {"MODEL": repr(str(folder / "qwen2_vl"))}
    if "\nDATA = " in form:
        tiny |= {"DATA": repr(str(folder / "photographs")), "PAIRS": "48", "BATCH": "8"}
    return {**there, **tiny}


def timed(path, changed):
    notebook, begun = nbformat.read(path, as_version=4), time.monotonic()
    rn.executed(notebook, changed)
    return notebook, time.monotonic() - begun


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """What each of the selected tests waits for: its notebook as it ran, and the seconds that took."""
    folder = tmp_path_factory.mktemp("tiny")
    captions = " ".join(pair.short for pair in vk.load_pairs(vk.sample("emoji_pairs"), "train"))
    build("qwen2_vl", folder / "qwen2_vl", lines=captions, tokens=1000)  # in words: short captions stay under 30
    (folder / "photographs").mkdir()
    photographs(folder / "photographs")
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        patch.setenv("OMP_NUM_THREADS", "1")
        chosen = [item.callspec.params for item in request.session.items if item.path == request.path]
        yield {
            (run["path"], run["model"]): pool.submit(timed, run["path"], form_of(run["path"], run["model"], folder))
            for run in chosen
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("model", ["emoji-llava", "tiny Qwen2-VL"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom_in_time_without_a_network(path, model, runs):
    notebook, seconds = runs[path, model].result()
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"][-1] >= 4
    assert seconds < SECONDS

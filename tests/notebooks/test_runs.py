"""Each notebook runs as a lone file, offline and in time: on emoji-llava, and on a tiny Qwen2-VL in a local folder.

Two run at a time, each on one core: they are separate processes, and much of their time is spent importing.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from tiny_families import build

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
import run_notebooks as rn

PATHS = sorted(rn.FOLDER.glob("*.ipynb"))
SECONDS = 240
FEW = "24"  # pictures in place of the form's N


def timed(path, changed):
    notebook, begun = nbformat.read(path, as_version=4), time.monotonic()
    rn.executed(notebook, changed)
    return notebook, time.monotonic() - begun


@pytest.fixture(scope="module")
def runs(request, tmp_path_factory):
    """What each of the selected tests waits for: its notebook as it ran, and the seconds that took."""
    folder = build("qwen2_vl", tmp_path_factory.mktemp("tiny_qwen2_vl"))
    forms = {"emoji-llava": {"N": FEW}, "tiny Qwen2-VL": {"N": FEW, "MODEL": repr(str(folder))}}
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        patch.setenv("OMP_NUM_THREADS", "1")
        chosen = [item.callspec.params for item in request.session.items if item.path == request.path]
        yield {(run["path"], run["model"]): pool.submit(timed, run["path"], forms[run["model"]]) for run in chosen}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("model", ["emoji-llava", "tiny Qwen2-VL"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom_in_time_without_a_network(path, model, runs):
    notebook, seconds = runs[path, model].result()
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"][-1] >= 4
    assert seconds < SECONDS

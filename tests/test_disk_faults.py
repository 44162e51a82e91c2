"""Whatever writes says in one sentence that it cannot, and leaves no part of a file: full disk, read-only folder."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
    import importlib.util, json, os, resource, sys, warnings
    from pathlib import Path
    warnings.simplefilter("ignore")
    import torch
    torch.set_num_threads(1)
    from PIL import Image
    from tiny import fit, small, tiny_embedder, tiny_pairs
    import vladva_kit as vk
    from vladva_kit import plots
    from vladva_kit.data.captioning import caption_images
    from vladva_kit.data.images import list_images
    from vladva_kit.embedder.export import export
    from vladva_kit.evaluation.results import save_results
    from vladva_kit.models.files import write_json
    from vladva_kit.plots.style import new_figure
    from vladva_kit.search.index import build_index
    from vladva_kit.search.shards import embed_images_to_shards

    fault, folder = sys.argv[1], Path(sys.argv[2])
    "".encode("utf-8-sig")  # loads the codec: another user may not read Python's own folder
    embedder, pairs = tiny_embedder(), [pair for pair in tiny_pairs(6) if pair.short]
    (folder / "images").mkdir()
    for number in range(300):
        Image.new("RGB", (8, 8), (number % 256, 0, 0)).save(folder / "images" / f"{number}.png")
    images = list_images(folder / "images")
    encode = lambda batch: torch.nn.functional.normalize(torch.rand(len(batch), 16), dim=-1)
    result = vk.evaluate_retrieval(embedder, pairs)
    embed_images_to_shards(images, encode, folder / "done", model="m")
    (folder / "out").mkdir(mode=0o755)
    writers = {
        "adapter": lambda out: embedder.save_pretrained(out / "a"),
        "export": lambda out: export(embedder, out / "b"),
        "checkpoint": lambda out: fit(tiny_embedder(), small(output_dir=str(out / "c"), save_every=1)),
        "features": lambda out: fit(tiny_embedder(), small(cache_images=str(out / "d"))),
        "teacher": lambda out: fit(tiny_embedder(), small(distill_weight=1.0, distill_cache=str(out / "e"))),
        "shards": lambda out: embed_images_to_shards(images, encode, out / "f", model="m"),
        "captions": lambda out: caption_images(embedder, images[:40], out / "g"),
        "cache": lambda out: vk.evaluate_retrieval(embedder, pairs, cache=out / "h"),
        "results": lambda out: save_results(out / "i", {"m": {"r": result}}, {"m": {}}, {}),
        "figure": lambda out: plots.save(new_figure(3, 2, "title"), out / "j"),
        "json": lambda out: write_json(out / "k.json", {"a": "b" * 1000}),
        "index": lambda out: build_index(folder / "done"),
    }
    if importlib.util.find_spec("faiss") is None:
        del writers["index"]
    else:
        import faiss  # before the user changes, who may not read the environment's packages
    b"".decode("utf-8-sig")
    outcomes, limits = {}, resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, write in writers.items():
        try:
            if fault == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
            elif os.geteuid() == 0:  # root may write to every folder
                os.seteuid(65534)
            else:
                (folder / "out").chmod(0o555), (folder / "done").chmod(0o555)
            write(folder / "out")
            outcomes[name] = "written"
        except OSError as error:
            outcomes[name] = f"OSError: {error}"
        except BaseException as error:
            outcomes[name] = f"{type(error).__name__}: {error}"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            os.seteuid(os.getuid())
    (folder / "outcomes.json").write_text(json.dumps(outcomes))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_every_writer_says_in_one_sentence_that_it_cannot_write(tmp_path, fault):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for folder in (tmp_path, *tmp_path.parents[:4]):  # so that another user may enter
        if folder.owner() == tmp_path.owner() and folder.name.startswith(("pytest-", "popen-", "test_")):
            folder.chmod(0o755)
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), fault, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    outcomes = json.loads((tmp_path / "outcomes.json").read_text())
    assert len(outcomes) >= 11
    wrong = {name: text for name, text in outcomes.items() if "cannot be written (" not in text}
    assert wrong == {}
    assert all("\n" not in text and text.startswith("OSError") and len(text) < 500 for text in outcomes.values())
    left = [path.name for path in (tmp_path / "out").rglob("*.part")]
    assert not left

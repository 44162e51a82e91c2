"""Models of the kit get the same scores from mteb and CLIP_benchmark as from the kit.

`make test-interop` installs the libraries and runs these tests, and those of the names that load their models.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from PIL import Image
from tiny import tiny_embedder
from torch.nn.functional import normalize
from torch.utils.data import DataLoader
from typer.testing import CliRunner

import vladva_kit as vk
from vladva_kit.cli.app import app
from vladva_kit.cli.options import load_embedder
from vladva_kit.data.pairs import load_pairs
from vladva_kit.embedder.export import export
from vladva_kit.evaluation import evaluate_retrieval
from vladva_kit.evaluation.interop import ClipBenchmarkModel, MtebEncoder
from vladva_kit.evaluation.winoground import load_winoground, winoground_margins
from vladva_kit.models.images import open_image
from vladva_kit.models.load import resolve

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS = "open_clip_model.safetensors"


def needs(*libraries):
    missing = [library for library in libraries if not importlib.util.find_spec(library)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: make test-interop installs it")


class Listed:
    """An encoder whose embeddings say which image or text they are of; records the sizes of its batches."""

    fingerprint = "listed"

    def __init__(self):
        self.sizes = []

    def encode_image(self, images):
        self.sizes.append(len(images))
        return torch.nn.functional.normalize(
            torch.tensor([[image.width, image.height, 1.0] for image in images]), dim=1
        )

    def encode_text(self, texts):
        return normalize(torch.tensor([[len(text), text.count("a"), 1.0] for text in texts]))


IMAGES = [Image.new("RGB", (4 + number, 9)) for number in range(150)]


@pytest.fixture
def mteb_meta(monkeypatch):
    """ModelMeta of mteb, which only holds what it is given."""
    meta = SimpleNamespace(create_empty=lambda given: SimpleNamespace(**given))
    monkeypatch.setitem(sys.modules, "mteb", SimpleNamespace(models=SimpleNamespace(ModelMeta=meta)))
    monkeypatch.setitem(sys.modules, "mteb.models", SimpleNamespace(ModelMeta=meta))


def test_the_batches_of_mteb_are_joined_and_keep_their_order(mteb_meta):
    encoder, model = Listed(), MtebEncoder(Listed(), revision="1")
    model.embedder = encoder
    found = model.encode([{"image": [image]} for image in IMAGES], batch_size=1)
    assert torch.equal(found, Listed().encode_image(IMAGES)) and encoder.sizes == [64, 64, 22]
    texts = model.encode([{"text": ["a dog", "aaa"]}, {"text": ["b"]}])
    assert torch.equal(texts, encoder.encode_text(["a dog", "aaa", "b"]))
    assert torch.allclose(model.similarity(texts, texts).diagonal(), model.similarity_pairwise(texts, texts))
    with pytest.raises(ValueError, match="an image with a text has no embedding"):
        model.encode([{"image": IMAGES[:1], "text": ["a dog"]}])


def test_the_revision_of_mteb_is_the_fingerprint_of_the_model(mteb_meta):
    one, other = tiny_embedder(), tiny_embedder()
    with torch.no_grad():
        next(weight for name, weight in other.lvlm.model.named_parameters() if "lora_B" in name).add_(1)
    assert MtebEncoder(one).mteb_model_meta.revision != MtebEncoder(other).mteb_model_meta.revision
    with pytest.raises(TypeError, match="has no weights to fingerprint"):
        MtebEncoder(SimpleNamespace())


def test_clip_benchmark_gets_each_image_once_and_as_it_is():
    model = ClipBenchmarkModel(Listed())
    assert model.eval() is model
    numbers = torch.stack([model.transform(image) for image in IMAGES[:3]])
    assert numbers.shape == (3, 1, 1, 1)  # stacked as images are
    assert torch.equal(model.encode_image(numbers[[2, 0]]), Listed().encode_image([IMAGES[2], IMAGES[0]]))
    with pytest.raises(KeyError):
        model.encode_image(numbers[:1])
    with torch.autocast("cpu"):
        texts = model.encode_text(model.tokenizer(["a dog", "b"]).to("cpu"))
    assert torch.equal(texts, Listed().encode_text(["a dog", "b"])) and texts.dtype == torch.float32
    loader = DataLoader([0], num_workers=1, collate_fn=lambda rows: model.transform(IMAGES[0]))
    with pytest.raises(ValueError, match="pass num_workers=0"):
        next(iter(loader))


CASES = load_winoground(vk.sample("winoground_mini"))[:40]
PAIRS = load_pairs(vk.sample("emoji_pairs"), "test")[:40]


def kit_scores(embedder):
    """Winoground's three scores of CASES, as fractions."""
    scores = embedder.similarity(
        [image for case in CASES for image in case.images], [text for case in CASES for text in case.captions]
    )
    blocks = torch.stack([scores[row : row + 2, row : row + 2] for row in range(0, len(scores), 2)])
    margins = winoground_margins(blocks.numpy())
    return [margins[name].correct.mean() for name in ("text", "image", "group")]


@needs("mteb")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exported", [False, True], ids=["MtebEncoder", "an exported folder"])
def test_mteb_and_the_kit_agree_on_winoground(tmp_path, exported):
    import mteb
    from mteb.models.models_protocols import EncoderProtocol
    from mteb.tasks.image_text_pair_classification.eng.winoground import Winoground

    class Miniature(Winoground):
        def load_data(self, *args, **options):
            table = {f"image_{n}": [open_image(case.images[n]) for case in CASES] for n in (0, 1)}
            table |= {f"caption_{n}": [case.captions[n] for case in CASES] for n in (0, 1)}
            self.dataset, self.data_loaded = {"default": {"test": datasets.Dataset.from_dict(table)}}, True

    embedder = vk.Embedder(vk.load_lvlm())
    model = MtebEncoder(embedder)
    if exported:
        folder = export(embedder, tmp_path / "out")
        model = MtebEncoder(load_embedder(str(folder)))
        # of a folder on the hub, mteb loads what it finds here
        config = json.loads((folder / "sentence_bert_config.json").read_text())
        assert mteb.models.ModelMeta._detect_modalities_from_sbert_config(config) == ["image", "text"]
    assert isinstance(model, EncoderProtocol)
    result = mteb.evaluate(model, [Miniature()], cache=None, show_progress_bar=False)
    (scores,) = result.task_results[0].scores["test"]
    # for mteb, images are correct for which the caption is found: that is Winoground's text score
    found = [scores[name] for name in ("text_acc", "image_acc", "accuracy")]
    assert found == pytest.approx(kit_scores(embedder)) and 0 < found[0] < 1


def clip_benchmark_loader(rows, model):
    """Batches as CLIP_benchmark's collate functions return them: stacked images and lists of captions."""

    def collate(batch):
        return torch.stack([images for images, _ in batch]), [texts for _, texts in batch]

    return DataLoader(rows, batch_size=8, collate_fn=collate)


@needs("clip_benchmark")
def test_clip_benchmark_and_the_kit_agree_on_winoground_and_retrieval():
    from clip_benchmark.metrics import image_caption_selection, zeroshot_retrieval

    embedder = vk.Embedder(vk.load_lvlm())
    model = ClipBenchmarkModel(embedder)
    rows = [
        (torch.stack([model.transform(open_image(image)) for image in case.images]), case.captions) for case in CASES
    ]
    found = image_caption_selection.evaluate(model, clip_benchmark_loader(rows, model), model.tokenizer, "cpu")
    assert [found[name] for name in ("text_acc", "image_acc", "acc")] == pytest.approx(kit_scores(embedder))

    rows = [(model.transform(pair.load_image()), [pair.short]) for pair in PAIRS]
    found = zeroshot_retrieval.evaluate(
        model, clip_benchmark_loader(rows, model), model.tokenizer, "cpu", recall_k_list=[1, 5]
    )
    ours = evaluate_retrieval(embedder, [replace(pair, captions=()) for pair in PAIRS], ks=(1, 5))
    assert len({pair.short for pair in PAIRS}) == len(PAIRS)
    for k in (1, 5):
        assert 100 * found[f"image_retrieval_recall@{k}"] == pytest.approx(ours.text_to_image[k].percent, abs=1e-3)
        assert 100 * found[f"text_retrieval_recall@{k}"] == pytest.approx(ours.image_to_text[k].percent, abs=1e-3)


def tiny_open_clip(folder):
    """Write a random CLIP of open_clip into a folder, as open_clip loads it."""
    import open_clip
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    model = open_clip.CLIP(**config).eval()
    save_file({name: weight.contiguous() for name, weight in model.state_dict().items()}, folder / WEIGHTS)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": 32}}))
    return model


@needs("open_clip", "torchvision")
def test_an_open_clip_folder_gives_open_clips_own_embeddings(tmp_path):
    import open_clip

    model = tiny_open_clip(tmp_path)
    images, captions = [open_image(CASES[0].images[0]), open_image(CASES[1].images[1])], ["a dog", "two cats"]
    transform = open_clip.image_transform(32, is_train=False)
    with torch.inference_mode():
        expected = model.encode_image(torch.stack([transform(image) for image in images]), normalize=True)
        texts = model.encode_text(open_clip.tokenize(captions), normalize=True)
    loaded = load_embedder(f"open_clip:local-dir:{tmp_path}")
    assert torch.allclose(loaded.encode_image(images), expected, atol=1e-6)
    assert torch.allclose(loaded.encode_text(captions), texts, atol=1e-6)


@needs("clip_benchmark", "open_clip", "torchvision")
def test_the_command_line_of_clip_benchmark_and_the_kit_agree_on_sugarcrepe(tmp_path):
    tiny_open_clip(tmp_path)
    coco, model = tmp_path / "coco", f"local-dir:{tmp_path}"
    coco.mkdir()
    (coco / "val2017").symlink_to(vk.sample("sugarcrepe_mini") / "images")
    shutil.copy(vk.sample("sugarcrepe_mini") / "swap_obj.json", coco)
    options = {
        "dataset": "sugar_crepe/swap_obj",
        "dataset_root": coco,
        "task": "image_caption_selection",
        "model": model,
    }
    options |= {"pretrained": "", "num_workers": 0, "output": tmp_path / "result.json"}
    command = [f"--{name}={value}" for name, value in options.items()]
    program = Path(sys.executable).parent / "clip_benchmark"
    subprocess.run([program, "eval", "--no_amp", *command], check=True, capture_output=True, text=True)
    found = json.loads((tmp_path / "result.json").read_text())["metrics"]
    ours = vk.evaluate_sugarcrepe(load_embedder(f"open_clip:{model}"), vk.sample("sugarcrepe_mini"))
    assert 100 * found["text_acc"] == pytest.approx(ours.categories["swap_obj"].percent)
    assert 0 < found["text_acc"] < 1


@needs("sentence_transformers")
def test_sentence_transformers_loads_a_clip_of_transformers():
    from transformers import AutoModel, AutoProcessor

    folder = resolve("emoji-clip", ("emoji-clip",))
    loaded, images, captions = (
        load_embedder(f"sentence_transformers:{folder}"),
        CASES[0].images,
        list(CASES[0].captions),
    )
    model, processor = (
        AutoModel.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )  # torchvision's or PIL's
    images = [open_image(image) for image in images]
    inputs = processor(text=captions, images=images, padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs)
    assert torch.allclose(loaded.encode_text(captions), expected.text_embeds, atol=1e-5)
    assert torch.allclose(loaded.encode_image(images), expected.image_embeds, atol=1e-5)


@needs("sentence_transformers")
def test_embed_search_and_eval_take_an_export_as_they_take_its_adapter(tmp_path):
    exported = str(export(load_embedder("emoji-llava-vladva"), tmp_path / "exported"))
    images = tmp_path / "images"
    images.mkdir()
    lines = []
    for number, pair in enumerate(PAIRS[:6]):
        pair.load_image().save(images / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "short": pair.short}))
    (images / "metadata.jsonl").write_text("\n".join(lines))

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    shown = []
    for number, name in enumerate(["emoji-llava-vladva", exported, f"sentence_transformers:{exported}"]):
        out = tmp_path / str(number)
        run("embed", images, "--model", name, "--out", out)
        recalls = json.loads(run("eval", name, "--benchmark", "retrieval", "--data", images, "--json"))["models"][name]
        hits = run("search", out, PAIRS[0].short).splitlines()[1:]
        scores, names = zip(*(hit.split() for hit in hits), strict=True)
        shown.append((names, [float(score) for score in scores]))
        assert recalls["retrieval"]["text_to_image"]["R@1"]["percent"] > 50
    for names, scores in shown[1:]:
        assert names == shown[0][0] and scores == pytest.approx(shown[0][1], abs=2e-3) and len(names) == 6

"""Validation during training: recall@1, custom functions, early stopping, and the best checkpoint."""

import json

import pytest
import torch
from tiny import CAPTIONS, fit, small, stop_after, tiny_embedder, tiny_pairs
from transformers import EarlyStoppingCallback

import vladva_kit as vk
from vladva_kit.training.validation import check_early_stopping, recall_at_1

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("mean_r1", "image_to_text_r1", "text_to_image_r1")


class GivenCosines:
    """An embedder whose cosines (images, texts) are given."""

    def __init__(self, cosines):
        self.cosines = cosines

    def encode_image(self, images):
        return torch.zeros(len(images), 1)

    def encode_text(self, texts):
        return torch.zeros(len(texts), 1)

    def similarity(self, images, texts):
        assert self.cosines.shape == (len(images), len(texts))
        return self.cosines


@pytest.mark.parametrize("seed", range(5))
def test_recall_at_1_equals_a_loop(seed):
    pairs = [pair for pair in tiny_pairs(8) if pair.short]
    cosines = torch.randint(0, 9, (7, 7), generator=torch.Generator().manual_seed(seed)) / 9 + torch.eye(7) / 3
    image_to_text = sum(all(cosines[i, i] > cosines[i, j] for j in range(7) if j != i) for i in range(7))
    text_to_image = sum(all(cosines[i, i] > cosines[j, i] for j in range(7) if j != i) for i in range(7))
    recall = recall_at_1(GivenCosines(cosines), pairs)
    expected = {"image_to_text_r1": 100 * image_to_text / 7, "text_to_image_r1": 100 * text_to_image / 7}
    expected["mean_r1"] = 50 * (image_to_text + text_to_image) / 7
    assert recall == pytest.approx(expected) and 0 < image_to_text + text_to_image < 14


def test_recall_at_1_counts_ties_as_misses_and_skips_pairs_without_short_caption():
    embedder, pairs = tiny_embedder(), tiny_pairs(5)
    assert pairs[4].short is None
    distinct = pairs[:2]
    fit(embedder, small(steps=20, batch_size=2, learning_rate=1e-2), distinct)
    assert recall_at_1(embedder, [*distinct, pairs[4]]) == dict.fromkeys(NAMES, 100.0)
    same_caption = vk.Pair(pairs[3].image, distinct[0].short)
    assert recall_at_1(embedder, [distinct[0], same_caption])["image_to_text_r1"] == 0
    same_image = vk.Pair(distinct[0].image, "a red car")
    assert recall_at_1(embedder, [distinct[0], same_image])["text_to_image_r1"] == 0


def test_validation_on_pairs_is_in_the_rows_of_its_steps():
    embedder, validation = tiny_embedder(), [pair for pair in tiny_pairs(9) if pair.short]
    history = fit(embedder, small(steps=5, validate_every=2), validation=validation)
    names = {f"eval_{name}" for name in NAMES}
    assert [names <= row.keys() for row in history] == [False, True, False, True, True]  # the last step as well
    final = {f"eval_{name}": value for name, value in recall_at_1(embedder, validation).items()}
    assert {name: history[-1][name] for name in names} == final


def test_validation_between_logged_steps_is_in_the_history():
    scores = iter(range(9))
    settings = small(steps=5, validate_every=1, trainer={"logging_steps": 2})
    history = fit(tiny_embedder(), settings, validation=lambda embedder: {"score": next(scores)})
    assert [(row["step"], row["eval_score"]) for row in history] == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert [row["step"] for row in history if "loss" in row] == [2, 4]


def test_validation_on_a_folder_uses_its_split_validation(tmp_path):
    for split, n in (("train", 8), ("validation", 2)):
        (tmp_path / split).mkdir()
        lines = []
        for index, pair in enumerate(tiny_pairs(n)):
            pair.image.save(tmp_path / split / f"{index}.png")
            lines.append(json.dumps({"file_name": f"{index}.png", "short": pair.short or "a cat"}))
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(lines))
    embedder = tiny_embedder()
    history = vk.fit(embedder, tmp_path, small(steps=1), validation=tmp_path, progress=False)
    recall = recall_at_1(embedder, vk.load_pairs(tmp_path, "validation"))
    assert history[-1]["eval_text_to_image_r1"] == recall["text_to_image_r1"]
    assert recall["text_to_image_r1"] in (0, 50, 100)  # of two pairs


def test_validation_by_a_function_sees_the_embedder_as_trained_so_far():
    embedder, embeddings = tiny_embedder(), []

    def validate(trained):
        assert trained is embedder
        embeddings.append(trained.encode_text(CAPTIONS))
        return {"score": float(len(embeddings))}

    history = fit(embedder, small(steps=4, validate_every=2, learning_rate=1e-2), validation=validate)
    assert [row.get("eval_score") for row in history] == [None, 1.0, None, 2.0]
    assert torch.equal(embeddings[1], embedder.encode_text(CAPTIONS))
    assert not torch.allclose(embeddings[0], embeddings[1], atol=1e-4)


def test_validation_does_not_change_the_run():
    plain = fit(tiny_embedder(lora_dropout=0.2), small())
    validated = fit(tiny_embedder(lora_dropout=0.2), small(validate_every=1), validation=tiny_pairs(9))
    assert [row["loss"] for row in validated] == [row["loss"] for row in plain]


def scored(scores, embeddings=None):
    """Return a validation with these scores; it appends the embeddings of each time."""
    scores = iter(scores)

    def validate(embedder):
        if embeddings is not None:
            embeddings.append(embedder.encode_text(CAPTIONS))
        return {"score": next(scores), "other": 0.0}

    return validate


EACH_STEP = {"validate_every": 1, "learning_rate": 1e-2}


@pytest.mark.parametrize("save_every", [None, 1, 4], ids="output_dir, save_every={}".format)
def test_early_stopping_ends_with_the_best_adapter_with_or_without_output_dir(tmp_path, save_every):
    embedder, embeddings = tiny_embedder(), []
    trainable = embedder.trainable()
    folder = {"output_dir": str(tmp_path), "save_every": save_every} if save_every else {}
    validation = scored([1.0, 3.0, 2.0, 3.0, 9.0], embeddings)
    history = fit(embedder, small(steps=6, **EACH_STEP, **folder), validation=validation, early_stopping=2)
    assert [row["eval_score"] for row in history] == [1.0, 3.0, 2.0, 3.0]
    assert torch.allclose(embedder.encode_text(CAPTIONS), embeddings[1], atol=1e-6)
    assert not torch.allclose(embeddings[1], embeddings[3], atol=1e-4)
    assert embedder.trainable() == trainable
    if save_every:  # the best, and the last
        kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
        assert kept == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize(
    ("scores", "best", "trainer"),
    [
        ([5.0, 1.0, 2.0], 0, {}),
        ([5.0, float("nan"), 7.0], 2, {}),
        ([5.0, 1.0, 2.0], 1, {"metric_for_best_model": "score", "greater_is_better": False}),
        ([5.0, 1.0, 2.0], 0, {"metric_for_best_model": "other"}),  # the first of equal ones
    ],
    ids=str,
)
def test_a_large_patience_trains_all_steps_and_keeps_the_best(scores, best, trainer):
    embedder, embeddings = tiny_embedder(), []
    validation = scored(scores, embeddings)
    history = fit(embedder, small(**EACH_STEP, trainer=trainer), validation=validation, early_stopping=9)
    assert len(history) == 3
    assert torch.allclose(embedder.encode_text(CAPTIONS), embeddings[best], atol=1e-6)


def test_without_early_stopping_the_last_adapter_remains():
    embedder, embeddings = tiny_embedder(), []
    fit(embedder, small(**EACH_STEP), validation=scored([9.0, 1.0, 0.0], embeddings))
    assert torch.equal(embedder.encode_text(CAPTIONS), embeddings[2])


def test_a_resumed_run_counts_the_validations_before_it_and_is_then_complete(tmp_path, capsys):
    scores = [1.0, 5.0, 4.0, 3.0, 2.0, 9.0]

    def run(folder, **options):
        embedder = tiny_embedder()
        settings = small(
            steps=6, **EACH_STEP, save_every=1, output_dir=str(tmp_path / folder), resume="skip" in options
        )
        validation = scored(scores[options.pop("skip", 0) :])
        history = fit(embedder, settings, validation=validation, early_stopping=3, **options)
        return [row["eval_score"] for row in history], embedder.encode_text(CAPTIONS)

    expected, embeddings = run("uninterrupted")
    assert expected == scores[:5]
    run("interrupted", deadline=stop_after(3))
    for skip in (3, 6):  # the second time, nothing is left to do
        (tmp_path / "interrupted").rename(tmp_path / "moved")
        again, resumed = run("moved", skip=skip)
        assert again == expected and torch.allclose(resumed, embeddings, atol=1e-5)
        (tmp_path / "moved").rename(tmp_path / "interrupted")
    assert "checkpoint-5 is where this run stopped early" in capsys.readouterr().out


def test_a_metric_named_loss_is_best_when_low():
    embedder, embeddings, losses = tiny_embedder(), [], iter([3.0, 1.0, 2.0])
    fit(
        embedder,
        small(**EACH_STEP),
        validation=lambda e: embeddings.append(e.encode_text(CAPTIONS)) or {"twin_loss": next(losses)},
        early_stopping=9,
    )
    assert torch.allclose(embedder.encode_text(CAPTIONS), embeddings[1], atol=1e-6)


@pytest.mark.parametrize(
    ("early_stopping", "validation", "message"),
    [(0, [], "early_stopping=0: pass a number"), (True, [], "=True: pass"), (2, None, "=2 needs validation=")],
)
def test_an_unusable_patience_is_refused_before_training(early_stopping, validation, message):
    with pytest.raises(ValueError, match=message):
        fit(tiny_embedder(), small(), validation=validation, early_stopping=early_stopping)


def test_a_validation_without_metrics_is_named():
    with pytest.raises(ValueError, match="validation returned no metric"):
        fit(tiny_embedder(), small(validate_every=1), validation=lambda embedder: {}, early_stopping=1)


def test_several_processes_need_a_folder_to_share_the_best(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="early_stopping=2 on several processes needs"):
        check_early_stopping(2, tiny_pairs(3), small())
    check_early_stopping(2, tiny_pairs(3), small(output_dir="runs/shared"))


BEST_METRIC = {"metric_for_best_model": "score", "greater_is_better": True}


def test_early_stopping_by_transformers_callback():
    scores = iter([1.0, 3.0, 2.0, 2.5, 9.0, 9.5])
    history = fit(
        tiny_embedder(),
        small(steps=6, validate_every=1, trainer=BEST_METRIC),
        validation=lambda embedder: {"score": next(scores)},
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    assert [row["eval_score"] for row in history] == [1.0, 3.0, 2.0, 2.5]


def test_the_best_checkpoint_can_be_loaded_at_the_end(tmp_path):
    embedder, embeddings = tiny_embedder(), []

    def validate(trained):
        embeddings.append(trained.encode_text(CAPTIONS))
        return {"score": -abs(len(embeddings) - 2.0)}  # the second validation is the best

    settings = {"steps": 4, "validate_every": 1, "save_every": 1, "learning_rate": 1e-2, "output_dir": str(tmp_path)}
    fit(embedder, small(**settings, trainer={**BEST_METRIC, "load_best_model_at_end": True}), validation=validate)
    assert torch.allclose(embedder.encode_text(CAPTIONS), embeddings[1], atol=1e-6)
    assert not torch.allclose(embeddings[1], embeddings[3], atol=1e-4)


def test_resuming_a_finished_run_loads_the_best_checkpoint_if_fit_did(tmp_path):
    def run(**options):
        embedder, scores = tiny_embedder(), iter([1.0, 2.0, 0.0, 0.0])
        settings = {"steps": 4, "validate_every": 1, "save_every": 1, "learning_rate": 1e-2, **options}
        trainer = {**BEST_METRIC, "load_best_model_at_end": True}
        validate = lambda embedder: {"score": next(scores)}  # noqa: E731
        fit(embedder, small(output_dir=str(tmp_path), **settings, trainer=trainer), validation=validate)
        return embedder.encode_text(CAPTIONS)

    assert torch.equal(run(), run(resume=True))

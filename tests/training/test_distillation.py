"""Distilling the base's likelihoods: the teacher's scores, how they reach the step, whole runs, bad input."""

import dataclasses
import math
import tarfile
from contextlib import nullcontext
from itertools import product

import pytest
import torch
from tiny import gradients, largest_difference, tiny_embedder, tiny_pairs

import vladva_kit as vk
from vladva_kit.data.hard_batches import HardBatches, Mining, caption_keys
from vladva_kit.data.pairs import Pair
from vladva_kit.data.store import Store
from vladva_kit.embedder.adapter import adapter_state
from vladva_kit.embedder.likelihood import likelihood
from vladva_kit.training import distillation
from vladva_kit.training.collator import Collator, SampledCaptions, planned_batches
from vladva_kit.training.distillation import BatchScores, candidates_of, score_candidates
from vladva_kit.training.grad_cache import cached_step
from vladva_kit.training.trainer import step_losses

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**changes):
    return vk.Settings(**{"steps": 3, "batch_size": 8, "warmup": 1, "distill_weight": 1.0, **changes})


def fit(embedder, settings, pairs=None, **options):
    return vk.fit(embedder, pairs or tiny_pairs(20), settings, progress=False, **options)


@pytest.fixture
def scored(monkeypatch):
    """Collect the number of scores of each call of the teacher."""
    calls = []

    def recorded(embedder, images, captions, **options):
        assert not embedder.adapted
        calls.append(len(captions))
        return likelihood(embedder, images, captions, **options)

    monkeypatch.setattr(distillation, "likelihood", recorded)
    return calls


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


@pytest.fixture(scope="module")
def teacher(embedder):
    return score_candidates(embedder, candidates_of([tiny_pairs(9)]), 0.2)


@pytest.fixture(scope="module")
def batch(embedder, teacher):
    return Collator(embedder, teacher=teacher)(tiny_pairs(9))["batch"]


def short_pairs(n, groups=()):
    """Return pairs with different captions; `groups` maps an index to its group."""
    words = product(("dog", "cat"), ("near", "on"), ("red", "blue", "small"), ("car", "tree"))
    return [
        Pair(pair.image, f"a {first} {relation} the {color} {second}", group=dict(groups).get(number))
        for number, (pair, (first, relation, color, second)) in enumerate(zip(tiny_pairs(n), words, strict=False))
    ]


def test_candidates_are_the_own_caption_two_to_either_side_and_the_group():
    pairs = short_pairs(9, {0: "twins", 8: "twins"})
    found = list(candidates_of([pairs]).values())
    for place, expected in ((4, (4, 2, 3, 5, 6)), (0, (0, 1, 2, 8)), (8, (8, 6, 7, 0))):
        captions = [caption for image, caption in found if image is pairs[place].image]
        assert captions == [pairs[index].short for index in expected]


def test_pairs_without_a_short_caption_are_no_candidates():
    pairs = short_pairs(3)
    pairs[1] = Pair(pairs[1].image, long="a red dog stands left of a small cat")
    assert [caption for _, caption in candidates_of([pairs]).values()] == [pairs[i].short for i in (0, 2, 2, 0)]


def test_scores_are_the_likelihoods_of_the_base(embedder, teacher):
    pairs, base = tiny_pairs(9), vk.Embedder(tiny_embedder().lvlm)
    for place, caption in ((0, 0), (0, 2), (3, 1), (8, 6)):
        expected = float(likelihood(base, [pairs[place].image], [pairs[caption].short], progress=False))
        keys, scores = teacher.by_image[int(distillation.image_keys([pairs[place]]))]
        assert float(scores[keys == caption_keys([pairs[caption].short])]) == pytest.approx(expected, abs=1e-4)


def test_dense_scores_leave_unknown_captions_out_and_count_a_shared_caption_once():
    scores = BatchScores(torch.tensor([0, 0, 1, 1]), torch.tensor([7, 9, 7, 8]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    dense = scores.dense(2, torch.tensor([9, 7, 5, 7]))
    assert dense.nan_to_num(-1).tolist() == [[2, 1, -1, -1], [-1, 3, -1, -1]]
    assert scores.dense(2, torch.empty(0, dtype=torch.long)).shape == (2, 0)


def kl_by_loop(embedder, pairs, base, temperature=0.2):
    """Compute the loss one image and one candidate at a time; candidates are two captions to either side."""
    pairs = [pair for pair in pairs if pair.short]
    images, texts = embedder.encode_image([p.image for p in pairs]), embedder.encode_text([p.short for p in pairs])
    total, n = 0.0, 0
    for place in range(len(pairs)):
        near = range(max(0, place - 2), min(len(pairs), place + 3))
        near = {" ".join(pairs[other].short.split()): other for other in near}  # a caption counts once
        if len(near) < 2:
            continue
        asked = [likelihood(base, [pairs[place].image], [caption], progress=False) / temperature for caption in near]
        cosines = [float(images[place] @ texts[other]) for other in near.values()]
        p, q = (torch.tensor(asked).softmax(0).tolist(), (torch.tensor(cosines) / 0.05).softmax(0).tolist())
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        n += 1
    return total / n


def test_the_step_equals_a_loop_over_images_and_candidates(embedder, batch):
    pairs = tiny_pairs(9)
    with torch.no_grad():
        metrics = step_losses(embedder, batch, distill_weight=0.5)
    expected = kl_by_loop(embedder, pairs, vk.Embedder(tiny_embedder().lvlm))
    assert float(metrics["distill"]) == pytest.approx(expected, rel=1e-3)
    parts = metrics["contrastive"] + metrics["next_token"] + 0.5 * metrics["distill"]
    assert float(metrics["loss"]) == pytest.approx(float(parts), rel=1e-6)


@pytest.mark.parametrize("rows", [1, 4])
def test_cached_gradients_equal_the_plain_steps(embedder, batch, rows):
    def losses(*arguments):
        return step_losses(*arguments, distill_weight=2.0)

    plain = losses(embedder, batch)
    plain["loss"].backward()
    expected = gradients(embedder)
    metrics, _ = cached_step(losses, embedder, batch, rows=rows)
    values, plain_values = ({name: float(value.detach()) for name, value in one.items()} for one in (metrics, plain))
    assert values == pytest.approx(plain_values, rel=1e-5)
    assert largest_difference(gradients(embedder), expected) < 1e-5


def test_the_term_alone_raises_agreement_with_the_teacher(batch):
    embedder = tiny_embedder()
    dense = batch.teacher.dense(len(batch.keys), batch.keys[:, 0])
    several = (~dense.isnan()).sum(1) >= 2

    def agreement():
        with torch.no_grad():
            encoded = vk.training.encode.encode_batch(embedder, batch)
        cosines = (encoded.images[batch.paired] @ encoded.texts.T).masked_fill(dense.isnan(), -2)
        best = dense.nan_to_num(-math.inf).argmax(1)
        return float((cosines.argmax(1) == best)[several].float().mean())

    optimizer = torch.optim.AdamW([w for w in embedder.lvlm.model.parameters() if w.requires_grad], lr=3e-3)
    before, losses = agreement(), []
    for _ in range(40):
        loss = step_losses(embedder, batch, distill_weight=1.0)["distill"]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0] and agreement() > max(0.9, before)


def test_the_history_has_the_losses_and_every_batch_its_candidates(monkeypatch):
    known, dense = [], BatchScores.dense
    monkeypatch.setattr(BatchScores, "dense", lambda *a: known.append(dense(*a)) or known[-1])
    history = fit(tiny_embedder(), small(steps=5), short_pairs(20))  # into a third epoch
    assert list(history[0])[:6] == ["step", "seconds", "loss", "contrastive", "next_token", "distill"]
    assert all(row["distill"] > 0 for row in history)
    assert len(known) == 5 and all(int((~one.isnan()).sum(1).min()) >= 3 for one in known)


def test_sampled_captions_of_every_epoch_are_scored(monkeypatch):
    pairs = [dataclasses.replace(pair, captions=(pair.short, f"{pair.short} again")) for pair in short_pairs(10)]
    sampled = SampledCaptions(pairs, 0)
    batches = list(planned_batches(sampled, HardBatches(10, {"groups": 0, "mined": 0, "random": 5}), 6))
    assert sampled.epoch == 0 and len({pair.short for batch in batches for pair in batch}) > 10
    known, dense = [], BatchScores.dense
    monkeypatch.setattr(BatchScores, "dense", lambda *a: known.append(dense(*a)) or known[-1])
    fit(tiny_embedder(), small(steps=6, batch_size=5), pairs)
    assert all(int((~one.isnan()).sum(1).min()) >= 3 for one in known)


def test_weight_0_changes_nothing_bit_for_bit(scored):
    runs = []
    for changes in ({}, {"distill_temperature": 1.0, "distill_cache": "not/written"}):
        embedder = tiny_embedder()
        history = fit(embedder, small(distill_weight=0.0, **changes))
        runs.append(
            ([{k: v for k, v in row.items() if k != "seconds"} for row in history], adapter_state(embedder.lvlm))
        )
    assert runs[0][0] == runs[1][0] and "distill" not in runs[0][0][0] and not scored
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])


def test_micro_batches_do_not_change_a_run():
    plain, cached = (fit(tiny_embedder(), small(micro_batch_size=rows)) for rows in (None, 3))
    for name in ("loss", "distill", "contrastive"):
        assert [row[name] for row in cached] == pytest.approx([row[name] for row in plain], rel=1e-4)


def test_a_second_run_reads_the_scores_and_another_seed_adds_its_own(scored, tmp_path):
    settings = small(distill_cache=str(tmp_path))
    first = fit(tiny_embedder(), settings)
    n = sum(scored)
    scored.clear()
    again = fit(tiny_embedder(), settings)
    assert n > 24 and not scored and [r["loss"] for r in again] == [r["loss"] for r in first]
    other = fit(tiny_embedder(), dataclasses.replace(settings, seed=1))
    assert 0 < sum(scored) < n
    alone = fit(tiny_embedder(), small(seed=1))
    assert [r["loss"] for r in other] == pytest.approx([r["loss"] for r in alone], rel=1e-5)


def test_an_interrupted_teacher_resumes_after_its_last_shard(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "IMAGES_PER_SHARD", 2)
    embedder, candidates = tiny_embedder(), candidates_of([short_pairs(8)])
    expected = score_candidates(embedder, candidates, 0.2)
    scored.clear()
    write, calls = Store.write, iter(range(9))

    def interrupted(*arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Store, "write", interrupted)
        score_candidates(embedder, candidates, 0.2, tmp_path)
    assert len(scored) == 3
    scored.clear()
    resumed = score_candidates(embedder, candidates, 0.2, tmp_path)
    assert len(scored) == 2
    for image, (keys, scores) in expected.by_image.items():
        assert torch.equal(resumed.by_image[image][0], keys)
        assert torch.allclose(resumed.by_image[image][1], scores, atol=1e-5)


def test_a_resumed_run_reads_the_scores_and_ends_like_an_uninterrupted_one(scored, tmp_path):
    def run(folder, stop=None, **options):
        calls, embedder = iter(range(9)), tiny_embedder()
        settings = small(steps=4, save_every=2, output_dir=str(tmp_path / folder), **options)
        history = fit(embedder, settings, deadline=(lambda: next(calls) + 1 >= stop) if stop else None)
        return [row["distill"] for row in history], embedder.encode_text(["a dog"])

    expected, vector = run("whole")
    run("halted", stop=3)
    scored.clear()
    resumed, resumed_vector = run("halted", resume=True)
    assert not scored and resumed == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(resumed_vector, vector, atol=1e-5)


def test_scores_of_another_model_are_refused(tmp_path):
    candidates = candidates_of([short_pairs(3)])
    score_candidates(tiny_embedder(), candidates, 0.2, tmp_path)
    other = tiny_embedder()
    other.lvlm.model.model.multi_modal_projector.linear_1.bias.data += 1
    with pytest.raises(ValueError, match=r"teacher\.weights: [0-9a-f]{12} in the folder"):
        score_candidates(other, candidates, 0.2, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill_weight": -1.0}, r"Settings\(distill_weight=-1.0\): pass a finite number of at least 0"),
        ({"distill_temperature": 0}, r"distill_temperature=0\): pass a number above 0"),
        ({"group_by_length": True}, "leave group_by_length out"),
        ({"mining": Mining(refresh_every=2)}, "leave mining.refresh_every out"),
    ],
    ids=str,
)
def test_unusable_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**changes)
    assert len(str(error.value).splitlines()) == 1


def test_a_stream_is_refused(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w"):
        pass
    with pytest.raises(ValueError, match="distill_weight needs all pairs in advance: leave it out for a stream"):
        fit(tiny_embedder(), small(), vk.stream_pairs(tmp_path))


def test_batches_without_candidates_are_refused():
    pairs = [Pair(pair.image, long="a red dog stands left of a small cat") for pair in tiny_pairs(8)]
    with pytest.raises(ValueError, match="distill_weight has no candidates to rank"):
        fit(tiny_embedder(), small(), pairs)


def test_a_model_whose_captions_cannot_be_scored_is_refused(monkeypatch):
    embedder = tiny_embedder()
    candidates = candidates_of([short_pairs(3)])
    monkeypatch.setattr(embedder.lvlm.processor, "chat_template", "{{ bos_token }}<image>")
    monkeypatch.setattr(type(embedder), "base", lambda self: nullcontext())  # whose prompts need the template too
    with pytest.raises(ValueError, match="the caption's tokens cannot be located for tiny") as error:
        score_candidates(embedder, candidates, 0.2)
    assert len(str(error.value).splitlines()) == 1

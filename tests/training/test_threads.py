"""Threads that share one LVLM get the results they would get alone, or an error that names the other."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import CAPTIONS, fit, small, tiny_embedder, tiny_pairs
from transformers import TrainerCallback

import vladva_kit as vk
from vladva_kit.embedder.adapter import adapter_state
from vladva_kit.models.turns import ModelLock
from vladva_kit.widgets import CachedEmbedder

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = [pair.image for pair in tiny_pairs(3)]


def in_threads(*functions, rounds=6):
    """Run each function several times in its own thread; return their results, one list per function."""
    with ThreadPoolExecutor(len(functions)) as pool:
        started = [pool.submit(lambda one: [one() for _ in range(rounds)], function) for function in functions]
        return [one.result(timeout=300) for one in started]


@pytest.fixture(scope="module")
def embedder():
    return tiny_embedder()


def test_base_and_adapted_embedder_on_one_lvlm_agree_with_themselves_in_several_threads(embedder):
    baseline = vk.Embedder(embedder.lvlm)

    def switched():
        with embedder.base():
            return embedder.encode_text(CAPTIONS)

    calls = [
        lambda: embedder.encode_text(CAPTIONS),
        lambda: baseline.encode_text(CAPTIONS),
        lambda: embedder.encode_image(IMAGES),
        lambda: baseline.encode_image(IMAGES),
        switched,
    ]
    alone = [call() for call in calls]
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)
    for expected, results in zip(alone, in_threads(*calls), strict=True):
        # a new thread may split a matrix product differently, which changes the last bits
        assert all(torch.allclose(result, expected, atol=1e-5) for result in results)


def test_a_cache_never_holds_the_base_s_vectors_under_the_adapter_s_key(embedder):
    expected = embedder.encode_text(CAPTIONS)

    def switched():
        with embedder.base():
            return embedder.encode_text(["a cat"])

    def cached():
        return torch.as_tensor(CachedEmbedder(embedder).encode_text(CAPTIONS))

    results, _ = in_threads(cached, switched)
    assert all(torch.allclose(result, expected, atol=1e-6) for result in results)


def test_fit_beside_threads_that_use_the_base_trains_as_it_does_alone():
    expected_embedder, embedder = tiny_embedder(), tiny_embedder()
    settings = small(steps=6, micro_batch_size=3)
    expected = fit(expected_embedder, settings)
    baseline, answers, done = vk.Embedder(embedder.lvlm), [], threading.Event()
    alone = baseline.encode_text(CAPTIONS), baseline.generate(IMAGES[0], "what is it?", max_new_tokens=4)

    def chat():
        while not done.is_set():
            with embedder.base():
                answers.append(("chat", embedder.generate(IMAGES[0], "what is it?", max_new_tokens=4)))

    def retrieve():
        while not done.is_set():
            answers.append(("vectors", baseline.encode_text(CAPTIONS)))

    threads = [threading.Thread(target=one, daemon=True) for one in (chat, retrieve)]
    for thread in threads:
        thread.start()
    try:
        history = fit(embedder, settings)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert [row["loss"] for row in history] == [row["loss"] for row in expected]
    state, expected_state = adapter_state(embedder.lvlm), adapter_state(expected_embedder.lvlm)
    assert all(torch.equal(state[name], expected_state[name]) for name in state)
    kinds = [kind for kind, _ in answers]
    assert min(kinds.count("chat"), kinds.count("vectors")) >= 3  # they had turns between the steps
    assert all(value == alone[1] if kind == "chat" else torch.equal(value, alone[0]) for kind, value in answers)


def test_a_second_fit_on_the_same_lvlm_is_refused_by_name():
    embedder, refused = tiny_embedder(), []

    class Second(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            def start():
                with pytest.raises(ValueError, match="tiny is being trained in another thread") as error:
                    fit(embedder, small())
                refused.append(error)

            thread = threading.Thread(target=start)
            with embedder.lvlm.lock.released():
                thread.start()
                thread.join(60)

    assert len(fit(embedder, small(steps=2), callbacks=[Second()])) == 2 and len(refused) == 2


def test_the_lock_is_given_in_the_order_of_requests_and_may_be_taken_again():
    lock, order, ready = ModelLock(), [], [threading.Event() for _ in range(3)]

    def take(number):
        ready[number].set()
        with lock, lock:
            order.append(number)

    with lock, lock:
        threads = []
        for number in range(3):
            threads.append(threading.Thread(target=take, args=(number,)))
            threads[-1].start()
            ready[number].wait(10)
            while len(lock._waiting) <= number:
                pass
        with lock.released():
            pass
        assert order  # whoever waited had its turn first
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2]


def test_an_lvlm_can_be_copied_and_the_copy_has_its_own_lock(embedder):
    other = copy.deepcopy(embedder.lvlm)
    assert other.lock is not embedder.lvlm.lock and other.lock is other.lock

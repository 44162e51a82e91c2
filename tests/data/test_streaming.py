"""Streams yield every pair once, split pairs among processes, resume at the next pair and need little memory."""

import io
import json
import tarfile
import tracemalloc
from itertools import islice

import datasets
import pytest
from PIL import Image
from tiny import tiny_embedder

import vladva_kit as vk
from vladva_kit.data.streaming import load_stream_state, parse_row, save_stream_state, stream_pairs
from vladva_kit.models.images import BadInput

FILES, EACH = 4, 12


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def captions(number: int) -> dict[str, str]:
    return {"short": f"a {number} dog", "long": "a red dog stands left of a small cat " * (4 + number * 7 % 5)}


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    for shard in range(FILES):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for number in range(shard * EACH, (shard + 1) * EACH):
                for suffix, content in (("png", png(number)), ("json", json.dumps(captions(number)).encode())):
                    member = tarfile.TarInfo(f"{number:06}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture(scope="module")
def parquets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquets")
    for shard in range(FILES):
        numbers = range(shard * EACH, (shard + 1) * EACH)
        rows = {"image": [{"bytes": png(n), "path": None} for n in numbers]}
        rows |= {key: [captions(n)[key] for n in numbers] for key in ("short", "long")}
        features = datasets.Features(
            {"image": datasets.Image(), "short": datasets.Value("string"), "long": datasets.Value("string")}
        )
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"{shard:05}.parquet")
    return folder


def shorts(batches) -> list[list[str]]:
    return [[pair.short for pair in item["batch"]] for item in batches]


def a_stream(source, **changes):
    stream = stream_pairs(source, window=8, seed=3, workers=changes.pop("workers", 0))
    stream.batch_size = 4
    for name, value in changes.items():
        setattr(stream, name, value)
    return stream


@pytest.mark.parametrize("kind", ["tars", "parquets"])
def test_an_epoch_yields_every_pair_once_and_the_next_in_another_order(kind, request):
    n = FILES * EACH // 4
    seen = shorts(islice(a_stream(request.getfixturevalue(kind)).loader(), 2 * n))
    wanted = sorted(captions(number)["short"] for number in range(FILES * EACH))
    first, second = sum(seen[:n], []), sum(seen[n:], [])
    assert sorted(first) == sorted(second) == wanted
    assert first != second and first != wanted


@pytest.mark.parametrize("window", [7, 3])
def test_no_pair_is_lost_if_the_window_is_not_a_multiple_of_the_batch(tars, window):
    seen = shorts(islice(a_stream(tars, window=window).loader(), FILES * EACH // 4))
    assert sorted(sum(seen, [])) == sorted(captions(number)["short"] for number in range(FILES * EACH))


def test_images_are_decoded_and_keep_their_captions(tars):
    for item in islice(a_stream(tars).loader(), 4):
        for pair in item["batch"]:
            number = int(pair.short.split()[1])
            assert pair.long == captions(number)["long"].strip()
            assert pair.image.getpixel((0, 0))[0] == number


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_and_workers_share_all_pairs_without_overlap(tars, monkeypatch, workers):
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        batches = shorts(islice(a_stream(tars, workers=workers).loader(), FILES * EACH // 8))
        seen += sum(batches, [])
    assert sorted(seen) == sorted(captions(number)["short"] for number in range(FILES * EACH))


@pytest.mark.parametrize(("kind", "workers"), [("tars", 0), ("parquets", 0), ("tars", 2)])
def test_a_stream_resumes_at_the_next_pair(kind, workers, request, tmp_path):
    source = request.getfixturevalue(kind)
    uninterrupted = shorts(islice(a_stream(source, workers=workers).loader(), 20))  # into the second epoch
    for stop in (1, 5, 13) if workers == 0 else (5,):
        states = {}
        for item in islice(a_stream(source, workers=workers).loader(), stop):
            worker, state = json.loads(item["stream_state"])
            states[worker] = json.dumps(state)
        save_stream_state(tmp_path, states, stop)
        states, batches_done = load_stream_state(tmp_path)
        resumed = a_stream(source, workers=workers, stream_state=states, batches_done=batches_done)
        assert shorts(islice(resumed.loader(), 20 - stop)) == uninterrupted[stop:]


def test_processes_that_decode_change_neither_batches_nor_states(tars):
    def items(decoders):
        seen = islice(a_stream(tars).loader(decoders), 15)  # into the second epoch
        return [([(pair.short, pair.image.tobytes()) for pair in item["batch"]], item["stream_state"]) for item in seen]

    assert items(0) == items(1) == items(2)


def test_captions_of_similar_length_share_a_batch(tars):
    def spread(**changes):
        batches = islice(a_stream(tars, window=48, **changes).loader(), 12)
        lengths = [[len(pair.long) for pair in item["batch"]] for item in batches]
        return sum(max(of_batch) - min(of_batch) for of_batch in lengths)

    assert spread() < spread(group_by_length=False) / 2


def test_memory_does_not_grow_with_the_number_of_pairs():
    content = png(1)

    def generate(shards, n):
        for shard in shards:
            for at in range(n):
                yield {"image": content, "short": f"a dog {shard} {at}", "long": "a red dog " * 20}

    def peak(n):
        rows = datasets.IterableDataset.from_generator(generate, gen_kwargs={"shards": [0, 1], "n": n})
        stream = stream_pairs(rows, window=128)
        stream.batch_size = 32
        tracemalloc.start()
        assert sum(len(item["batch"]) for item in islice(stream.loader(), 2 * n // 32)) == n * 2
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak_bytes

    peak(256)  # the first run also counts modules imported on first use
    assert peak(1600) < peak(256) * 1.2


def test_a_bad_sample_stops_the_stream_or_is_named_and_skipped(tmp_path):
    rows = [{"image": png(n), "short": f"a {n} dog"} for n in range(9)]
    rows[3]["image"], rows[5]["short"] = b"not an image", "  "
    source = datasets.Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(BadInput, match="empty caption"):
        list(islice(a_stream(source).loader(), 2))
    stream = a_stream(source, on_error="skip")
    with pytest.warns(UserWarning, match="skipped: epoch 0"):
        seen = sum(shorts(islice(stream.loader(), 2)), [])
    assert len(seen) == 7 and not {"a 3 dog", "a 5 dog"} & set(seen)


def test_a_source_without_shards_or_a_row_without_image_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no tar or parquet"):
        stream_pairs(tmp_path)
    with pytest.raises(BadInput, match="no image"):
        parse_row({"short": "a dog"}, "here")


def test_fit_on_a_stream_resumes_from_its_checkpoint(tars, tmp_path):
    def run(out, deadline, **changes):
        settings = vk.Settings(steps=4, batch_size=4, warmup=1, save_every=2, output_dir=str(out), **changes)
        return vk.fit(tiny_embedder(), stream_pairs(tars, window=8), settings, progress=False, deadline=deadline)

    uninterrupted = run(tmp_path / "uninterrupted", deadline=None)
    stop = iter([False, False, True])
    run(tmp_path / "stopped", deadline=lambda: next(stop))
    resumed = run(tmp_path / "stopped", deadline=None, resume=True)
    assert [row["loss"] for row in resumed] == pytest.approx([row["loss"] for row in uninterrupted], rel=1e-4)


def test_workers_of_the_settings_change_no_step_of_a_stream_and_may_differ_after_a_resume(tars, tmp_path):
    def run(workers, steps=3, **changes):
        settings = vk.Settings(steps=3, batch_size=4, warmup=1, save_every=1, workers=workers, **changes)
        deadline = iter([False] * (steps - 1) + [True])
        pairs = stream_pairs(tars, window=8)
        return [row["loss"] for row in vk.fit(tiny_embedder(), pairs, settings, progress=False,
                                              deadline=lambda: next(deadline))]  # fmt: skip

    expected = run(0)
    assert run(2, steps=2, output_dir=str(tmp_path)) == expected[:2]
    assert run(1, steps=1, output_dir=str(tmp_path), resume=True) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"Settings\(workers=2\) and stream_pairs\(workers=1\): use one"):
        vk.fit(tiny_embedder(), stream_pairs(tars, workers=1), vk.Settings(workers=2), progress=False)


def test_shards_may_mix_formats_and_upper_case(tmp_path):
    """`datasets` takes the columns of the first samples for all, so the others would have no image."""
    for shard, suffix in enumerate(("png", "JPG", "webp")):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for number in range(shard * 4, shard * 4 + 4):
                buffer = io.BytesIO()
                format = "JPEG" if suffix == "JPG" else suffix
                Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, format)
                for name, content in ((f"{number}.{suffix}", buffer.getvalue()), (f"{number}.txt", b"dog %d" % number)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    stream = stream_pairs(tmp_path)
    stream.batch_size = 12
    assert sorted(pair.short for pair in next(iter(stream))["batch"]) == sorted(f"dog {n}" for n in range(12))


def test_a_sample_with_damaged_json_is_named_and_can_be_skipped(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(3):
            text = b"{" if number == 1 else json.dumps(captions(number)).encode()
            for name, content in ((f"{number}.png", png(number)), (f"{number}.json", text)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    stream = stream_pairs(tmp_path)
    stream.batch_size = 2
    with pytest.raises(BadInput, match="sample 1, its JSON: not JSON"):
        next(iter(stream))
    stream.on_error = "skip"
    with pytest.warns(UserWarning, match="skipped: epoch 0, sample 1"):
        assert len(next(iter(stream))["batch"]) == 2


def test_each_epoch_takes_one_of_several_captions_and_resumes_with_the_same():
    rows = [{"image": png(n), "captions": [f"{letter} {n}" for letter in "abcd"], "long": "x"} for n in range(8)]
    source = datasets.Dataset.from_list(rows).to_iterable_dataset()
    epochs = shorts(islice(a_stream(source).loader(), 12))
    choices = [dict(reversed(short.split()) for short in sum(epochs[at : at + 2], [])) for at in range(0, 12, 2)]
    assert all(len({choice[str(n)] for choice in choices}) > 1 for n in range(8))
    items = list(islice(a_stream(source).loader(), 3))
    resumed = a_stream(source, stream_state={0: json.dumps(json.loads(items[-1]["stream_state"])[1])}, batches_done=3)
    assert shorts(islice(resumed.loader(), 3)) == epochs[3:6]

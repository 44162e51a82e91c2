"""Streams: every pair once, each process its own, resumed at the very next pair, in little memory."""

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
from vladva_kit.data.streaming import pair_of_row, stream_pairs
from vladva_kit.models.images import BadInput

FILES, EACH = 4, 12


def png(number: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 90)).save(held, "PNG")
    return held.getvalue()


def captions(number: int) -> dict[str, str]:
    return {"short": f"a {number} dog", "long": "a red dog stands left of a small cat " * (4 + number * 7 % 5)}


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    for shard in range(FILES):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for number in range(shard * EACH, (shard + 1) * EACH):
                for ending, content in (("png", png(number)), ("json", json.dumps(captions(number)).encode())):
                    member = tarfile.TarInfo(f"{number:06}.{ending}")
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
def test_an_epoch_brings_every_pair_once_and_the_next_one_in_another_order(kind, request):
    n = FILES * EACH // 4
    seen = shorts(islice(a_stream(request.getfixturevalue(kind)).loader(), 2 * n))
    wanted = sorted(captions(number)["short"] for number in range(FILES * EACH))
    first, second = sum(seen[:n], []), sum(seen[n:], [])
    assert sorted(first) == sorted(second) == wanted
    assert first != second and first != wanted


@pytest.mark.parametrize("window", [7, 3])
def test_a_window_that_batches_do_not_fill_loses_no_pair(tars, window):
    seen = shorts(islice(a_stream(tars, window=window).loader(), FILES * EACH // 4))
    assert sorted(sum(seen, [])) == sorted(captions(number)["short"] for number in range(FILES * EACH))


def test_pictures_come_decoded_with_the_right_captions(tars):
    for item in islice(a_stream(tars).loader(), 4):
        for pair in item["batch"]:
            number = int(pair.short.split()[1])
            assert pair.long == captions(number)["long"].strip()
            assert pair.image.getpixel((0, 0))[0] == number


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_and_their_workers_have_their_own_pairs_and_together_all(tars, monkeypatch, workers):
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        batches = shorts(islice(a_stream(tars, workers=workers).loader(), FILES * EACH // 8))
        seen += sum(batches, [])
    assert sorted(seen) == sorted(captions(number)["short"] for number in range(FILES * EACH))


@pytest.mark.parametrize(("kind", "workers"), [("tars", 0), ("parquets", 0), ("tars", 2)])
def test_a_stream_goes_on_at_the_very_next_pair(kind, workers, request):
    source = request.getfixturevalue(kind)
    whole = shorts(islice(a_stream(source, workers=workers).loader(), 20))  # into the second epoch
    for stop in (1, 5, 13) if workers == 0 else (5,):
        places = {}
        for item in islice(a_stream(source, workers=workers).loader(), stop):
            worker, place = json.loads(item["place"])
            places[worker] = json.dumps(place)
        rest = a_stream(source, workers=workers, places=places, begun=stop)
        assert shorts(islice(rest.loader(), 20 - stop)) == whole[stop:]


def test_captions_of_like_length_come_together(tars):
    def spread(**changes):
        found = islice(a_stream(tars, window=48, **changes).loader(), 12)
        sizes = [[len(pair.long) for pair in item["batch"]] for item in found]
        return sum(max(lengths) - min(lengths) for lengths in sizes)

    assert spread() < spread(group_by_length=False) / 2


def test_memory_does_not_grow_with_the_number_of_pairs():
    picture = png(1)

    def generate(shards, n):
        for shard in shards:
            for at in range(n):
                yield {"image": picture, "short": f"a dog {shard} {at}", "long": "a red dog " * 20}

    def peak(n):
        rows = datasets.IterableDataset.from_generator(generate, gen_kwargs={"shards": [0, 1], "n": n})
        stream = stream_pairs(rows, window=128)
        stream.batch_size = 32
        tracemalloc.start()
        assert sum(len(item["batch"]) for item in islice(stream.loader(), 2 * n // 32)) == n * 2
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(1600) < peak(256) * 1.2


def test_a_bad_sample_stops_the_stream_or_is_named_and_left_out(tmp_path):
    rows = [{"image": png(n), "short": f"a {n} dog"} for n in range(9)]
    rows[3]["image"], rows[5]["short"] = b"no picture", "  "
    source = datasets.Dataset.from_list(rows).to_iterable_dataset()
    with pytest.raises(BadInput, match="empty caption"):
        list(islice(a_stream(source).loader(), 2))
    stream = a_stream(source, on_error="skip")
    with pytest.warns(UserWarning, match="left out"):
        seen = sum(shorts(islice(stream.loader(), 2)), [])
    assert len(seen) == 7 and not {"a 3 dog", "a 5 dog"} & set(seen)


def test_a_source_without_shards_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no tar and no parquet"):
        stream_pairs(tmp_path)
    with pytest.raises(BadInput, match="no picture"):
        pair_of_row({"short": "a dog"}, "here")


def test_fit_on_a_stream_resumes_where_it_stopped(tars, tmp_path):
    def run(out, **changes):
        settings = vk.Settings(steps=4, batch_size=4, warmup=1, save_every=2, output_dir=str(out), **changes)
        return vk.fit(tiny_embedder(), stream_pairs(tars, window=8), settings, progress=False, **deadline)

    deadline = {}
    whole = run(tmp_path / "whole")
    told = iter([False, False, True])
    deadline = {"deadline": lambda: next(told)}
    run(tmp_path / "halted")
    deadline = {}
    resumed = run(tmp_path / "halted", resume=True)
    assert [row["loss"] for row in resumed] == pytest.approx([row["loss"] for row in whole], rel=1e-4)

import numpy as np
import pytest
import torch
from PIL import Image

import vladva_kit as vk
from vladva_kit.evaluation import cache, evaluate_retrieval
from vladva_kit.evaluation.encoding import encode_once
from vladva_kit.evaluation.identity import describe, fingerprint


def pictures(n):
    return [Image.new("RGB", (2, 2), (number, 0, 0)) for number in range(n)]


@pytest.fixture
def named(guessing):
    guessing.fingerprint = "weights of today"
    return guessing


def test_what_was_encoded_once_is_read_from_disk(tmp_path, named):
    texts = [f"text {number}" for number in range(5)]
    first = encode_once(named, pictures(7), texts, batch_size=3, cache=tmp_path)
    assert (len(named.images), len(named.texts)) == (7, 5)
    again = encode_once(named, pictures(8), [*texts, "new"], batch_size=3, cache=tmp_path)
    assert (len(named.images), len(named.texts)) == (8, 6)
    assert (again.images[:7] == first.images).all() and (again.texts[:5] == first.texts).all()
    assert again.images.dtype == np.float32


def test_embeddings_of_other_weights_are_never_taken(tmp_path, named):
    encode_once(named, pictures(3), ["a"], 64, tmp_path)
    named.fingerprint = "weights of tomorrow"
    encode_once(named, pictures(3), ["a"], 64, tmp_path)
    assert (len(named.images), len(named.texts)) == (6, 2)


def test_a_killed_run_goes_on_where_its_last_whole_file_ends(tmp_path, named, monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 4)
    encode = named.encode_image

    def killed(images):
        if len(named.images) >= 6:
            raise KeyboardInterrupt
        return encode(images)

    named.encode_image = killed
    with pytest.raises(KeyboardInterrupt):
        encode_once(named, pictures(12), ["a"], 2, tmp_path)
    named.encode_image = encode
    assert len(named.images) == 6
    whole = encode_once(named, pictures(12), ["a"], 2, tmp_path)
    assert len(named.images) == 6 + 12 - 4  # one file of four was whole
    assert (whole.images == encode_once(named, pictures(12), ["a"], 64).images).all()


def test_figures_are_the_same_with_and_without_the_cache(tmp_path, named):
    pairs = [vk.Pair(image, captions=(f"a {n}", f"b {n}")) for n, image in enumerate(pictures(9))]
    without = evaluate_retrieval(named, pairs)
    assert evaluate_retrieval(named, pairs, cache=tmp_path) == without
    assert evaluate_retrieval(named, pairs, cache=tmp_path) == without


def test_a_file_that_is_no_cache_is_named(tmp_path, named):
    encode_once(named, pictures(3), ["a"], 64, tmp_path)
    (path,) = tmp_path.glob("*/image/*.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=f"{path.name} is no cache file .*delete it, and it is made again"):
        encode_once(named, pictures(3), ["a"], 64, tmp_path)


def test_an_encoder_whose_weights_cannot_be_told_from_others_is_not_cached(tmp_path, guessing):
    with pytest.raises(TypeError, match="FakeEmbedder has no weights .*give it a text attribute 'fingerprint'"):
        encode_once(guessing, pictures(1), ["a"], 64, tmp_path)


def test_the_fingerprint_changes_with_adapter_and_prompts_and_comes_back_with_the_base(lvlm):
    baseline = vk.Embedder(lvlm)
    of_base = fingerprint(baseline)
    assert fingerprint(vk.Embedder(lvlm, "say what this is:")) != of_base
    embedder = vk.attach(lvlm)
    of_attached = fingerprint(embedder)
    assert of_attached != of_base == fingerprint(baseline)
    with embedder.base():
        assert fingerprint(embedder) == of_base and describe(embedder)["adapter"] is None
    with torch.no_grad():
        next(p for name, p in lvlm.model.named_parameters() if "lora_B" in name).add_(1e-3)
    assert fingerprint(embedder) not in (of_attached, of_base)
    told = describe(embedder)
    assert told["name"] == "emoji-llava" and told["dtype"] == "float32" and len(told["adapter"]) == 64


def test_the_fingerprint_of_a_clip_changes_with_its_weights():
    clip = vk.ClipEmbedder("emoji-clip")
    before = fingerprint(clip)
    assert before == fingerprint(vk.ClipEmbedder("emoji-clip"))
    with torch.no_grad():
        clip.model.logit_scale.add_(1)
    assert fingerprint(clip) != before

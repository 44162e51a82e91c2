"""Embeddings kept on disk by content and by the fingerprint of the model that made them, so that none is made twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vladva_kit.models.files import atomic_write

SHARD = 512  # embeddings a file: what a kill may cost at most


class EmbeddingCache:
    """A folder of safetensors files, a folder of its own for each model and kind.

        cache = EmbeddingCache("embeddings", fingerprint(embedder))
        cache.add("image", [digest], vectors); cache.flush("image")
        cache.load("image")[digest]                     # (dim,) float32

    A file is written whole or not at all: a run that was killed leaves only whole ones.
    """

    def __init__(self, folder: str | Path, model: str) -> None:
        self.folder = Path(folder) / model[:32]
        self._waiting: dict[str, list[tuple[str, np.ndarray]]] = {}

    def load(self, kind: str) -> dict[str, np.ndarray]:
        """All embeddings of a kind, by the SHA-256 of their content; {} where none were kept.

        Raises ValueError naming the file that is no whole cache file.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        rows: dict[str, np.ndarray] = {}
        for path in sorted((self.folder / kind).glob("*.safetensors")):
            try:
                kept = load_file(path)
                digests, vectors = kept["digests"], kept["embeddings"]
            except (SafetensorError, KeyError) as error:
                raise ValueError(f"{path} is no cache file ({error}); delete it, and it is made again") from error
            rows.update(zip((digest.tobytes().hex() for digest in digests), vectors, strict=True))
        return rows

    def add(self, kind: str, digests: Sequence[str], vectors: np.ndarray) -> None:
        """Keep embeddings (n, dim) float32; written `SHARD` at a time."""
        waiting = self._waiting.setdefault(kind, [])
        waiting += zip(digests, vectors, strict=True)
        if len(waiting) >= SHARD:
            self.flush(kind)

    def flush(self, kind: str) -> None:
        """Write what waits."""
        from safetensors.numpy import save

        waiting = self._waiting.pop(kind, [])
        if not waiting:
            return
        digests = np.stack([np.frombuffer(bytes.fromhex(digest), dtype=np.uint8) for digest, _ in waiting])
        name = hashlib.sha256(digests.tobytes()).hexdigest()[:16]  # two runs at once never write one name differently
        raw = save({"digests": digests, "embeddings": np.stack([vector for _, vector in waiting])})
        atomic_write({self.folder / kind / f"{name}.safetensors": raw})

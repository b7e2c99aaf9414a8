"""A second encoder for tests."""

from dataclasses import replace

import numpy as np


class Turned:
    """Another encoder: the same meanings along other axes, so that mixing it with the first gives nonsense."""

    def __init__(self, encoder):
        self._encoder = encoder
        self.dimension = encoder.dimension
        self.fingerprint = f"turned {encoder.fingerprint}"

    def encode(self, texts, *, hidden=False):
        found = self._encoder.encode(texts, hidden=hidden)
        return [replace(e, embedding=np.ascontiguousarray(np.roll(e.embedding, 7))) for e in found]

    def embed(self, texts):
        return np.roll(self._encoder.embed(texts), 7, axis=1)

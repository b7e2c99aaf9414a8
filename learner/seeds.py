"""The operator's examples: what the routes' utterances and descriptions say before anybody voted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from router.centroids import unit_rows
from router.fleet import Fleet
from router.version import Array


class Embedder(Protocol):
    """What the learner needs of an encoder: a fingerprint and unit embeddings (n, D) of texts."""

    @property
    def fingerprint(self) -> str:
        """Names the encoder and its precision; versions of different fingerprints are never mixed."""

    @property
    def dimension(self) -> int:
        """D, the length of an embedding."""

    def embed(self, texts: Sequence[str]) -> Array:
        """Embeddings (n, D), unit rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """Examples ``X`` (S, D), the position of each one's route ``route`` (S,), and route means ``means`` (R, D).

    A route without any example has a zero mean and is never guessed from examples.
    """

    X: Array
    route: npt.NDArray[np.int64]
    means: Array


def embed_seeds(fleet: Fleet, *, encoder: Embedder) -> Seeds:
    """Embed the utterances of every route; a route without any speaks by its description."""
    texts: list[str] = []
    routes: list[int] = []
    for position, route in enumerate(fleet.routes):
        own = list(route.utterances) or [route.description] * bool(route.description)
        texts += own
        routes += [position] * len(own)
    if not texts:
        return Seeds(
            X=np.zeros((0, encoder.dimension), np.float32),
            route=np.zeros(0, np.int64),
            means=np.zeros((len(fleet.routes), encoder.dimension), np.float32),
        )
    X = unit_rows(encoder.embed(texts))[0]
    return Seeds(X=X, route=np.array(routes), means=_means(X, np.array(routes), count=len(fleet.routes)))


def _means(X: Array, routes: npt.NDArray[np.int64], *, count: int) -> Array:
    sums = np.zeros((count, X.shape[1]), np.float32)
    np.add.at(sums, routes, X)
    return unit_rows(sums)[0]


def seed_posterior(seeds: Seeds, X: Array, *, sharpness: float) -> Array:
    """p_seed(d|x) = softmax over routes of sharpness x cosine to the mean of the route's examples, (n, R)."""
    present = np.abs(seeds.means).sum(axis=1) > 0
    if not present.any():
        return np.full((len(X), len(seeds.means)), 1 / len(seeds.means), np.float32)
    logits = np.where(present, sharpness * (X @ seeds.means.T), -np.float32(sharpness))
    logits -= logits.max(axis=1, keepdims=True)
    P = np.exp(logits)
    return np.asarray(P / P.sum(axis=1, keepdims=True), dtype=np.float32)

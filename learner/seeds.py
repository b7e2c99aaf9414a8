"""The operator's examples: what the routes' utterances and descriptions say before anybody voted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from router.centroids import unit_rows
from router.fleet import Fleet, Route
from router.version import Array

# Questions of unrelated topics have about this cosine to the mean of some examples with most sentence encoders.
_UNLIKE = np.float32(0.15)
# Two embeddings of one text, made in different batches and stored, have at least this cosine.
SAME = 1 - 1e-5


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

    A route without any example has a zero mean and is never guessed from examples. ``otherwise`` is the position of a
    fallback that says nothing of its own: what is unlike all other routes is guessed to be its.
    """

    X: Array
    route: npt.NDArray[np.int64]
    means: Array
    otherwise: int | None = None


def spoken(fleet: Fleet) -> list[tuple[str, str]]:
    """Route and text of every example; a route without any speaks by its description, the fallback by neither.

    What a fallback is for ("anything else") lies near nothing that users ask.
    """

    def own(route: Route) -> tuple[str, ...]:
        described = route.description and route.name != fleet.fallback
        return route.utterances or ((route.description,) if described else ())

    return [(route.name, text) for route in fleet.routes for text in own(route)]


def embed_seeds(fleet: Fleet, *, encoder: Embedder) -> Seeds:
    """Embed what every route speaks by."""
    said = spoken(fleet)
    routes = np.array([fleet.names.index(name) for name, _ in said], dtype=np.int64)
    fallback = fleet.names.index(fleet.fallback)
    otherwise = None if fleet.routes[fallback].utterances else fallback
    if not said:
        return Seeds(
            X=np.zeros((0, encoder.dimension), np.float32),
            route=routes,
            means=np.zeros((len(fleet.routes), encoder.dimension), np.float32),
            otherwise=otherwise,
        )
    X = unit_rows(encoder.embed([text for _, text in said]))[0]
    means = _means(X, routes, count=len(fleet.routes))
    return Seeds(X=X, route=routes, means=means, otherwise=otherwise)


def _means(X: Array, routes: npt.NDArray[np.int64], *, count: int) -> Array:
    sums = np.zeros((count, X.shape[1]), np.float32)
    np.add.at(sums, routes, X)
    return unit_rows(sums)[0]


def seed_posterior(seeds: Seeds, X: Array, *, sharpness: float) -> Array:
    """p_seed(d|x) = softmax over routes of sharpness x cosine to the mean of the route's examples, (n, R).

    A fallback without examples is taken to be as near as ``_UNLIKE`` to every question.
    """
    present = np.abs(seeds.means).sum(axis=1) > 0
    if not present.any():
        return np.full((len(X), len(seeds.means)), 1 / len(seeds.means), np.float32)
    logits = np.where(present, sharpness * (X @ seeds.means.T), -np.float32(sharpness))
    if seeds.otherwise is not None:
        logits[:, seeds.otherwise] = sharpness * _UNLIKE
    logits -= logits.max(axis=1, keepdims=True)
    P = np.exp(logits)
    return np.asarray(P / P.sum(axis=1, keepdims=True), dtype=np.float32)

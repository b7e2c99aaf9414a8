"""Versions and queries that the tests of the router are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from router.decide import Router, decide
from router.decision import Decision
from router.fleet import Fleet, Route
from router.version import Centroids, RouterParameters, RouterVersion


@dataclass(frozen=True)
class Encoded:
    """Stands for an encoding whose embedding is known; a splitter is not asked."""

    embedding: npt.NDArray[np.float32]
    hidden: npt.NDArray[np.float32] | None = None
    offsets: npt.NDArray[np.int32] | None = None


def unit(rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
    rows = np.asarray(rows, dtype=np.float64)
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)


def build_version(
    *,
    M: int = 40,
    R: int = 5,
    D: int = 16,
    seed: int = 0,
    names: Sequence[str] | None = None,
    routes: dict[int, dict[str, Any]] | None = None,
    values: bool = False,
    sharpness: float = 0.3,
    **parameters: Any,
) -> RouterVersion:
    """A version of random centroids; ``routes`` overrides fields of single routes."""
    rng = np.random.default_rng(seed)
    names = tuple(names or (f"route-{i}" for i in range(R)))
    fleet = Fleet(
        fallback=names[0],
        routes=tuple(
            Route(**{"name": name, "utterances": ("hello",), **(routes or {}).get(i, {})})
            for i, name in enumerate(names)
        ),
    )
    defaults: dict[str, Any] = {
        "success": tuple(rng.uniform(0.6, 0.95, R)),
        "cost": tuple((float(c), float(2 * c), float(4 * c)) for c in rng.uniform(1e-5, 1e-4, R)),
        "latency_ms": tuple((float(t), float(t), float(t)) for t in rng.uniform(100, 2000, R)),
        "abstain_below": -0.5,
    }
    owners = rng.dirichlet(np.full(R, sharpness), size=M)
    centroids = Centroids(
        vectors=unit(rng.normal(size=(M, D))),
        owners=np.asarray(owners / owners.sum(axis=1, keepdims=True), dtype=np.float32),
        mass=np.asarray(rng.integers(1, 50, M), dtype=np.float32),
        values=np.asarray(rng.uniform(0.1, 0.9, (M, R)), dtype=np.float32) if values else None,
    )
    return RouterVersion(
        fleet=fleet,
        parameters=RouterParameters(routes=names, **{**defaults, **parameters}),
        centroids=centroids,
        splitter={},
        encoder="test-encoder",
        number=7,
        fingerprint="f" * 64,
        training={"seed": str(seed)},
    )


def decide_plainly(router: Router, x: npt.ArrayLike, *, query: str = "a question of mine", **rest: Any) -> Decision:
    rest = {"rng": np.random.default_rng(0), "inference_id": UUID(int=1), **rest}
    return decide(router, query, Encoded(np.asarray(x, dtype=np.float32)), encode=_never, **rest)


def _never(texts: Sequence[str]) -> list[Any]:
    raise AssertionError("nothing was to be embedded")

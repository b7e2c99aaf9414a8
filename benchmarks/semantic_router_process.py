"""Runs semantic-router for ``benchmarks.semantic_router_peer``, in whatever Python has it; imports nothing of Trimtab.

Each line of standard input names a file (.npz) with ``liked`` (n, D), ``route`` (n,) and ``asked`` (m, D); the chosen
routes are written beside it (.npy) and the name of that file is answered.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from semantic_router import IndexedRouter, Route
from semantic_router.encoders import DenseEncoder


class _Known(DenseEncoder):  # type: ignore[misc]
    """Utterances and questions are names of rows whose embeddings are known; nothing is fetched."""

    vectors: Mapping[str, Any]

    def __call__(self, docs: list[Any]) -> list[list[float]]:
        return [self.vectors[doc] for doc in docs]


def choose(liked: Any, route: Any, asked: Any) -> Any:
    """Routes (m,) of the questions when each liked one is an utterance of its route.

    As it comes, but for the better of its aggregations: a route's best hit (max) instead of their mean.
    """
    vectors = {f"liked {i}": x for i, x in enumerate(liked.tolist())}
    vectors |= {f"asked {i}": x for i, x in enumerate(asked.tolist())}
    routes = [
        Route(name=str(r), utterances=[f"liked {i}" for i in np.flatnonzero(route == r)]) for r in np.unique(route)
    ]
    router = IndexedRouter(encoder=_Known(name="known", vectors=vectors), routes=routes, aggregation="max")
    return np.array([int(router(f"asked {i}").name) for i in range(len(asked))], dtype=np.int64)


def main() -> None:
    """Answer until standard input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        name = line.strip()
        with np.load(name) as given:
            chosen = choose(given["liked"], given["route"], given["asked"])
        np.save(name + ".npy", chosen)
        print(name + ".npy", flush=True)


if __name__ == "__main__":
    main()

"""Whether the right set of routes is called: the splitter inside real decisions of a router that has learned."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import numpy as np

from benchmarks.splitter_data import Query
from learner.first_version import build_first_version
from router.decide import Router, decide
from router.encoder import Encoder
from router.fleet import Fleet, Route
from router.version import Array, RouterVersion

_BETA = 40.0


def routed_version(train: Sequence[Query], *, encoder: Encoder, seed: int) -> RouterVersion:
    """A version whose routes are the domains and whose centroids are all segments of the training queries."""
    utterances: dict[str, set[str]] = {}
    for query in train:
        for domain, part in zip(query.domains, query.parts, strict=True):
            utterances.setdefault(domain, set()).add(part)
    routes = tuple(Route(name=name, utterances=tuple(sorted(utterances[name]))) for name in sorted(utterances))
    version = build_first_version(Fleet(fallback=routes[0].name, routes=routes), encoder=encoder, seed=seed)
    return replace(version, parameters=replace(version.parameters, beta=_BETA))


def routing_metrics(
    version: RouterVersion, arrays: Mapping[str, Array], queries: Sequence[Query], *, encoder: Encoder
) -> dict[str, float]:
    """Decide every query.

    Returns:
        ``routes_exact``: the share of queries whose set of routes is exactly right; ``unneeded_splits``: of those that
        need one route, the share that is answered in parts; ``missed_splits``: of those that need several, the share
        that is answered whole; ``decided_calls``: SLM calls per query.
    """
    router = Router(replace(version, splitter=arrays))
    right = unneeded = missed = one = calls = 0
    for query in queries:
        (encoding,) = encoder.encode([query.text], hidden=True)
        decision = decide(
            router,
            query.text,
            encoding,
            encode=encoder.encode,
            inference_id=UUID(int=0),
            rng=np.random.default_rng(0),
            explore=False,
        )
        called, needed = [segment.route for segment in decision.segments], set(query.domains)
        right, calls = right + (set(called) == needed), calls + len(called)
        one, unneeded = one + (len(needed) == 1), unneeded + (len(needed) == 1 and len(called) > 1)
        missed += len(needed) > 1 and len(called) == 1
    return {
        "routes_exact": right / len(queries),
        "unneeded_splits": unneeded / one if one else 0.0,
        "missed_splits": missed / (len(queries) - one) if one < len(queries) else 0.0,
        "decided_calls": calls / len(queries),
    }

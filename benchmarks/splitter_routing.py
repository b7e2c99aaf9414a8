"""Whether the right set of routes is called: the splitter inside real decisions of a router that has learned."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans

from benchmarks.splitter_data import Query
from learner.abstention import abstention_threshold
from learner.first_version import FleetEncoder, build_first_version
from learner.settings import LearnerSettings
from router.decide import Router, decide_by_itself
from router.encoder import Encoder
from router.fleet import Fleet, Route
from router.version import Array, Centroids, RouterVersion

T = TypeVar("T")
_EXAMPLES_A_CENTROID = 20
_TIMED = 300


def routed_version(train: Sequence[Query], *, encoder: FleetEncoder, seed: int) -> RouterVersion:
    """A version that has learned the training queries: domains are its routes, clusters of segments its centroids."""
    utterances: dict[str, set[str]] = {}
    for query in train:
        for domain, part in zip(query.domains, query.parts, strict=True):
            utterances.setdefault(domain, set()).add(part)
    routes = tuple(Route(name=name, utterances=tuple(sorted(utterances[name]))) for name in sorted(utterances))
    fleet = Fleet(fallback=routes[0].name, routes=routes)
    settings = LearnerSettings(splitter_examples=0)
    version = build_first_version(fleet, encoder=encoder, seed=seed, settings=settings)
    owner = version.centroids.owners.argmax(axis=1)
    X = version.centroids.vectors
    centroids = _clustered(X, owner, routes=len(routes), seed=seed)
    threshold = abstention_threshold(X, np.ones(len(X), np.float32), count=len(centroids.vectors))
    return replace(version, centroids=centroids, parameters=replace(version.parameters, abstain_below=threshold))


def _clustered(X: Array, owner: npt.NDArray[np.int64], *, routes: int, seed: int) -> Centroids:
    """One centroid for every twenty examples (n, D) of a route, owned by that route alone."""
    vectors, owners = [], []
    for route in range(routes):
        own = X[owner == route]
        clusters = KMeans(-(-len(own) // _EXAMPLES_A_CENTROID), n_init=1, max_iter=15, random_state=seed).fit(own)
        centers = clusters.cluster_centers_.astype(np.float32)
        vectors.append(centers / np.linalg.norm(centers, axis=1, keepdims=True))
        owners.append(np.tile(np.eye(routes, dtype=np.float32)[route], (len(centers), 1)))
    found = np.concatenate(vectors)
    return Centroids(vectors=found, owners=np.concatenate(owners), mass=np.ones(len(found), np.float32))


def called_routes(
    version: RouterVersion, arrays: Mapping[str, Array], queries: Sequence[Query], *, encoder: FleetEncoder
) -> list[list[str]]:
    """Decide every query: the route of each of its segments."""
    router = Router(replace(version, splitter=arrays))
    found = []
    for query in queries:
        (encoding,) = encoder.encode([query.text], hidden=True)
        decision = decide_by_itself(router, query.text, encoding, encode=encoder.encode)
        found.append([segment.route for segment in decision.segments])
    return found


def routing_metrics(called: Sequence[Sequence[str]], queries: Sequence[Query]) -> dict[str, float]:
    """What the routes that were called make of the queries.

    Returns:
        ``routes_exact``: the share of queries whose set of routes is exactly right; ``unneeded_splits``: of those that
        need one route, the share that is answered in parts; ``missed_splits``: of those that need several, the share
        that is answered whole; ``decided_calls``: SLM calls per query.
    """
    needed = [set(query.domains) for query in queries]
    one = [len(routes) for routes, need in zip(called, needed, strict=True) if len(need) == 1]
    several = [len(routes) for routes, need in zip(called, needed, strict=True) if len(need) > 1]
    return {
        "routes_exact": sum(set(routes) == need for routes, need in zip(called, needed, strict=True)) / len(queries),
        "unneeded_splits": sum(n > 1 for n in one) / len(one) if one else 0.0,
        "missed_splits": sum(n == 1 for n in several) / len(several) if several else 0.0,
        "decided_calls": sum(map(len, called)) / len(queries),
    }


def added_milliseconds(
    version: RouterVersion, arrays: Mapping[str, Array], queries: Sequence[Query], *, encoder: Encoder
) -> dict[str, float]:
    """What splitting adds where nothing is split, in milliseconds of this thread's processor time.

    Hidden states beside the embedding, the tagger, and whatever is weighed after it, for queries that ask for one thing
    and are left whole; several requests for one route are weighed in a second pass of the encoder, a matter of what is
    asked. Processor time, since what else the machine does is no matter of the splitter's.
    """
    with_it, without = Router(replace(version, splitter=arrays)), Router(replace(version, splitter={}))
    added, states = [], []
    for query in [query for query in queries if len(query.parts) == 1][:_TIMED]:
        # Each decision follows a pass of the encoder, as when serving: behind another one its data would be cached.
        (encoding,), hidden_ms = _timed(partial(encoder.encode, [query.text], hidden=True))
        decision, ms = _timed(partial(decide_by_itself, with_it, query.text, encoding, encode=encoder.encode))
        (plain,), plain_ms = _timed(partial(encoder.encode, [query.text]))
        _, before_ms = _timed(partial(decide_by_itself, without, query.text, plain, encode=encoder.encode))
        states.append(hidden_ms - plain_ms)
        if len(decision.segments) == 1:
            added.append(ms - before_ms)
    if not added:
        return {}
    extra = max(0.0, float(np.median(states)))
    return {"added_ms_p50": extra + float(np.median(added)), "added_ms_p95": extra + float(np.percentile(added, 95))}


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.thread_time()
    result = work()
    return result, (time.thread_time() - started) * 1e3

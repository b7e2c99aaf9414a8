"""What every policy keeps to."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decide import Router, decide_many
from router.version import RouterVersion
from tests.router.samples import build_version, decide_plainly, unit

POLICIES = ("rules", "centroid", "cost_aware")
EVERY_POLICY = pytest.mark.parametrize("policy", POLICIES)
seeds = st.integers(0, 10_000)


def queries(seed: int, *, n: int = 12, D: int = 16) -> np.ndarray:
    return unit(np.random.default_rng(seed + 1).normal(size=(n, D)))


def permuted(version: RouterVersion, order: np.ndarray) -> RouterVersion:
    p, c = version.parameters, version.centroids
    tables = {name: tuple(getattr(p, name)[i] for i in order) for name in ("routes", "success", "cost", "latency_ms")}
    values = None if c.values is None else c.values[:, order]
    return replace(
        version, parameters=replace(p, **tables), centroids=replace(c, owners=c.owners[:, order], values=values)
    )


@EVERY_POLICY
@settings(max_examples=40, deadline=None)
@given(seed=seeds, values=st.booleans(), R=st.integers(1, 6), kappa=st.floats(0, 5))
def test_probabilities_and_propensities_sum_to_one(policy, seed, values, R, kappa):
    router = Router(build_version(R=R, seed=seed, values=values, explore_kappa=kappa), policy=policy)
    choices = decide_many(router, queries(seed))
    np.testing.assert_allclose(choices.probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(choices.propensities.sum(axis=1), 1)
    assert (choices.propensities >= 0).all()
    if not values:  # where any route may please, the one that seems best is no more than that at first
        assert (choices.propensities[np.arange(12), choices.route] >= 0.5 - 1e-12).all()


@EVERY_POLICY
@settings(max_examples=30, deadline=None)
@given(seed=seeds, values=st.booleans())
def test_one_decision_agrees_with_many(policy, seed, values):
    router = Router(build_version(seed=seed, values=values, cost_weight=0.1), policy=policy)
    X, query = queries(seed), "x" * 100
    many = decide_many(router, X, texts=[query] * len(X))
    for row, x in enumerate(X):
        decision = decide_plainly(router, x, query=query, rng=np.random.default_rng(row))
        segment = decision.segments[0]
        column = router.position[segment.route]
        assert segment.explored == (column != many.route[row])
        assert segment.propensity == pytest.approx(many.propensities[row, column], abs=1e-6)
        assert segment.score == pytest.approx(many.probabilities[row, column], abs=1e-6)
        for candidate in segment.candidates:
            assert candidate.utility == pytest.approx(many.utilities[row, router.position[candidate.route]], abs=1e-6)


@EVERY_POLICY
def test_routes_are_chosen_as_often_as_their_propensities_say(policy):
    router = Router(build_version(explore_kappa=2.0, sharpness=3.0), policy=policy)
    x, rng, n = queries(3)[0], np.random.default_rng(5), 4000
    expected = decide_many(router, x).propensities[0]
    seen = Counter(decide_plainly(router, x, rng=rng).route for _ in range(n))
    for route, propensity in zip(router.routes, expected, strict=True):
        assert abs(seen[route] / n - propensity) < 4 * np.sqrt(0.25 / n)


@EVERY_POLICY
@settings(max_examples=40, deadline=None)
@given(seed=seeds, values=st.booleans(), shuffle=seeds)
def test_permuting_the_routes_permutes_the_decisions(policy, seed, values, shuffle):
    version = build_version(seed=seed, values=values, cost_weight=0.1)
    order = np.random.default_rng(shuffle).permutation(5)
    a, b = Router(version, policy=policy), Router(permuted(version, order), policy=policy)
    one, other = decide_many(a, queries(seed)), decide_many(b, queries(seed))
    np.testing.assert_allclose(one.propensities[:, order], other.propensities, atol=1e-9)
    assert [a.routes[i] for i in one.route] == [b.routes[i] for i in other.route]


@EVERY_POLICY
@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_renaming_the_routes_renames_the_decisions(policy, seed):
    names = ["zebra", "yak", "ox", "newt", "mole"]
    a, b = (Router(build_version(seed=seed, names=n), policy=policy) for n in (None, names))
    one, other = decide_many(a, queries(seed)), decide_many(b, queries(seed))
    np.testing.assert_array_equal(one.route, other.route)
    np.testing.assert_allclose(one.propensities, other.propensities)


@EVERY_POLICY
@settings(max_examples=40, deadline=None)
@given(seed=seeds, values=st.booleans())
def test_an_unrelated_route_changes_nothing(policy, seed, values):
    version = build_version(seed=seed, values=values)
    p, c = version.parameters, version.centroids
    column = np.zeros((len(c.owners), 1), dtype=np.float32)
    wider = build_version(R=6, names=[*p.routes, "unrelated"])
    wider = replace(
        wider,
        parameters=replace(
            p,
            routes=wider.parameters.routes,
            success=(*p.success, 0.5),
            cost=(*p.cost, p.cost[0]),
            latency_ms=(*p.latency_ms, (1.0,) * 3),
        ),
        centroids=replace(
            c,
            owners=np.hstack([c.owners, column]),
            values=None if c.values is None else np.hstack([c.values, column]),
        ),
    )
    one = decide_many(Router(version, policy=policy), queries(seed))
    other = decide_many(Router(wider, policy=policy), queries(seed))
    np.testing.assert_array_equal(one.route, other.route)
    np.testing.assert_allclose(one.propensities, other.propensities[:, :5], atol=1e-9)


@EVERY_POLICY
def test_ties_are_settled_by_name_whatever_the_order(policy):
    version = build_version(names=["c", "b", "a", "e", "d"], success=(0.8,) * 5, latency_ms=((1.0,) * 3,) * 5)
    even = replace(version.centroids, owners=np.full((40, 5), 0.2, dtype=np.float32))
    version = replace(version, centroids=even)
    expected = "c" if policy == "rules" else "a"
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(5)
        router = Router(permuted(version, order), policy=policy)
        assert decide_plainly(router, queries(1)[0], explore=False).route == expected


@EVERY_POLICY
@pytest.mark.parametrize("x", [np.zeros(16), np.full(16, np.nan), np.full(16, np.inf), np.eye(16)[0] * np.nan])
def test_a_vector_without_direction_goes_to_the_fallback(policy, x):
    router = Router(build_version(), policy=policy)
    segment = decide_plainly(router, x).segments[0]
    assert (segment.route, segment.cause, segment.propensity) == ("route-0", "abstained", 1.0)
    assert np.isfinite(segment.score)
    assert np.isfinite(segment.embedding).all()


@EVERY_POLICY
def test_the_length_of_a_vector_does_not_matter(policy):
    router = Router(build_version(), policy=policy)
    X = queries(4)
    np.testing.assert_allclose(decide_many(router, X).propensities, decide_many(router, 3 * X).propensities, atol=1e-4)


@EVERY_POLICY
def test_a_version_without_centroids_still_decides_by_its_rules(policy):
    from router.version import rules_only_version

    fleet = build_version(routes={2: {"keywords": ("refund",)}}).fleet
    router = Router(rules_only_version(fleet), policy=policy)
    assert decide_plainly(router, np.ones(384), query="a REFUND please").segments[0].cause == "keyword"
    assert decide_plainly(router, np.ones(384)).segments[0].cause == "abstained"

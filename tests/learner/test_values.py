"""What a fleet of models learns from opinions: how well each route pleases where."""

from dataclasses import replace

import numpy as np
import pytest

from learner.model_fleet import carried_values, find_places, first_values
from learner.settings import LearnerSettings
from learner.values import Opinions, fit_surface
from router.decide import Router, decide_many
from router.fleet import Fleet, Route
from router.version import Centroids, RouterParameters, RouterVersion

SETTINGS = LearnerSettings()
D = 16


def places(rng, count):
    """Questions of two kinds, far from one another: (count, D) and the kind of each."""
    kind = rng.integers(2, size=count)
    X = 0.15 * rng.normal(size=(count, D))
    X[np.arange(count), kind] += 1.0
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32), kind


def opinions(rng, count, chance, *, routes=3):
    """Thumbs on randomly chosen routes; ``chance`` (2, R) is how often each pleases each kind."""
    X, kind = places(rng, count)
    route = rng.integers(routes, size=count)
    pleased = (rng.random(count) < np.asarray(chance)[kind, route]).astype(np.float64)
    return Opinions(X=X, route=route, pleased=pleased, weight=np.ones(count), routes=routes)


def surface_of(heard):
    found = find_places(heard.X, heard.X[:0], routes=heard.routes, settings=SETTINGS, seed=0)
    return fit_surface(heard, found, settings=SETTINGS)


def test_several_routes_may_please_the_same_questions_and_each_is_known_by_place():
    rng = np.random.default_rng(0)
    chance = [[0.9, 0.9, 0.3], [0.2, 0.8, 0.8]]
    surface = surface_of(opinions(rng, 1500, chance))
    X, kind = places(rng, 400)
    pleases = surface.pleases(X)
    for k in (0, 1):
        assert pleases[kind == k].mean(axis=0) == pytest.approx(chance[k], abs=0.08)


def test_where_routes_differ_in_nothing_few_votes_make_them_differ_in_little():
    rng = np.random.default_rng(1)
    surface = surface_of(opinions(rng, 300, [[0.7] * 3, [0.7] * 3]))
    X, _ = places(rng, 200)
    assert np.ptp(surface.pleases(X), axis=1).mean() < 0.12


def test_a_route_that_was_never_tried_at_a_place_leans_on_its_mean_and_is_uncertain_there():
    rng = np.random.default_rng(2)
    heard = opinions(rng, 1200, [[0.9, 0.5, 0.2], [0.9, 0.5, 0.2]])
    kind = heard.X[:, 1] > 0.5
    tried = ~(kind & (heard.route == 0))
    heard = replace(
        heard, X=heard.X[tried], route=heard.route[tried], pleased=heard.pleased[tried], weight=heard.weight[tried]
    )
    surface = surface_of(heard)
    X, kinds = places(rng, 100)
    unknown = X[kinds == 1]
    assert surface.pleases(unknown)[:, 0].mean() > 0.75
    near_unknown = surface.places[-1][:, 1] > 0.5
    spread = surface.draws_at_places(count=300, seed=0)[:, near_unknown].std(axis=0).mean(axis=0)
    assert spread[0] > 1.2 * spread[1]


def test_the_order_of_opinions_changes_nothing():
    rng = np.random.default_rng(3)
    heard = opinions(rng, 200, [[0.9, 0.4, 0.4], [0.4, 0.9, 0.4]])
    found = find_places(heard.X, heard.X[:0], routes=3, settings=SETTINGS, seed=0)
    order = rng.permutation(200)
    other = replace(
        heard,
        X=heard.X[order],
        route=heard.route[order],
        pleased=heard.pleased[order],
        weight=heard.weight[order],
    )
    X, _ = places(rng, 20)
    ours, others = (fit_surface(h, found, settings=SETTINGS).pleases(X) for h in (heard, other))
    assert ours == pytest.approx(others, abs=1e-6)


def test_a_thumbs_up_never_lowers_the_value_of_what_it_praises():
    rng = np.random.default_rng(4)
    heard = opinions(rng, 200, [[0.6, 0.5, 0.4], [0.4, 0.5, 0.6]])
    found = find_places(heard.X, heard.X[:0], routes=3, settings=SETTINGS, seed=0)
    down = int(np.flatnonzero(heard.pleased == 0)[0])
    praised = replace(heard, pleased=np.where(np.arange(200) == down, 1.0, heard.pleased))
    x, route = heard.X[[down]], heard.route[down]
    before, after = (fit_surface(h, found, settings=SETTINGS).pleases(x)[0, route] for h in (heard, praised))
    assert after >= before


def models(*names, cost_weight=0.0, cost=None):
    """A first version of a fleet of models."""
    fleet = Fleet(fallback=names[0], routes=tuple(Route(name=name) for name in names), cost_weight=cost_weight)
    R = len(names)
    parameters = RouterParameters(
        routes=names,
        success=(0.8,) * R,
        cost=tuple((c,) * 3 for c in (cost or (0.0,) * R)),
        latency_ms=((0.0,) * 3,) * R,
        cost_weight=cost_weight,
    )
    nothing = np.zeros((0, R), np.float32)
    blank = Centroids(vectors=np.zeros((0, D), np.float32), owners=nothing, mass=np.zeros(0, np.float32))
    version = RouterVersion(fleet=fleet, parameters=parameters, centroids=blank, splitter={}, encoder="x")
    return first_values(version, dimension=D)


def test_before_any_vote_every_model_is_tried_and_none_abstained_from():
    X, _ = places(np.random.default_rng(5), 10)
    choices = decide_many(Router(models("a", "b", "c", "d", "e")), X)
    assert not choices.abstained.any()
    assert (choices.propensities > 0.05).all()


def test_a_model_that_is_too_dear_to_be_worth_it_is_not_even_tried():
    X, _ = places(np.random.default_rng(6), 10)
    version = models("cheap", "dear", cost_weight=1.0, cost=(0.0001, 1.0))
    choices = decide_many(Router(version), X)
    assert (choices.route == 0).all()
    assert (choices.propensities[:, 1] < 0.01).all()


def test_a_new_model_is_as_good_as_the_mean_and_the_others_keep_what_was_learned():
    old = models("a", "b").centroids
    old = replace(old, values=np.array([[0.9, 0.3]], np.float32))
    carried = carried_values(old, [1, -1, 0])
    assert carried.values.tolist()[0] == pytest.approx([0.3, 0.6, 0.9])
    assert carried.owners.sum() == pytest.approx(1.0)

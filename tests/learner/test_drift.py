"""What belonged to one route until a day and to another since then: on a log that is made up in memory."""

from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from learner.evidence import gather_evidence
from learner.first_version import build_first_version
from learner.follow_ups import find_follow_ups
from learner.learn import learn_centroids, prepare
from learner.owners import owners_by_day
from learner.seeds import spoken
from learner.trust_region import hold_back
from learner.window import Window
from router.decide import Router, decide_many
from router.fleet import Fleet, Route
from tests.learner.test_what_is_learned import END, SETTINGS, unit, votes_on

ROUTES, TOPICS, DAYS, CHANGE, EACH = 5, 30, 13, 8, 5
NAMES = tuple("abcde")
HOME = np.arange(TOPICS) % ROUTES
MOVED = np.arange(TOPICS) < 3
EVERY = np.ones(TOPICS, bool)


@dataclass(frozen=True)
class Log:
    """Questions X (n, D), their topics and days, and the right route of each when it was asked."""

    X: np.ndarray
    topic: np.ndarray
    day: np.ndarray
    right: np.ndarray

    fingerprint = "places"
    dimension = 24

    def embed(self, texts):
        return self.X[[int(text) for text in texts]]


def log(seed, *, moved=MOVED):
    rng = np.random.default_rng(seed)
    centre = unit(rng.normal(size=(TOPICS, 24)))
    n = TOPICS * EACH * DAYS
    topic, day = rng.integers(TOPICS, size=n), np.repeat(np.arange(DAYS), n // DAYS)
    away = moved[topic] & (day >= CHANGE)
    right = (HOME[topic] + away) % ROUTES
    return Log(X=unit(centre[topic] + 0.12 * rng.normal(size=(n, 24))), topic=topic, day=day, right=right)


def fleet(log, *, of):
    """Ten examples a route, of topics in the mask."""
    rows = [np.flatnonzero((HOME[log.topic] == r) & of[log.topic] & (log.day < CHANGE))[:10] for r in range(ROUTES)]
    utterances = [tuple(map(str, found)) for found in rows]
    return Fleet(
        fallback="a", routes=tuple(Route(name=n, utterances=u) for n, u in zip(NAMES, utterances, strict=True))
    )


def window(log, first, *, seed):
    """A quarter goes to a route drawn by lot, the rest where it belonged at first; six of ten are voted on."""
    rng, n = np.random.default_rng(seed), len(log.X)
    route = np.where(rng.random(n) < 0.25, rng.integers(ROUTES, size=n), HOME[log.topic])
    at = [END - timedelta(days=DAYS - int(d)) + timedelta(minutes=i / 10) for i, d in enumerate(log.day)]
    units = pd.DataFrame(
        {
            "inference_id": [f"i{i:06d}" for i in range(n)],
            "text": [str(i) for i in range(n)],
            "session_id": [f"s{i}" for i in range(n)],
            "end_user": [f"user {i % 200}" for i in range(n)],
            "route": [NAMES[r] for r in route],
            "occurred_at": at,
        }
    ).assign(segment_index=0, segment_count=1, cause="centroid", output_tokens=np.nan, duration_ms=np.nan, cost=np.nan)
    units = units.assign(query=units["text"], received_at=units["occurred_at"])
    rows = np.flatnonzero(rng.random(n) < 0.6).tolist()
    ups = [bool((route[i] == log.right[i]) != (rng.random() < 0.1)) for i in rows]
    votes = votes_on(units, rows, ups, by=[f"user {i % 200}" for i in rows])
    since = dict.fromkeys(spoken(first), units["occurred_at"].min())
    return Window(
        units=units, embeddings=log.X, votes=votes, start=END - timedelta(days=20), watermark=END, since=since
    )


def chosen(log, first, *, seed):
    version = replace(build_first_version(first, encoder=log, settings=SETTINGS), splitter={})
    material = prepare(window(log, first, seed=seed), version, encoder=log, settings=SETTINGS)
    learned = learn_centroids(material, version, settings=SETTINGS)
    return decide_many(Router(learned.version), log.X, explore=False).route


def test_what_changed_route_five_days_ago_has_mostly_left_the_old_one_and_nothing_else_has_moved():
    left, found = [], []
    for seed in (1, 2, 3, 4):
        made = log(seed)
        route, moved, old = chosen(made, fleet(made, of=EVERY), seed=seed), MOVED[made.topic], HOME[made.topic]
        left.append(np.mean(route[moved] != old[moved]))
        found.append(np.mean(route[moved] == ((old + 1) % ROUTES)[moved]))
        assert np.mean(route[~moved] == old[~moved]) > 0.99
    assert np.mean(left) > 0.5
    assert np.mean(found) > 0.3


def test_examples_from_before_the_change_keep_themselves():
    made = log(4)
    first = fleet(made, of=EVERY)
    examples = [int(text) for r in first.routes for text in r.utterances]
    np.testing.assert_array_equal(chosen(made, first, seed=4)[examples], np.repeat(np.arange(ROUTES), 10))


def test_without_a_change_nothing_is_lost():
    made = log(5, moved=np.zeros(TOPICS, bool))
    assert np.mean(chosen(made, fleet(made, of=EVERY), seed=5) == HOME[made.topic]) > 0.99


@pytest.mark.parametrize(
    ("owners", "goes"),
    [
        ((0.20, 0.65, 0.05, 0.05, 0.05), True),  # the new one is three times as probable
        ((0.08, 0.23, 0.23, 0.23, 0.23), True),  # surely not the old one, whoever it is
        ((0.26, 0.40, 0.12, 0.11, 0.11), False),
        ((0.30, 0.60, 0.04, 0.03, 0.03), False),
    ],
)
def test_an_owner_goes_for_a_surely_better_one_or_because_it_is_surely_wrong(owners, goes):
    made = log(6)
    first = fleet(made, of=EVERY)
    logged = window(made, first, seed=6)
    incumbent = replace(build_first_version(first, encoder=made, settings=SETTINGS), splitter={})
    sharp = np.eye(ROUTES, dtype=np.float32)[incumbent.centroids.owners.argmax(axis=1)]
    incumbent = replace(incumbent, centroids=replace(incumbent.centroids, owners=sharp))
    its = sharp[:, 0] == 1  # the route of topic 0 and others
    believed = np.where(its[:, None], np.array(owners, np.float32), sharp)
    candidate = replace(incumbent, centroids=replace(incumbent.centroids, owners=believed))
    follow_ups = find_follow_ups(logged, similarity=0.92, minutes=30)
    evidence = gather_evidence(logged, follow_ups, routes=incumbent.parameters.routes)
    free = replace(SETTINGS, most_churn=1.0, most_route_churn=1.0)
    held = hold_back(candidate, incumbent, logged, evidence, settings=free)
    assert (held.flips > 0) == goes
    assert (held.flips_refused > 0) != goes


def days(said, hazard, fresh):
    """Owners of one cluster over two routes by the day."""
    prior = np.array([[0.5, 0.5]])
    return owners_by_day(prior, np.array(said)[:, None], hazard=np.array(hazard)[:, None], fresh=np.array(fresh))


def test_where_the_coarse_cluster_changed_its_fine_ones_follow_on_less():
    said = [[4.0, 0.0]] * 3 + [[0.0, 1.0]] * 2
    alone = days(said, [0.001] * 5, 0.5)[0][-1, 0]
    told = days(said, [0.001, 0.001, 0.001, 0.5, 0.001], [[[0.5, 0.5]]] * 3 + [[[0.0, 1.0]]] + [[[0.5, 0.5]]])
    assert alone[0] > 0.9
    assert told[0][-1, 0, 1] > 0.5
    assert told[1][3, 0] == pytest.approx(told[1].sum(), abs=0.01)  # and it is known on which day

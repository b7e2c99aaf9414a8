"""Properties of what a night learns, most of them on logs that are made up in memory."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.comparison import choices_on_log
from learner.first_version import build_first_version
from learner.folds import learn_by_folds
from learner.learn import LearnedCentroids, learn_centroids, prepare
from learner.settings import LearnerSettings
from learner.window import Window, read_window
from router.decide import Router, decide_many
from router.fleet import Fleet, Route
from router.version import RouterVersion
from tests.learner.world import first_published, log_day

D, TOPICS, QUESTIONS = 24, 9, 240
END = datetime(2026, 5, 1, tzinfo=UTC)
SETTINGS = LearnerSettings(splitter_examples=0)
FAST = replace(SETTINGS, folds=2, draws=1, em_rounds=2)
NAMES = ("alpha", "beta", "gamma")
FEW = settings(max_examples=8, deadline=None, derandomize=True)


def unit(X):
    return (X / np.linalg.norm(X, axis=-1, keepdims=True)).astype(np.float16).astype(np.float32)


RNG = np.random.default_rng(5)
TOPIC = unit(RNG.normal(size=(TOPICS, D)))
TOPIC_OF = np.arange(QUESTIONS) % TOPICS
X = unit(TOPIC[TOPIC_OF] + 0.12 * RNG.normal(size=(QUESTIONS, D)))
X /= np.linalg.norm(X, axis=1, keepdims=True)
ALIEN = unit(RNG.normal(size=(3, D)))


@dataclass(frozen=True)
class Places:
    """An encoder of texts that are numbers of questions, or "alien 0" and so on."""

    fingerprint: str = "places"
    dimension: int = D

    def embed(self, texts):
        return np.stack([ALIEN[int(t.split()[1])] if t.startswith("alien") else X[int(t)] for t in texts])


def truth(row):
    """Topics 0, 3, 6 belong to the first route and so on; examples are only of topics 0, 1 and 2."""
    return int(TOPIC_OF[row]) % 3


def version(names=NAMES, *extra):
    examples = [tuple(str(row) for row in range(r, 6 * TOPICS, TOPICS)) for r in range(3)]
    routes = [Route(name=name, utterances=e) for name, e in zip(names, examples, strict=True)]
    fleet = Fleet(fallback=names[0], routes=(*routes, *extra))
    return replace(build_first_version(fleet, encoder=Places(), settings=SETTINGS), splitter={})


def asked(names=NAMES):
    """Units of the window: every question once, answered by a route drawn by lot, so that all is heard of."""
    rng = np.random.default_rng(6)
    routes = [names[truth(row)] if rng.random() < 0.5 else names[rng.integers(3)] for row in range(QUESTIONS)]
    units = pd.DataFrame(
        {
            "inference_id": [f"i{row:04d}" for row in range(QUESTIONS)],
            "text": [str(row) for row in range(QUESTIONS)],
            "session_id": [f"s{row}" for row in range(QUESTIONS)],
            "end_user": [f"user {row % 40}" for row in range(QUESTIONS)],
            "route": routes,
            "occurred_at": [END - timedelta(days=3) + timedelta(minutes=15 * row) for row in range(QUESTIONS)],
        }
    )
    return units.assign(
        segment_index=0,
        segment_count=1,
        query=units["text"],
        received_at=units["occurred_at"],
        cause="centroid",
        output_tokens=np.nan,
        duration_ms=np.nan,
        cost=np.nan,
    )


def judged(units, *, share=0.5, wrong=0.1):
    rng = np.random.default_rng(7)
    rows = [row for row in range(QUESTIONS) if rng.random() < share]
    ups = [(units["route"][row] == sorted(set(units["route"]))[truth(row)]) != (rng.random() < wrong) for row in rows]
    return votes_on(units, rows, ups, by=[f"user {row % 40}" for row in rows])


def votes_on(units, rows, ups, *, by):
    at = (units["occurred_at"].iloc[rows] + timedelta(seconds=5)).to_list()
    return pd.DataFrame(
        {
            "feedback_id": [f"f{row:04d} {user}" for row, user in zip(rows, by, strict=True)],
            "revision": 1,
            "inference_id": units["inference_id"].iloc[rows].to_numpy(),
            "segment_index": None,
            "value": ["up" if up else "down" for up in ups],
            "correction": None,
            "submitter": by,
            "annotator_kind": "HUMAN",
            "occurred_at": at,
            "received_at": at,
        }
    )


def window(votes=None, units=None):
    units = asked() if units is None else units
    votes = judged(units) if votes is None else votes
    return Window(units=units, embeddings=X, votes=votes, start=END - timedelta(days=9), watermark=END)


def learn(logged: Window, incumbent: RouterVersion) -> LearnedCentroids:
    material = prepare(logged, incumbent, encoder=Places(), settings=SETTINGS)
    return learn_centroids(material, incumbent, settings=SETTINGS)


def choices(learned):
    return decide_many(Router(learned.version), X, explore=False)


def assert_same(one, other):
    for name in ("vectors", "owners", "mass"):
        np.testing.assert_array_equal(getattr(one.version.centroids, name), getattr(other.version.centroids, name))
    assert one.version.parameters == other.version.parameters


@pytest.fixture(scope="module")
def plain():
    return learn(window(), version())


def test_the_made_up_log_teaches_what_the_examples_do_not_say(plain):
    right = np.array([truth(row) for row in range(QUESTIONS)])
    first = decide_many(Router(version()), X, explore=False).route
    assert np.mean(choices(plain).route == right) > np.mean(first == right) + 0.2


@FEW
@given(st.permutations(range(len(judged(asked())))))
def test_the_order_in_which_votes_came_changes_nothing(plain, order):
    votes = judged(asked())
    assert_same(learn(window(votes.iloc[list(order)].reset_index(drop=True)), version()), plain)


def test_other_names_for_the_routes_change_names_only(plain):
    names = ("one", "three", "two")  # in another order when sorted
    units = asked(names)
    votes = judged(asked())  # what users said does not depend on names
    other = learn(window(votes, units), version(names))
    np.testing.assert_array_equal(other.version.centroids.vectors, plain.version.centroids.vectors)
    np.testing.assert_array_equal(other.version.centroids.owners, plain.version.centroids.owners)
    assert other.estimates.success == plain.estimates.success


def test_an_unrelated_route_takes_no_question_and_changes_no_choice(plain):
    extra = Route(name="unrelated", utterances=("alien 0", "alien 1", "alien 2"))
    other = learn(window(), version(NAMES, extra))
    assert np.mean(choices(other).route == choices(plain).route) > 0.99
    assert not (choices(other).route == 3).any()
    np.testing.assert_allclose(other.estimates.success[:3], plain.estimates.success, atol=0.03)


@FEW
@given(st.integers(0, QUESTIONS - 1), st.integers(1, 3))
def test_praise_never_lowers_the_probability_of_what_it_praises(plain, row, times):
    units = asked()
    fans = [f"a new user {i}" for i in range(times)]
    votes = pd.concat([judged(units), votes_on(units, [row] * times, [True] * times, by=fans)], ignore_index=True)
    praised = learn(window(votes), version())
    route = NAMES.index(units["route"][row])
    before, after = (e.estimates.posteriors[row, route] for e in (plain, praised))
    assert after >= before - 1e-3
    before, after = (choices(e).probabilities[row, route] for e in (plain, praised))
    assert after >= before - 5e-3


def test_a_question_that_half_of_the_users_ask_does_not_take_half_of_the_centroids(plain):
    units = asked()
    often = pd.concat([units, *[units.iloc[[4]].assign(inference_id=f"again {i}") for i in range(QUESTIONS)]])
    often = often.assign(session_id=[f"s{i}" for i in range(len(often))]).reset_index(drop=True)
    logged = replace(window(judged(units), often), embeddings=np.concatenate([X, np.repeat(X[4:5], QUESTIONS, axis=0)]))
    learned = learn(logged, version())
    assert len(learned.version.centroids.vectors) == len(plain.version.centroids.vectors)


def test_what_a_version_had_learned_before_its_fleet_was_changed_judges_nobody():
    since = END - timedelta(days=2)
    incumbent = replace(version(), training={"learned_by": "1", "learned_until": since.isoformat()})
    folds = learn_by_folds(prepare(window(), incumbent, encoder=Places(), settings=FAST), incumbent, settings=FAST)
    np.testing.assert_array_equal(folds.of_unit >= 0, (asked()["received_at"] > since).to_numpy())


def test_a_text_that_was_not_kept_hides_the_keywords_of_no_other():
    base = version()
    ruled = replace(base.fleet.routes[2], keywords=("4",))
    incumbent = replace(base, fleet=replace(base.fleet, routes=(*base.fleet.routes[:2], ruled)))
    units = asked()
    whole = choices_on_log(incumbent, window(units=units))
    assert (whole.ruled[4], whole.route[4]) == (True, 2)
    units.loc[7, "text"] = None
    np.testing.assert_array_equal(choices_on_log(incumbent, window(units=units)).route, whole.route)


def test_events_that_are_delivered_twice_teach_what_they_teach_once(engine, encoder):
    first = first_published(engine, encoder)
    windows = []
    for _ in range(2):  # the same ids and the same bodies
        log_day(engine, encoder, first)
        with engine.connect() as conn:
            until = windows[0].watermark if windows else None
            windows.append(read_window(conn, encoder=encoder, days=9, until=until))
    learned = [
        learn_centroids(prepare(w, first, encoder=encoder, settings=SETTINGS), first, settings=SETTINGS)
        for w in windows
    ]
    assert_same(*learned)

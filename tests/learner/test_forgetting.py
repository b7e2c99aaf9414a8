"""After an erasure the next version is learned anew: it is what it would be had the person never been there."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text

from api.pruning import erase, prune
from learner.changed_fleet import apply_fleet
from learner.conditions import Condition, GateDecision
from learner.first_version import build_first_version
from learner.forgetting import forgiving, may_know_the_erased, starting_point
from learner.learn import learn_centroids, prepare
from learner.nightly import run_night
from learner.window import read_window
from router.registry import load
from telemetry.erasure import last_erasure
from telemetry.feedback import store_feedback
from telemetry.ids import keyed_hash
from telemetry.inferences import store_inferences
from tests.learner.world import QUICK, first_published, fleet, inference, log_day, thumb

KEY = b"a key of the test"
ANN = keyed_hash("ann", key=KEY)
NIGHT = replace(QUICK, splitter_examples=0)
ODD = [
    f"my {thing} needs a new licence number {i}" for i, thing in enumerate(("harp", "yacht", "falcon", "organ") * 15)
]


def ann_asks(engine, encoder):
    """Ann asks what nobody else asks, many times, and says where it belongs."""
    X = encoder.embed(ODD)
    at = datetime.now(UTC) - timedelta(hours=2)
    asked = [replace(inference(t, "billing", x, encoder, at=at), end_user=ANN) for t, x in zip(ODD, X, strict=True)]
    votes = [thumb(item.inference_id, "down", by=ANN, correction="repairs") for item in asked]
    with engine.begin() as conn:
        store_inferences(conn, asked)
        store_feedback(conn, votes)
    return X


def close_to(version, X):
    """How many centroids lie where Ann's questions do."""
    return int(((version.centroids.vectors @ X.T).max(axis=1) > 0.9).sum())


@pytest.mark.slow
def test_the_next_version_is_the_one_that_would_be_without_the_person(engine, encoder):
    first = first_published(engine, encoder)
    log_day(engine, encoder, first)
    X = ann_asks(engine, encoder)
    known = run_night(engine, encoder=encoder, settings=NIGHT, actor="a test")
    assert known.verdict == "published", known.report["missing"]
    with engine.connect() as conn:
        knows = load(conn, known.version)
    assert close_to(knows, X) > 0

    erase(engine, "ann", key=KEY, actor="a test")
    until = datetime.now(UTC)
    with engine.connect() as conn:
        without = read_window(conn, encoder=encoder, days=NIGHT.window_days, until=until)
    fresh = build_first_version(fleet(), encoder=encoder, settings=NIGHT)
    wanted = learn_centroids(prepare(without, fresh, encoder=encoder, settings=NIGHT), fresh, settings=NIGHT)
    result = run_night(engine, encoder=encoder, settings=NIGHT, actor="a test", until=until)
    with engine.connect() as conn:
        number = conn.execute(text("select max(candidate) from learner_run")).scalar_one()
        forgot = load(conn, number)
    assert number != known.version, result.report
    assert close_to(forgot, X) == 0
    np.testing.assert_array_equal(forgot.centroids.vectors, wanted.version.centroids.vectors)
    assert {name: a.tobytes() for name, a in forgot.splitter.items()} == {}
    names = {condition["name"] for condition in result.report["conditions"]}
    assert {"better", "enough_evidence"} & names == set()
    if result.verdict == "published":  # and from then on nights build upon it again
        assert not may_know_the_erased(forgot, erased_at=_erased(engine))


def _erased(engine):
    with engine.connect() as conn:
        return last_erasure(conn)


def test_what_a_version_may_know_follows_from_when_it_read(engine, encoder):
    first = build_first_version(fleet(), encoder=encoder, settings=NIGHT)
    erased_at = datetime.now(UTC)

    def read(at):
        return replace(first, training={"watermark": at.isoformat(), "parent": "1"})

    before, after = read(erased_at - timedelta(seconds=1)), read(erased_at + timedelta(seconds=1))
    assert not may_know_the_erased(before, erased_at=None)
    assert not may_know_the_erased(first, erased_at=erased_at)
    assert may_know_the_erased(before, erased_at=erased_at)
    assert not may_know_the_erased(after, erased_at=erased_at)
    assert may_know_the_erased(apply_fleet(before, fleet(), encoder=encoder), erased_at=erased_at)
    assert not may_know_the_erased(apply_fleet(after, fleet(), encoder=encoder), erased_at=erased_at)
    twice = apply_fleet(apply_fleet(before, fleet(), encoder=encoder), fleet(), encoder=encoder)
    assert may_know_the_erased(twice, erased_at=erased_at)
    assert starting_point(engine, before, encoder=encoder, settings=NIGHT) is before


def test_somebody_whose_rows_are_pruned_already_is_forgotten_by_the_next_night_if_that_is_said(engine, encoder):
    first = first_published(engine, encoder)
    log_day(engine, encoder, first)
    ann_asks(engine, encoder)
    knows = replace(first, training={"watermark": datetime.now(UTC).isoformat(), "parent": "1"})
    prune(engine, before=datetime.now(UTC), text_before=None)
    assert not erase(engine, "ann", key=KEY, actor="a test")  # perhaps a slip of the pen
    assert starting_point(engine, knows, encoder=encoder, settings=NIGHT) is knows
    assert not erase(engine, "ann", key=KEY, actor="a test", pruned=True)
    start = starting_point(engine, knows, encoder=encoder, settings=NIGHT)
    assert start is not knows
    fresh = build_first_version(fleet(), encoder=encoder, settings=NIGHT)
    np.testing.assert_array_equal(start.centroids.vectors, fresh.centroids.vectors)


def condition(name, passed):
    return Condition(name=name, passed=passed, figure=0, threshold=0, n=0, bound=None, sentence=f"{name}.")


@pytest.mark.parametrize(
    ("failed", "verdict"), [("better", "published"), ("enough_evidence", "published"), ("cost", "held")]
)
def test_a_version_that_forgets_need_not_be_better_but_no_worse(failed, verdict):
    names = ("not_worse", "better", "enough_evidence", "cost")
    gate = GateDecision(
        verdict="held", conditions=tuple(condition(n, n != failed) for n in names), missing=(f"{failed}.",)
    )
    assert forgiving(gate).verdict == verdict
    assert forgiving(gate).missing == ((f"{failed}.",) if verdict == "held" else ())

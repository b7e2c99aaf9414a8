"""How a night's version comes to serve."""

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import text

from learner.kept_routes import keep_owners, keep_routes
from learner.nightly import run_night
from router.decide import Router, decide_many
from router.plan import read_plan
from router.registry import activate, active, history, load, publish, read_version, rollback
from router.rollout import RolloutSettings, pin, start_trial
from telemetry.golden import golden, put_golden
from tests.learner.world import QUICK, first_published, log_day
from tests.router.samples import build_version

WHO = {"actor": "ann", "reason": "because"}
TRY = RolloutSettings(mode="canary")


def night(engine, encoder, *, rollout=TRY, **rest):
    return run_night(engine, encoder=encoder, settings=QUICK, actor="a test", rollout=rollout, **rest)


def test_a_version_that_passed_comes_in_as_a_canary(engine, encoder):
    log_day(engine, encoder, first_published(engine, encoder))
    result = night(engine, encoder)
    assert (result.verdict, result.version) == ("canary", 1)
    assert result.report["sentence"].startswith("On trial by canary:")
    with engine.connect() as conn:
        plan = read_plan(conn)
        assert (plan.mode, plan.newer, plan.side.share) == ("canary", 2, 0.05)
        learned = "select count(*) from learner_consumption where version = 2"
        assert conn.execute(text(learned)).scalar_one() > 0
        told = [row[0] for row in conn.execute(text("select body from notification order by notification_id"))]
    assert [(t["event"], t.get("verdict")) for t in told[-2:]] == [("canary", None), ("night", "canary")]
    second = night(engine, encoder, force=True)
    assert second.verdict == "held"
    assert "still on trial" in second.report["sentence"]


def test_a_proven_version_serves_at_once_with_a_hold_out(engine, encoder):
    log_day(engine, encoder, first_published(engine, encoder))
    result = night(engine, encoder, rollout=RolloutSettings())
    assert result.verdict == "published"
    with engine.connect() as conn:
        plan = read_plan(conn)
    assert (plan.main.version, plan.mode, plan.older, plan.side.share) == (2, "holdout", 1, 0.02)


def test_what_a_person_changed_during_the_night_is_not_overruled(engine, encoder):
    """Version 2 serves and is rolled back while a night works: its candidate was compared with version 2."""
    first = first_published(engine, encoder)
    with engine.begin() as conn:
        publish(conn, replace(first, training={"n": "2"}), parent=1, **WHO)
    log_day(engine, encoder, first)

    def meanwhile(step):
        if step == "gate":
            with engine.begin() as conn:
                rollback(conn, **WHO)

    result = night(engine, encoder, progress=meanwhile)
    assert result.verdict == "held"
    assert "Version 1 serves by now" in result.report["sentence"]
    with engine.connect() as conn:
        assert active(conn).version == 1
        assert read_version(conn, 3).status == "candidate"


def test_a_pinned_version_stays_whatever_a_night_learns(engine, encoder):
    log_day(engine, encoder, first_published(engine, encoder))
    with engine.begin() as conn:
        pin(conn, version=None, route=None, **WHO)
    result = night(engine, encoder, rollout=RolloutSettings())
    assert result.verdict == "held"
    assert "pinned by ann" in result.report["sentence"]
    with engine.connect() as conn:
        assert active(conn).version == 1


def test_a_pinned_route_keeps_its_centroids(engine, encoder):
    first = first_published(engine, encoder)
    log_day(engine, encoder, first)
    route = first.parameters.routes[0]
    with engine.begin() as conn:
        pin(conn, version=None, route=route, **WHO)
    night(engine, encoder, rollout=RolloutSettings(mode="direct"))
    with engine.connect() as conn:
        second = load(conn, 2)

    def of(version):
        mine = version.centroids.owners.argmax(axis=1) == version.parameters.routes.index(route)
        return {row.tobytes() for row in version.centroids.vectors[mine]}

    assert of(first) == of(second)
    assert len(second.centroids.vectors) != len(first.centroids.vectors)


@pytest.mark.parametrize("values", [False, True])
def test_keeping_routes_leaves_the_others_alone(values):
    new, old = (build_version(seed=seed, values=values).centroids for seed in (1, 2))
    kept = keep_routes(new, old, [1, 3])
    for route in range(5):
        source = old if route in (1, 3) else new
        for name in ("vectors", "owners", "mass", *(("values",) if values else ())):
            rows = getattr(kept, name)[kept.owners.argmax(axis=1) == route]
            assert np.array_equal(rows, getattr(source, name)[source.owners.argmax(axis=1) == route])
    assert keep_routes(new, old, []) is new


def test_questions_of_a_route_that_keeps_its_owners_go_where_they_went_before():
    old = build_version(seed=2)
    turned = np.roll(old.centroids.owners, 1, axis=1)
    new = replace(old, centroids=replace(old.centroids, owners=turned))
    kept = replace(new, centroids=keep_owners(new.centroids, old, [1]))
    X = old.centroids.vectors
    before, after = (decide_many(Router(v), X, explore=False).route for v in (old, kept))
    mine = before == 1
    assert mine.any()
    assert (after[mine] == 1).all()
    assert (after[~mine] != before[~mine]).any()
    assert keep_owners(new.centroids, old, []) is new.centroids


def test_a_night_that_breaks_a_golden_query_holds(engine, encoder):
    """The users say where their questions belong; a golden query that says otherwise wins over all of them."""
    first = first_published(engine, encoder)
    log_day(engine, encoder, first)
    allowed = night(engine, encoder, rollout=RolloutSettings(mode="direct"))
    assert allowed.verdict == "published"
    changed = allowed.report["changed"]["queries"][0]
    with engine.begin() as conn:
        rollback(conn, **WHO)
        put_golden(conn, [golden(changed["text"], [changed["before"]], by="ann")])
    held = night(engine, encoder, rollout=RolloutSettings(mode="direct"), force=True)
    assert held.verdict == "held"
    (condition,) = [c for c in held.report["conditions"] if c["name"] == "golden"]
    assert (condition["passed"], condition["n"]) == (False, 1)
    assert changed["text"][:40] in condition["sentence"]


def test_a_trial_of_a_person_is_not_replaced_by_a_night(engine, encoder):
    first = first_published(engine, encoder)
    with engine.begin() as conn:
        other = publish(conn, replace(first, training={"n": "2"}), parent=1, status="candidate", **WHO).number
        start_trial(conn, other, mode="shadow", share=0, **WHO)
    log_day(engine, encoder, first)
    assert night(engine, encoder, rollout=RolloutSettings()).verdict == "held"
    with engine.begin() as conn:
        assert read_plan(conn).newer == other
        activate(conn, other, kind="publish", **WHO)
        assert [a.kind for a in history(conn)] == ["publish", "shadow", "publish"]

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from router.activations import lock_activations, verify_history
from router.advance import Look, examine, look
from router.arms import in_share
from router.decide import UnknownRoute
from router.plan import pinned_routes, read_plan
from router.registry import (
    NotShadowed,
    Pinned,
    RefusedVersion,
    ServesAlready,
    activate,
    active,
    history,
    publish,
    read_version,
    rollback,
)
from router.rollout import (
    NothingOnTrial,
    NotPinned,
    RolloutSettings,
    end_hold_out,
    pin,
    promote,
    start_trial,
    take_back,
    unpin,
    way_in,
)
from telemetry.feedback import store_feedback
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from telemetry.records import DecisionRecord, Feedback, Inference, OutcomeRecord, Payload
from telemetry.tables import learner_lease
from tests.router.samples import build_version

AT_ONCE = RolloutSettings(stage_minutes=0, stage_sessions=5)
WHO = {"actor": "a test", "reason": "because"}


def put(conn: Connection, seed: int, *, status: str = "active", **version) -> int:
    made = build_version(seed=seed, **version)
    return publish(conn, made, parent=None, status=status, **WHO).number  # type: ignore[arg-type]


def on_trial(conn: Connection, *, mode: str = "canary", share: float = 0.05) -> tuple[int, int]:
    older, newer = put(conn, 1), put(conn, 2, status="candidate")
    start_trial(conn, newer, mode=mode, share=share, **WHO)  # type: ignore[arg-type]
    return older, newer


def answered(by: int, other: int, *, apart: bool, session: str | None = None, **outcome) -> Inference:
    return Inference(
        inference_id=new_id(),
        source="route",
        session_id=session or str(new_id()),
        decision=DecisionRecord(
            route="route-1",
            router_version=by,
            explored=False,
            shadow_version=other,
            shadow_route="route-2" if apart else "route-1",
            shadow_agrees=not apart,
        ),
        payload=Payload(query="q"),
        outcome=OutcomeRecord(**outcome) if outcome else None,
    )


def judge(conn: Connection, item: Inference, *, up: bool, by: str | None = None) -> None:
    store_feedback(
        conn,
        [
            Feedback(
                feedback_id=new_id(),
                target_kind="inference_id",
                target_value=str(item.inference_id),
                value="up" if up else "down",
                submitter=by,
            )
        ],
    )


def sessions(
    conn: Connection,
    older: int,
    newer: int,
    n: int,
    *,
    seed: int,
    new_good: float,
    old_good: float,
    by: str | None = None,
) -> None:
    """n judged sessions of each arm, on questions that the two versions send differently."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        for version, other, good in ((older, newer, old_good), (newer, older, new_good)):
            item = answered(version, other, apart=True)
            store_inferences(conn, [item])
            judge(conn, item, up=bool(rng.random() < good), by=by or None)


@given(session=st.text(max_size=30), version=st.integers(1, 10**6), low=st.floats(0, 1), high=st.floats(0, 1))
def test_whoever_has_the_new_version_keeps_it_as_its_share_grows(session, version, low, high):
    low, high = sorted((low, high))
    if in_share(session, version=version, share=low, held_out=False):
        assert in_share(session, version=version, share=high, held_out=False)
        assert not in_share(session, version=version, share=1 - high, held_out=True)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.25])
def test_the_share_of_the_sessions_is_what_it_says(share):
    found = np.mean([in_share(str(UUID(int=i)), version=3, share=share, held_out=False) for i in range(20_000)])
    assert found == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 20_000))


def test_a_version_comes_in_by_five_and_twenty_five_percent_to_all_but_a_hold_out(connection):
    older, newer = on_trial(connection)
    assert read_version(connection, newer).status == "canary"
    taken = []
    for _ in range(4):
        sessions(connection, older, newer, 13, seed=1, new_good=1, old_good=1)
        step = look(connection, AT_ONCE).step
        plan = read_plan(connection)
        taken.append((step, plan.mode, plan.side.share, plan.main.version))
    assert taken == [
        ("moved_on", "canary", 0.25, older),
        ("serves_all", "holdout", 0.02, newer),
        ("waits", "holdout", 0.02, newer),
        ("waits", "holdout", 0.02, newer),
    ]
    assert look(connection, replace(AT_ONCE, holdout_days=0)).step == "ended_hold_out"
    assert read_plan(connection).side is None
    assert look(connection, AT_ONCE) is None
    assert [read_version(connection, n).status for n in (older, newer)] == ["retired", "active"]
    assert verify_history(connection) is None


def test_a_stage_waits_for_its_time_and_for_its_sessions(connection):
    older, newer = on_trial(connection)
    assert look(connection, AT_ONCE).step == "waits"
    sessions(connection, older, newer, 6, seed=1, new_good=1, old_good=1)
    assert look(connection, RolloutSettings(stage_minutes=1, stage_sessions=5)).step == "waits"
    assert look(connection, AT_ONCE).step == "moved_on"


def test_a_stage_of_a_quiet_fleet_ends_by_the_clock(connection):
    on_trial(connection)
    assert look(connection, RolloutSettings(stage_minutes=0, most_stage_hours=0)).step == "moved_on"


@pytest.mark.parametrize("held_out", [False, True])
def test_a_worse_version_is_taken_back_and_never_serves_again(connection, held_out):
    older, newer = on_trial(connection)
    if held_out:
        promote(connection, settings=AT_ONCE, **WHO)
    sessions(connection, older, newer, 60, seed=2, new_good=0.2, old_good=0.8)
    found = look(connection, RolloutSettings())
    assert found.step == "took_back"
    newest = history(connection)[0]
    assert (newest.kind, newest.version, newest.share) == ("auto_rollback", older, 1.0)
    assert "worse (liked less)" in newest.reason
    assert read_version(connection, newer).status == "quarantined"
    assert read_plan(connection).side is None
    with pytest.raises(RefusedVersion):
        activate(connection, newer, kind="publish", **WHO)
    with pytest.raises(RefusedVersion):
        start_trial(connection, newer, mode="canary", share=0.05, **WHO)


def test_one_user_cannot_bring_a_version_down(connection):
    older, newer = on_trial(connection)
    sessions(connection, older, newer, 60, seed=3, new_good=0.0, old_good=1.0, by="one and the same")
    assert look(connection, RolloutSettings()).step == "waits"


@pytest.mark.parametrize(("signers", "step"), [(30, "waits"), (0, "took_back")])
def test_votes_that_nobody_signed_bring_a_version_down_only_where_nobody_signs(connection, signers, step):
    older, newer = on_trial(connection)
    for i in range(60):
        for version, other in ((older, newer), (newer, older)):
            if signers:
                item = answered(version, other, apart=True)
                store_inferences(connection, [item])
                judge(connection, item, up=True, by=f"user {version} {i % signers}")
    sessions(connection, older, newer, 60, seed=3, new_good=0.0, old_good=1.0)
    assert look(connection, RolloutSettings(stage_minutes=5)).step == step


def test_votes_that_a_person_did_not_sign_share_the_cap_of_those_that_they_did(connection):
    older, newer = on_trial(connection)
    for i in range(60):
        for version, other in ((older, newer), (newer, older)):
            item = replace(answered(version, other, apart=True), end_user="ann")
            store_inferences(connection, [item])
            judge(connection, item, up=version == older, by="ann" if i % 2 else None)
    assert look(connection, RolloutSettings(stage_minutes=5)).step == "waits"


def test_votes_on_what_both_versions_do_alike_say_nothing(connection):
    older, newer = on_trial(connection)
    for _ in range(40):
        for version, other, up in ((older, newer, True), (newer, older, False)):
            item = answered(version, other, apart=False)
            store_inferences(connection, [item])
            judge(connection, item, up=up)
    found = look(connection, RolloutSettings(stage_minutes=5))
    assert (found.step, found.watched.findings[0].pairs, found.watched.findings[0].judged) == ("waits", 0, 40)


@pytest.mark.parametrize("what", ["errors", "slow answers", "dear answers"])
def test_errors_latency_and_cost_bring_a_version_back_at_once(connection, what):
    older, newer = put(connection, 1), put(connection, 2, status="candidate")
    good, bad = {"duration_ms": 100.0, "cost": 0.001}, {"duration_ms": 100.0, "cost": 0.001}
    bad |= {"errors": {"error_type": "timeout"}, "slow answers": {"duration_ms": 900.0}, "dear answers": {"cost": 0.1}}[
        what
    ]

    def outcomes(version: int, other: int, outcome: dict) -> None:
        item = answered(version, other, apart=False)
        logged = Inference(inference_id=item.inference_id, outcome=OutcomeRecord(**outcome), payload_sha256=b"x")
        store_inferences(connection, [item, logged])

    for _ in range(60):
        outcomes(older, newer, good)
    connection.commit()
    start_trial(connection, newer, mode="canary", share=0.05, **WHO)
    for _ in range(25):
        outcomes(older, newer, good)
        outcomes(newer, older, bad)
    found = look(connection, RolloutSettings())
    assert found.step == "took_back"
    assert found.watched.worse.name == what


def test_a_shadow_serves_nobody_and_waits_for_a_person(connection):
    older, newer = on_trial(connection, mode="shadow")
    assert (active(connection).version, read_plan(connection).side.share) == (older, 0.0)
    assert look(connection, AT_ONCE).step == "waits"
    promote(connection, settings=AT_ONCE, **WHO)
    assert active(connection).version == newer


def test_a_rollback_takes_the_version_on_trial_back_first(connection):
    older, newer = on_trial(connection)
    assert rollback(connection, **WHO).version == older
    assert read_plan(connection).side is None
    assert read_version(connection, newer).status == "candidate"
    assert start_trial(connection, newer, mode="canary", share=0.05, **WHO).version == newer


def test_a_publication_ends_a_trial_and_another_trial_takes_its_place(connection):
    _, newer = on_trial(connection)
    third = put(connection, 3, status="candidate")
    start_trial(connection, third, mode="shadow", share=0, **WHO)
    assert [read_version(connection, n).status for n in (newer, third)] == ["candidate", "shadow"]
    fourth = put(connection, 4)
    assert read_plan(connection).side is None
    assert active(connection).version == fourth
    assert read_version(connection, third).status == "candidate"


def test_nothing_automatic_passes_a_pin(connection):
    first, second = put(connection, 1), put(connection, 2)
    pin(connection, version=first, route=None, **WHO)
    assert active(connection).version == first
    connection.execute(learner_lease.insert().values(name="night", fencing_token=1))
    with pytest.raises(Pinned):
        publish(connection, build_version(seed=3), parent=None, fencing_token=1, **WHO)
    with pytest.raises(Pinned):
        start_trial(connection, second, mode="canary", share=0.05, **WHO)
    unpin(connection, route=None, **WHO)
    assert start_trial(connection, second, mode="canary", share=0.05, **WHO).kind == "canary"
    with pytest.raises(NotPinned):
        unpin(connection, route=None, **WHO)


def test_a_person_rolls_a_pinned_version_back_all_the_same(connection):
    first, second = put(connection, 1), put(connection, 2)
    pin(connection, version=None, route=None, **WHO)
    assert active(connection).version == second
    assert rollback(connection, **WHO).version == first
    assert not read_plan(connection).pinned


def test_a_route_is_pinned_without_touching_what_serves(connection):
    older, newer = on_trial(connection)
    pin(connection, version=None, route="route-1", **WHO)
    assert set(pinned_routes(connection)) == {"route-1"}
    assert (read_plan(connection).newer, active(connection).version) == (newer, older)
    unpin(connection, route="route-1", **WHO)
    assert pinned_routes(connection) == {}
    assert verify_history(connection) is None


def test_a_version_for_another_encoder_must_have_been_in_shadow(connection):
    put(connection, 1)
    other = publish(
        connection, replace(build_version(seed=2), encoder="another"), parent=None, status="candidate", **WHO
    ).number
    with pytest.raises(NotShadowed):
        activate(connection, other, kind="publish", **WHO)
    with pytest.raises(RefusedVersion, match="another encoder"):
        start_trial(connection, other, mode="canary", share=0.05, **WHO)
    start_trial(connection, other, mode="shadow", share=0, **WHO)
    promote(connection, settings=AT_ONCE, **WHO)
    assert active(connection).version == other
    assert read_plan(connection).side is None  # no hold-out: a session would meet two encoders


def test_the_way_in_depends_on_proof_and_traffic(connection):
    settings = RolloutSettings(least_sessions=3)
    assert way_in(connection, settings, evidence=80, proven=True) == "direct"
    assert way_in(connection, settings, evidence=20, proven=True) == "direct"  # nobody is there to try it
    store_inferences(connection, [answered(1, 2, apart=False) for _ in range(3)])
    assert way_in(connection, settings, evidence=20, proven=True) == "canary"
    assert way_in(connection, settings, evidence=80, proven=False) == "canary"
    assert way_in(connection, settings, evidence=80, proven=True) == "direct"
    assert way_in(connection, replace(settings, mode="shadow"), evidence=80, proven=True) == "shadow"


def test_of_many_processes_one_looks(engine: Engine):
    with engine.begin() as conn:
        older, newer = on_trial(conn)
        sessions(conn, older, newer, 6, seed=1, new_good=1, old_good=1)
    found = []

    def one() -> None:
        with engine.begin() as conn:
            found.append(look(conn, AT_ONCE))

    with engine.begin() as conn:
        assert look(conn, AT_ONCE).step == "moved_on"
        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [None] * 4
    with engine.connect() as conn:
        assert len(history(conn)) == 3


def roll_back(conn: Connection, _third: int) -> None:
    rollback(conn, **WHO)


def pin_what_serves(conn: Connection, _third: int) -> None:
    pin(conn, version=None, route=None, **WHO)


def try_another(conn: Connection, third: int) -> None:
    start_trial(conn, third, mode="canary", share=0.05, **WHO)


def shadow_another(conn: Connection, third: int) -> None:
    start_trial(conn, third, mode="shadow", share=0.0, **WHO)


@pytest.mark.parametrize("person_does", [roll_back, pin_what_serves, try_another, shadow_another])
@pytest.mark.parametrize("found", ["moved_on", "serves_all", "took_back", "ended_hold_out"])
def test_a_look_does_nothing_once_a_person_has_changed_what_it_looked_at(
    engine: Engine, found: str, person_does: Callable[[Connection, int], None]
):
    over = RolloutSettings(stage_minutes=0, stage_sessions=0, holdout_days=0)
    with engine.begin() as conn:
        older, newer = on_trial(conn, share=0.25 if found == "serves_all" else 0.05)
        third = put(conn, 3, status="candidate")
        if found == "ended_hold_out":
            promote(conn, settings=over, **WHO)
        if found == "took_back":
            sessions(conn, older, newer, 60, seed=2, new_good=0.2, old_good=0.8)
    with engine.connect() as conn:
        assert examine(conn, read_plan(conn), over).step == found
    with ThreadPoolExecutor() as pool:
        with engine.begin() as conn:
            lock_activations(conn)
            looking = pool.submit(lambda: look_once(engine, over))
            wait_until_somebody_waits(conn)
            person_does(conn, third)
            left = [(row.kind, row.version, row.actor) for row in history(conn)]
        assert looking.result(timeout=60) is None
    with engine.connect() as conn:
        assert [(row.kind, row.version, row.actor) for row in history(conn)] == left
        assert "quarantined" not in [read_version(conn, number).status for number in (older, newer, third)]


def look_once(engine: Engine, settings: RolloutSettings) -> Look | None:
    with engine.begin() as conn:
        return look(conn, settings)


def wait_until_somebody_waits(conn: Connection) -> None:
    """Until another transaction of this database waits for an advisory lock."""
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted and database = "
    waiting += "(select oid from pg_database where datname = current_database())"
    end = time.monotonic() + 60
    while not conn.execute(text(waiting)).scalar_one():
        assert time.monotonic() < end, "nobody waits"
        time.sleep(0.01)


def test_what_serves_or_has_none_to_be_compared_with_is_not_tried(connection):
    first = put(connection, 1, status="candidate")
    with pytest.raises(RefusedVersion, match="no other serves yet"):
        start_trial(connection, first, mode="canary", share=0.05, **WHO)
    activate(connection, first, kind="publish", **WHO)
    with pytest.raises(ServesAlready, match="serves already, so there is nothing to try"):
        start_trial(connection, first, mode="canary", share=0.05, **WHO)


def test_without_a_trial_there_is_nothing_to_move_on(connection):
    put(connection, 1)
    for step in (promote, end_hold_out, take_back):
        with pytest.raises(NothingOnTrial):
            step(connection, **(WHO | ({"settings": AT_ONCE} if step is promote else {})))


def test_every_step_is_written_down_for_the_operator(connection):
    on_trial(connection)
    bodies = [row[0] for row in connection.execute(text("select body from notification order by notification_id"))]
    assert [(b["event"], b["version"]) for b in bodies] == [("publish", 1), ("canary", 2)]


def test_a_route_that_the_fleet_lacks_cannot_be_pinned_but_a_pin_of_one_that_left_can_be_ended(connection):
    put(connection, 1)
    with pytest.raises(UnknownRoute, match="not in the fleet that serves"):
        pin(connection, version=None, route="nowhere", **WHO)
    pin(connection, version=None, route="route-1", **WHO)
    put(connection, 2, names=["a", "b"], R=2)
    unpin(connection, route="route-1", **WHO)
    assert not pinned_routes(connection)

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, Engine, func, insert, select, text, update

from router.activations import Activation, ways_back
from router.artifact import DamagedArtifact
from router.registry import (
    LeaseLost,
    NeverActive,
    NothingToRollBack,
    RefusedVersion,
    StaleActivation,
    UnknownVersion,
    activate,
    active,
    history,
    list_versions,
    load,
    newest_seq,
    publish,
    quarantine_version,
    read_version,
    rollback,
    verify_history,
)
from telemetry.tables import learner_lease, router_activation, router_artifact, router_version
from tests.router.samples import build_version


def put(connection: Connection, seed: int, **rest) -> int:
    rest = {"actor": "a test", "reason": "because", "parent": None, **rest}
    return publish(connection, build_version(seed=seed), **rest).number


def damage(connection: Connection, number: int) -> None:
    where = (router_artifact.c.version == number) & (router_artifact.c.part == "centroids.safetensors")
    changed = func.set_byte(router_artifact.c.bytes, 300, 255 - func.get_byte(router_artifact.c.bytes, 300))
    connection.execute(update(router_artifact).where(where).values(bytes=changed))


def back(connection: Connection, **rest) -> int:
    return rollback(connection, actor="a test", reason="undo", **rest).version


def test_a_published_version_serves_and_loads(connection):
    report = {"accuracy": 0.9}
    published = publish(connection, build_version(), actor="me", reason="first", parent=None, report=report)
    assert (published.number, published.created, published.activation.seq) == (1, True, 1)
    assert active(connection).version == 1
    assert load(connection, 1).fingerprint == published.fingerprint
    record = read_version(connection, 1)
    assert (record.status, record.report, record.created_by) == ("active", report, "me")


def test_a_new_version_retires_the_old_one(connection):
    first, second = put(connection, 1), put(connection, 2, parent=1)
    assert [v.status for v in list_versions(connection)] == ["active", "retired"]
    assert read_version(connection, second).manifest["parent"] == read_version(connection, first).fingerprint


def test_a_candidate_is_registered_without_serving(connection):
    put(connection, 1)
    published = publish(connection, build_version(seed=2), actor="a", reason="b", parent=1, status="rejected")
    assert published.activation is None
    assert active(connection).version == 1
    assert newest_seq(connection) == 1


def test_the_same_content_keeps_its_number(connection):
    put(connection, 1)
    put(connection, 2)
    again = publish(connection, build_version(seed=1), actor="a", reason="b", parent=None, report={"n": 1})
    assert (again.number, again.created, active(connection).version) == (1, False, 1)
    assert read_version(connection, 1).report == {"n": 1}
    publish(connection, build_version(seed=2), actor="a", reason="b", parent=None, status="rejected")
    assert read_version(connection, 2).status == "retired"


def test_publishing_anew_heals_a_damaged_part(connection):
    put(connection, 1)
    damage(connection, 1)
    put(connection, 1)
    assert load(connection, 1).number == 1


def test_what_served_at_a_time_can_be_asked(connection):
    before = connection.execute(select(func.clock_timestamp())).scalar_one()
    put(connection, 1)
    between = connection.execute(select(func.clock_timestamp())).scalar_one()
    put(connection, 2)
    assert active(connection, at=before) is None
    assert active(connection, at=between).version == 1
    assert active(connection).version == 2


def test_a_second_rollback_goes_one_further_back(connection):
    for seed in (1, 2, 3):
        put(connection, seed)
    assert [back(connection), back(connection)] == [2, 1]
    with pytest.raises(NothingToRollBack):
        back(connection)


def test_what_was_rolled_back_is_not_returned_to(connection):
    for seed in (1, 2):
        put(connection, seed)
    assert back(connection) == 1
    put(connection, 3)
    assert back(connection) == 1


def test_rolling_back_an_activation_of_an_old_version_undoes_it(connection):
    for seed in (1, 2, 3):
        put(connection, seed)
    activate(connection, 1, kind="publish", actor="a", reason="b")
    assert back(connection) == 3


def test_a_rollback_to_a_number_goes_there(connection):
    for seed in (1, 2, 3):
        put(connection, seed)
    assert back(connection, to=1) == 1
    assert back(connection, to=3) == 3
    assert back(connection) == 1
    assert [v.status for v in list_versions(connection, order="asc")] == ["active", "retired", "retired"]


def test_a_rollback_passes_over_what_is_damaged_or_quarantined(connection):
    for seed in (1, 2, 3, 4):
        put(connection, seed)
    damage(connection, 3)
    quarantine_version(connection, 2)
    assert back(connection) == 1


def test_a_version_that_never_served_cannot_be_rolled_back_to(connection):
    put(connection, 1)
    put(connection, 2, status="candidate")
    with pytest.raises(NeverActive):
        back(connection, to=2)
    assert activate(connection, 2, kind="publish", actor="a", reason="b").version == 2


def test_rejected_quarantined_damaged_and_unknown_versions_are_not_activated(connection):
    put(connection, 1)
    put(connection, 2, status="rejected")
    put(connection, 3, status="candidate")
    put(connection, 4, status="candidate")
    quarantine_version(connection, 3)
    damage(connection, 4)
    for number, error in ((2, RefusedVersion), (3, RefusedVersion), (4, DamagedArtifact), (5, UnknownVersion)):
        with pytest.raises(error):
            activate(connection, number, kind="publish", actor="a", reason="b")
    with pytest.raises(RefusedVersion):
        put(connection, 3)
    assert active(connection).version == 1
    assert newest_seq(connection) == 1


@pytest.mark.parametrize("number", [0, -1, 2**31, 10**30])
def test_an_absurd_number_is_an_unknown_version(connection, number):
    with pytest.raises(UnknownVersion):
        read_version(connection, number)


def test_the_serving_version_is_not_quarantined(connection):
    put(connection, 1)
    with pytest.raises(RefusedVersion, match="active"):
        quarantine_version(connection, 1)


def test_an_activation_on_an_outdated_view_is_refused(connection):
    put(connection, 1)
    put(connection, 2)
    with pytest.raises(StaleActivation) as error:
        back(connection, if_seq=1)
    assert (error.value.expected, error.value.found) == (1, 2)
    assert back(connection, if_seq=2) == 1


def test_a_learner_that_lost_its_lease_cannot_publish(connection):
    later = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(LeaseLost):
        put(connection, 1, fencing_token=1)
    connection.execute(insert(learner_lease).values(name="night", fencing_token=2, expires_at=later))
    with pytest.raises(LeaseLost):
        put(connection, 1, fencing_token=1)
    assert put(connection, 1, fencing_token=2) == 1


def test_the_history_is_whole_and_says_who_when_and_why(connection):
    put(connection, 1)
    put(connection, 2)
    rollback(connection, actor="maria", reason="worse answers")
    rows = history(connection)
    assert [row.seq for row in rows] == [3, 2, 1]
    assert (rows[0].kind, rows[0].actor, rows[0].reason) == ("rollback", "maria", "worse answers")
    assert [row.seq for row in history(connection, after=1, order="asc", limit=1)] == [2]
    assert verify_history(connection) is None


@pytest.mark.parametrize("change", [{"reason": "forged"}, {"actor": "x"}, {"version": 2}, {"share": 0.5}])
def test_a_forged_row_breaks_the_chain(connection, change):
    for seed in (1, 2, 3):
        put(connection, seed)
    connection.execute(update(router_activation).where(router_activation.c.seq == 1).values(change))
    assert verify_history(connection) == 1


def test_a_removed_row_breaks_the_chain(connection):
    for seed in (1, 2, 3):
        put(connection, seed)
    connection.execute(text("delete from router_activation where seq = 2"))
    assert verify_history(connection) == 3


def test_nothing_of_a_publication_is_seen_before_the_commit(engine: Engine):
    with engine.connect() as writer, engine.connect() as reader:
        put(writer, 1)
        assert newest_seq(reader) == 0
        assert reader.execute(select(func.count()).select_from(router_version)).scalar_one() == 0
        writer.rollback()
        assert newest_seq(reader) == 0


def test_a_broken_version_is_not_published(connection):
    version = build_version()
    bad = replace(version, centroids=replace(version.centroids, vectors=version.centroids.vectors * 3))
    with pytest.raises(DamagedArtifact):
        publish(connection, bad, actor="a", reason="b", parent=None)
    assert newest_seq(connection) == 0


def test_concurrent_publications_keep_one_chain(engine: Engine):
    def work(seed: int) -> None:
        with engine.begin() as connection:
            put(connection, seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        assert verify_history(connection) is None
        assert len(history(connection)) == 8
        assert [v.status for v in list_versions(connection)].count("active") == 1


def test_the_way_back_ignores_canaries():
    def row(seq: int, version: int, kind: str, share: float = 1.0) -> Activation:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        return Activation(
            seq=seq, version=version, share=share, kind=kind, actor="", reason="", hash="", activated_at=now
        )

    assert ways_back([row(1, 1, "publish"), row(2, 2, "publish"), row(3, 3, "canary", 0.05)]) == [1]
    assert ways_back([]) == []

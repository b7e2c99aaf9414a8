"""What happens to versions when a server starts: the first one, a changed fleet, the sample fleet, damage."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from api.preparing import prepare_versions
from learner.settings import LearnerSettings
from router.encoder import Encoder
from router.fleet import Fleet, Route
from router.plan import read_plan
from router.registry import active, history, load, publish, read_version, rollback
from router.rollout import pin, unpin

pytestmark = pytest.mark.slow


def prepare(engine: Engine, fleet: Fleet, encoder: Encoder, *, only_first: bool = False) -> tuple[int, list[str]]:
    said: list[str] = []
    number = prepare_versions(
        engine, fleet, only_first=only_first, encoder=encoder, actor="a test", announce=said.append
    )
    return number, said


def test_the_first_version_comes_from_the_fleet_and_a_changed_fleet_makes_the_next(
    engine: Engine, fleet: Fleet, encoder: Encoder
) -> None:
    number, said = prepare(engine, fleet, encoder)
    assert (number, said[-1]) == (1, "Version 1 is published.")
    assert prepare(engine, fleet, encoder) == (1, [])

    returns = Route(name="returns", description="Sending things back", utterances=("how do I return shoes",))
    grown = replace(fleet, routes=(*fleet.routes, returns))
    assert prepare(engine, grown, encoder, only_first=True) == (1, [])  # nobody chose the sample fleet
    number, _ = prepare(engine, grown, encoder)
    with engine.connect() as conn:
        assert (number, load(conn, 2).fleet) == (2, grown)
        assert [a.reason for a in history(conn, order="asc")] == ["built from the fleet", "fleet changed: +returns"]


def test_the_learners_settings_hold_for_versions_made_at_start(engine: Engine, fleet: Fleet, encoder: Encoder) -> None:
    settings = LearnerSettings(splitter_examples=0, prior_success=0.6)
    number = prepare_versions(
        engine, fleet, only_first=False, encoder=encoder, actor="a test", announce=list, settings=settings
    )
    with engine.connect() as conn:
        made = load(conn, number)
    assert made.splitter == {}
    assert set(made.parameters.success) == {0.6}


def test_a_fleet_that_was_rolled_back_from_is_not_brought_back_by_a_restart(
    engine: Engine, fleet: Fleet, encoder: Encoder
) -> None:
    prepare(engine, fleet, encoder)
    grown = replace(fleet, fallback="billing")
    prepare(engine, grown, encoder)
    with engine.begin() as conn:
        assert rollback(conn, actor="ann", reason="worse on travel").version == 1
    number, said = prepare(engine, grown, encoder)
    assert number == 1
    assert "ann rolled back from" in said[0]

    other = replace(grown, fallback="account")  # the file was changed: that is meant
    assert prepare(engine, other, encoder)[0] == 3
    number, _ = prepare(engine, fleet, encoder)  # and so is a file that is as it was
    with engine.connect() as conn:
        assert load(conn, number).fleet == fleet


def test_a_damaged_version_is_told_and_left_for_a_person_to_replace(
    engine: Engine, fleet: Fleet, encoder: Encoder
) -> None:
    prepare(engine, fleet, encoder)
    with engine.begin() as conn:
        conn.execute(text("update router_artifact set bytes = 'x' where part = 'parameters.json'"))
    number, said = prepare(engine, replace(fleet, fallback="billing"), encoder)
    assert number == 1
    assert "damaged" in said[0]
    with engine.connect() as conn:
        serving = active(conn)
    assert serving is not None
    assert serving.version == 1


def test_a_changed_fleet_file_does_not_end_a_pin(engine: Engine, fleet: Fleet, encoder: Encoder) -> None:
    prepare(engine, fleet, encoder)
    with engine.begin() as conn:
        pin(conn, version=1, route=None, actor="ann", reason="an audit")
    number, said = prepare(engine, replace(fleet, fallback="billing"), encoder)
    assert number == 1
    assert "ann pinned version 1" in said[0]
    assert "trimtab unpin" in said[0]
    with engine.begin() as conn:
        plan = read_plan(conn)
        assert plan is not None
        assert plan.pinned
        unpin(conn, route=None, actor="ann", reason="done")
    assert prepare(engine, replace(fleet, fallback="billing"), encoder)[0] == 2


def test_a_changed_fleet_is_applied_to_what_comes_to_serve_while_it_is_read(
    engine: Engine, fleet: Fleet, encoder: Encoder
) -> None:
    prepare(engine, fleet, encoder)
    with engine.connect() as conn:
        first = load(conn, 1)

    def publishes_once(sentence: str) -> None:
        if sentence.startswith("Applying the fleet to version 1"):
            learned = replace(first, parameters=replace(first.parameters, beta=first.parameters.beta + 1))
            with engine.begin() as conn:
                publish(conn, learned, actor="a night", reason="learned", parent=1)

    grown = replace(fleet, fallback="billing")
    number = prepare_versions(engine, grown, only_first=False, encoder=encoder, actor="a test", announce=publishes_once)
    with engine.connect() as conn:
        served = load(conn, number)
        assert read_version(conn, number).parent == 2
    assert (served.fleet, served.parameters.beta) == (grown, first.parameters.beta + 1)

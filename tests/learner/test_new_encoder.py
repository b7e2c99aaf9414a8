"""A change of the encoder: built by embedding anew, tried in shadow, and only then served; two never mix."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from learner.new_encoder import SameEncoder, build_for_encoder
from learner.nightly import run_night
from router.plan import read_plan
from router.registry import NotShadowed, activate, active, load, publish
from router.rollout import RolloutSettings, promote
from telemetry.tables import inference_payload
from tests.learner.turned import Turned
from tests.learner.world import QUICK, accuracy, first_published, log_day, questions

WHO = {"actor": "ann", "reason": "because"}


@pytest.fixture(scope="module")
def turned(encoder):
    return Turned(encoder)


def test_a_new_encoder_is_learned_for_shadowed_and_only_then_served(engine, encoder, turned, database_url, tmp_path):
    first = first_published(engine, encoder)
    log_day(engine, encoder, first)
    run_night(engine, encoder=encoder, settings=QUICK, actor="a test")
    made = build_for_encoder(engine, old=encoder, new=turned, settings=QUICK, actor="ann")
    with engine.connect() as conn:
        plan, version = read_plan(conn), load(conn, made.number)
        stored = set(conn.execute(select(inference_payload.c.encoder).distinct()).scalars())
    assert (plan.main.version, plan.mode, plan.newer, version.encoder) == (2, "shadow", 3, turned.fingerprint)
    assert stored == {encoder.fingerprint}  # nights go on by the old one until the new one serves
    assert accuracy(version, turned, questions(1)) > accuracy(first, encoder, questions(1))
    assert accuracy(version, encoder, questions(1)) < 0.7  # by the wrong encoder it would be nonsense
    with engine.begin() as conn:
        promote(conn, settings=RolloutSettings(), **WHO)
        assert (active(conn).version, read_plan(conn).side) == (3, None)
    assert run_night(engine, encoder=turned, settings=QUICK, actor="a test", force=True).verdict in (
        "published",
        "held",
    )
    with engine.connect() as conn:
        assert set(conn.execute(select(inference_payload.c.encoder).distinct()).scalars()) == {turned.fingerprint}
    with pytest.raises(SameEncoder):
        build_for_encoder(engine, old=encoder, new=turned, settings=QUICK, actor="ann")


def test_a_version_for_another_encoder_cannot_be_activated_before_it_was_in_shadow(engine, encoder):
    first = first_published(engine, encoder)
    with engine.begin() as conn:
        other = replace(first, encoder="another", number=0, fingerprint="")
        number = publish(conn, other, parent=1, status="candidate", **WHO).number
        with pytest.raises(NotShadowed):
            activate(conn, number, kind="publish", **WHO)

"""A changed fleet on a version that has learned: what the operator wrote counts at once, what users taught stays."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from learner.centroid_shift import nearest
from learner.changed_fleet import apply_fleet
from learner.first_version import build_first_version
from learner.nightly import run_night
from learner.past_fleets import heed_past_fleets
from learner.window import Window
from router.decide import Router
from router.fleet import Fleet, Route
from router.registry import load, publish
from tests.learner.world import QUICK, first_published, fleet, log_day, questions

MOVED = "where is the kettle"
ADDED = "can i have a birthday cake with my order"
WINDOW = Window(
    units=pd.DataFrame({"route": ["delivery", "repairs"] * 2, "cost": [0.1, 0.2, 0.3, 0.4]}),
    embeddings=np.zeros((4, 1), np.float32),
    votes=pd.DataFrame(),
    start=None,
    watermark=datetime(2026, 5, 1, tzinfo=UTC),
)
NIGHT = replace(QUICK, splitter_examples=0)


@pytest.fixture
def learned(engine, encoder):
    """Version 1 and the one after two nights of votes."""
    version = first_published(engine, encoder)
    for day in range(2):
        log_day(engine, encoder, version, seed=day, day=day)
        number = run_night(engine, encoder=encoder, settings=NIGHT, actor="a test", force=True).version
        with engine.connect() as conn:
            version = load(conn, number)
    assert version.number > 1
    return version


def with_examples(change) -> Fleet:
    return replace(fleet(), routes=tuple(replace(r, utterances=change(r.name, r.utterances)) for r in fleet().routes))


@cache
def moved() -> Fleet:
    """The shop's fleet with one example of delivery in billing."""
    without = with_examples(lambda _, examples: tuple(e for e in examples if e != MOVED))
    assert without != fleet()
    return replace(
        without,
        routes=tuple(
            replace(r, utterances=(*r.utterances, MOVED)) if r.name == "billing" else r for r in without.routes
        ),
    )


def route_of(version, encoder, question):
    scores = Router(version).score(encoder.embed([question]), lengths=[len(question)])
    return version.parameters.routes[int(scores.utilities[0].argmax())]


def closeness(version, encoder, question):
    return float(nearest(encoder.embed([question]), version.centroids.vectors, count=1)[0][0, 0])


def test_an_example_that_moved_to_another_route_takes_its_questions_along_at_once(encoder):
    first = build_first_version(fleet(), encoder=encoder, settings=NIGHT)
    assert route_of(first, encoder, MOVED) == "delivery"
    assert route_of(apply_fleet(first, moved(), encoder=encoder, settings=NIGHT), encoder, MOVED) == "billing"


def test_an_example_that_moved_counts_at_once_after_nights_too_and_what_users_taught_elsewhere_stays(encoder, learned):
    assert route_of(learned, encoder, MOVED) == "delivery"
    changed = apply_fleet(learned, moved(), encoder=encoder, settings=NIGHT)
    assert route_of(changed, encoder, MOVED) == "billing"

    asked = [question for question, _ in questions(1)]
    X = encoder.embed(asked)
    far = (X @ encoder.embed([MOVED])[0]) < 0.5
    assert far.sum() > 60
    before, after = (Router(v).index.posterior(X[far])[0] for v in (learned, changed))
    np.testing.assert_allclose(before, after, atol=0.01)


def test_a_new_example_of_a_route_that_stays_is_a_centroid_of_its_own(encoder, learned):
    grown = with_examples(lambda name, examples: (*examples, ADDED) if name == "repairs" else examples)
    changed = apply_fleet(learned, grown, encoder=encoder, settings=NIGHT)
    assert route_of(changed, encoder, ADDED) == "repairs"
    assert closeness(changed, encoder, ADDED) == pytest.approx(1, abs=1e-5)


def test_an_example_that_was_taken_out_leaves_no_centroid(encoder, learned):
    assert closeness(learned, encoder, MOVED) == pytest.approx(1, abs=1e-5)
    changed = apply_fleet(
        learned,
        with_examples(lambda _, examples: tuple(e for e in examples if e != MOVED)),
        encoder=encoder,
        settings=NIGHT,
    )
    assert closeness(changed, encoder, MOVED) < 0.999
    assert len(changed.centroids.vectors) == len(learned.centroids.vectors) - 1


def test_a_fleet_with_the_same_examples_leaves_every_centroid_as_it_was_learned(encoder, learned):
    changed = apply_fleet(learned, replace(fleet(), fallback="repairs"), encoder=encoder, settings=NIGHT)
    for name in ("vectors", "owners", "mass"):
        np.testing.assert_allclose(getattr(changed.centroids, name), getattr(learned.centroids, name), rtol=1e-5)


def test_a_night_on_the_old_votes_does_not_take_the_operators_word_back(engine, encoder, learned):
    changed = apply_fleet(learned, moved(), encoder=encoder, settings=NIGHT)
    with engine.begin() as conn:
        publish(conn, changed, actor="a test", reason="fleet changed", parent=learned.number)
    night = run_night(engine, encoder=encoder, settings=NIGHT, actor="a test", force=True)
    with engine.connect() as conn:
        assert route_of(load(conn, night.version), encoder, MOVED) == "billing"


@pytest.mark.slow
def test_a_fleet_that_grew_from_a_fallback_without_examples_splits_and_abstains_like_one_that_was_written_whole(
    engine, encoder
):
    settings = replace(QUICK, splitter_examples=40)
    bare = build_first_version(
        Fleet(fallback="billing", routes=(Route(name="billing"),)), encoder=encoder, settings=settings
    )
    with engine.begin() as conn:
        bare = load(conn, publish(conn, bare, actor="a test", reason="a fallback", parent=None).number)
    grown = apply_fleet(bare, fleet(), encoder=encoder, settings=settings)
    whole = build_first_version(fleet(), encoder=encoder, settings=settings)
    assert grown.parameters.abstain_below == whole.parameters.abstain_below
    assert {name: part.tobytes() for name, part in grown.splitter.items()} == {
        name: part.tobytes() for name, part in whole.splitter.items()
    }
    assert whole.splitter
    assert route_of(grown, encoder, MOVED) == "delivery"


def priced(name: str, **prices: float) -> Fleet:
    return replace(fleet(), routes=tuple(replace(r, **prices) if r.name == name else r for r in fleet().routes))


def cost_of(version, route):
    return version.parameters.cost[version.parameters.routes.index(route)]


def test_a_changed_price_counts_at_once_and_what_the_other_routes_were_seen_to_cost_stays(encoder, learned):
    assert cost_of(learned, "billing") == pytest.approx((1e-4,) * 3)  # as it was logged
    changed = apply_fleet(learned, priced("billing", output_cost_per_token=1e-5), encoder=encoder, settings=NIGHT)
    assert cost_of(changed, "billing") == pytest.approx((1.5e-3,) * 3)
    assert cost_of(changed, "repairs") == cost_of(learned, "repairs")
    shorter = apply_fleet(
        changed,
        priced("billing", output_cost_per_token=1e-5, max_completion_tokens=20),
        encoder=encoder,
        settings=NIGHT,
    )
    assert cost_of(shorter, "billing") == pytest.approx((2e-4,) * 3)


def test_a_night_hears_what_a_route_costs_at_its_present_price_alone(engine, encoder, learned):
    changed = apply_fleet(learned, priced("delivery", output_cost_per_token=1e-5), encoder=encoder, settings=NIGHT)
    with engine.begin() as conn:
        number = publish(conn, changed, actor="a test", reason="fleet changed", parent=learned.number).number
        units = WINDOW.units.assign(router_version=[1, 1, number, number], occurred_at=WINDOW.watermark)
        night = replace(WINDOW, units=units)
        heard = heed_past_fleets(conn, night, changed.fleet).units
        assert heard["cost"].fillna(-1).tolist() == [-1, 0.2, 0.3, 0.4]  # delivery and repairs, before and after
        conn.execute(text("update router_artifact set bytes = 'x' where version = 1 and part = 'fleet.json'"))
        assert heed_past_fleets(conn, night, changed.fleet).units["cost"].notna().all()  # nobody knows any more
    result = run_night(engine, encoder=encoder, settings=NIGHT, actor="a test", force=True)
    with engine.connect() as conn:
        assert cost_of(load(conn, result.version), "delivery") == pytest.approx((1.5e-3,) * 3)

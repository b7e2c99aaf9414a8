"""Whole nights of a fleet of models on a real Postgres: several routes please, and price has a weight."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from learner.changed_fleet import apply_fleet
from learner.first_version import build_first_version
from learner.nightly import run_night
from router.decide import Router, decide_many
from router.fleet import Fleet, Route
from router.registry import load, publish
from telemetry.feedback import store_feedback
from telemetry.ids import new_id
from telemetry.inferences import store_inferences
from tests.learner.world import QUICK, inference, questions, thumb

PRICE = {"small": 0.0001, "vast": 0.01, "poor": 0.001}
# How often each pleases on other questions, and on those about repairs: there small is not as good as vast.
PLEASES = {"small": (0.95, 0.2), "vast": (0.95, 0.95), "poor": (0.2, 0.2)}
NIGHT = replace(QUICK, splitter_examples=0)


def fleet(cost_weight=0.0, *names):
    return Fleet(
        fallback="small",
        routes=tuple(Route(name=name, model=name) for name in names or PLEASES),
        cost_weight=cost_weight,
    )


def learned_from(engine, encoder, *, cost_weight, days=2):
    """The version that serves after nights of votes on what the fleet of models chose."""
    version = build_first_version(fleet(cost_weight), encoder=encoder, settings=NIGHT)
    with engine.begin() as conn:
        number = publish(conn, version, actor="a test", reason="the first", parent=None).number
    rng, first_day = np.random.default_rng(0), datetime.now(UTC) - timedelta(days=days + 1)
    asked = [(text, int(topic == "repairs")) for text, topic in questions()] * 2
    X = encoder.embed([text for text, _ in asked])
    results = []
    for day in range(days):
        with engine.connect() as conn:
            router = Router(load(conn, number))
        choices = decide_many(router, X, texts=[text for text, _ in asked])
        items, votes = [], []
        for i in rng.permutation(len(asked)):
            chosen = int(rng.choice(len(PLEASES), p=choices.propensities[i]))
            name, key = router.routes[chosen], new_id()
            items.append(
                inference(
                    *(asked[i][0], name, X[i], encoder),
                    at=first_day + timedelta(days=day, seconds=len(items)),
                    propensity=choices.propensities[i, chosen],
                    key=key,
                    outcome={"cost": PRICE[name]},
                )
            )
            up = rng.random() < PLEASES[name][asked[i][1]]
            votes.append(thumb(key, "up" if up else "down", by=f"user {key}"))
        with engine.begin() as conn:
            store_inferences(conn, items)
            store_feedback(conn, votes)
        results.append(run_night(engine, encoder=encoder, settings=NIGHT, actor="a test"))
        number = results[-1].version
    with engine.connect() as conn:
        return load(conn, number), asked, X, results


@pytest.mark.parametrize(("cost_weight", "cheap"), [(0.0, False), (0.1, True)])
def test_a_fleet_of_models_learns_who_pleases_where_and_pays_only_where_it_helps(engine, encoder, cost_weight, cheap):
    version, asked, X, results = learned_from(engine, encoder, cost_weight=cost_weight)
    assert results[0].verdict == "published", results[0].report["missing"]
    choices = decide_many(Router(version), X, texts=[text for text, _ in asked], explore=False)
    chosen = np.array(version.parameters.routes)[choices.route]
    repairs = np.array([about for _, about in asked], dtype=bool)
    assert (chosen[repairs] == "vast").mean() > 0.6
    assert (chosen == "poor").mean() < 0.03
    if cheap:
        assert (chosen[~repairs] == "small").mean() > 0.65
    assert version.centroids.values is not None


def test_the_same_model_night_gives_the_same_bytes_and_its_report_says_whose_fault_a_thumbs_down_was(engine, encoder):
    _, _, _, results = learned_from(engine, encoder, cost_weight=0.0, days=1)
    report = results[0].report
    assert report["evaluation"]["of_models"] is True
    assert report["routes"]["poor"]["success"] < report["routes"]["vast"]["success"]
    assert "cost" not in [condition["name"] for condition in report["conditions"]]
    again = run_night(engine, encoder=encoder, settings=NIGHT, actor="a test", force=True)
    assert again.report["evaluation"]["of_models"] is True


def test_a_changed_fleet_of_models_keeps_what_it_learned_and_takes_the_new_price_weight(engine, encoder):
    version, _, X, _ = learned_from(engine, encoder, cost_weight=0.0, days=1)
    changed = apply_fleet(version, fleet(0.5, "small", "new", "vast"), encoder=encoder)
    assert changed.parameters.cost_weight == 0.5
    before, after = (Router(v).index.posterior_and_values(X[:20])[1] for v in (version, changed))
    assert after[:, 2] == pytest.approx(before[:, 1], abs=1e-5)
    assert after[:, 1] == pytest.approx(before.mean(axis=1), abs=1e-5)

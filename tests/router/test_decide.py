from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from router.decide import Router, SessionState, UnknownRoute, advance_session, decide_many
from router.explain import explain
from router.version import Centroids, RouterVersion
from tests.router.samples import build_version, decide_plainly, unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at_corners(owners: list[list[float]], *, names=("alpha", "beta", "gamma"), **rest) -> RouterVersion:
    """A version whose k-th centroid is the k-th axis, owned as given; queries blend axes."""
    Q = np.array(owners, dtype=np.float32)
    same = {"success": (0.9,) * 3, "latency_ms": ((1.0,) * 3,) * 3, "explore_kappa": 0.0}
    version = build_version(R=3, names=names, **{**same, **rest})
    vectors = np.eye(8, dtype=np.float32)[: len(Q)]
    return replace(version, centroids=Centroids(vectors=vectors, owners=Q, mass=np.ones(len(Q), np.float32)))


def axis(k: int, **others: float) -> np.ndarray:
    x = np.zeros(8)
    x[k] = 1.0
    for name, weight in others.items():
        x[int(name[1:])] = weight
    return unit(x)


def session(route: str, x: np.ndarray, **rest) -> SessionState:
    return SessionState(route=route, embedding=x, at=NOW, **rest)


SURE = [[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98]]
CLOSE = [[0.45, 0.40, 0.15], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98]]


def test_a_keyword_wins_over_the_centroids():
    version = build_version(routes={3: {"keywords": ("credit card",)}})
    router = Router(version)
    segment = decide_plainly(router, version.centroids.vectors[0], query="My Credit  Card!").segments[0]
    assert (segment.route, segment.cause, segment.propensity, segment.explored) == ("route-3", "keyword", 1.0, False)


def test_a_keyword_is_a_whole_word():
    router = Router(build_version(routes={3: {"keywords": ("art", "C++", "/re-?funds?/", "straße")}}))
    assert not router.rules.matches("start the party")
    assert router.rules.matches("modern ART.") == (3,)
    assert router.rules.matches("is c++ hard") == (3,)
    assert not router.rules.matches("is c+ hard")
    assert router.rules.matches("my REFUND") == (3,)
    assert router.rules.matches("die Straße") == (3,)
    assert not router.rules.matches("\ud800 lone")


@pytest.mark.parametrize(
    ("keyword", "named", "other"),
    [
        ("退款", "我想申请退款谢谢", "我想申请付款"),
        ("発票 PDF", "請寄給我発票 PDF檔", "請寄給我発票 PDFs"),
        ("PDF", "请把PDF发给我", "请把PDFs发给我"),
        ("サーバー", "新しいサーバーが動きません", "新しいサーバが動きません"),
        ("คืนเงิน", "ฉันต้องการคืนเงินด่วน", "ฉันต้องการจ่ายเงินด่วน"),
    ],
)
def test_a_keyword_is_found_in_scripts_without_blanks(keyword, named, other):
    router = Router(build_version(routes={3: {"keywords": (keyword, "art")}}))
    assert router.rules.matches(named) == (3,)
    assert not router.rules.matches(other)
    assert not router.rules.matches("start the party")


def test_between_routes_with_keywords_the_utility_decides():
    version = at_corners(SURE)
    routes = tuple(replace(route, keywords=("word",)) for route in version.fleet.routes[1:])
    version = replace(version, fleet=replace(version.fleet, routes=(version.fleet.routes[0], *routes)))
    assert decide_plainly(Router(version), axis(2), query="a word").route == "gamma"
    assert decide_plainly(Router(version), axis(0, _1=0.5), query="a word").route == "beta"


def test_a_pinned_route_is_taken_for_certain():
    router = Router(at_corners(SURE, explore_kappa=5.0))
    segment = decide_plainly(router, axis(0), pinned="gamma").segments[0]
    assert (segment.route, segment.cause, segment.propensity) == ("gamma", "pinned", 1.0)


def test_an_unknown_pin_is_refused():
    with pytest.raises(UnknownRoute, match="pinned route"):
        decide_plainly(Router(at_corners(SURE)), axis(0), pinned="delta")


def test_far_from_everything_the_fallback_answers():
    router = Router(at_corners(SURE, abstain_below=0.3))
    segment = decide_plainly(router, np.eye(8)[7]).segments[0]
    assert (segment.route, segment.cause) == ("alpha", "abstained")


def test_a_route_is_not_chosen_below_its_own_threshold():
    version = at_corners(SURE)
    strict = replace(version.fleet.routes[1], score_threshold=0.9)
    fleet = replace(version.fleet, routes=(version.fleet.routes[0], strict, version.fleet.routes[2]))
    router = Router(replace(version, fleet=fleet))
    assert decide_plainly(router, axis(1)).route == "beta"
    assert decide_plainly(router, axis(1, _2=0.7)).route != "beta"


def test_cost_moves_a_close_call_only_under_the_policy_that_heeds_it():
    version = at_corners(CLOSE, cost=((9.0,) * 3, (0.5,) * 3, (0.5,) * 3), cost_weight=0.1)
    assert decide_plainly(Router(version, policy="centroid"), axis(0)).route == "alpha"
    assert decide_plainly(Router(version, policy="cost_aware"), axis(0)).route == "beta"
    assert decide_plainly(Router(version, policy="cost_aware"), axis(2)).route == "gamma"


def test_lateness_counts_by_the_length_of_the_query():
    version = at_corners(CLOSE, latency_ms=((10.0, 10.0, 9000.0), (10.0,) * 3, (10.0,) * 3), latency_weight=0.05)
    routes = tuple(replace(route, latency_slo_ms=1000.0) for route in version.fleet.routes)
    router = Router(replace(version, fleet=replace(version.fleet, routes=routes)))
    assert decide_plainly(router, axis(0), query="short one").route == "alpha"
    assert decide_plainly(router, axis(0), query="long " * 100).route == "beta"


def test_learned_values_replace_the_owners_in_the_utility():
    version = at_corners(SURE)
    values = np.tile(np.array([[0.2, 0.3, 0.9]], dtype=np.float32), (3, 1))
    version = replace(version, centroids=replace(version.centroids, values=values))
    assert decide_plainly(Router(version), axis(0)).route == "gamma"


def test_exploration_is_confined_to_ambiguous_queries():
    router = Router(at_corners([*SURE[:2], [0.5, 0.3, 0.2]], explore_kappa=0.2))
    propensities = decide_many(router, [axis(0), axis(2)]).propensities
    assert propensities[0].max() > 0.99
    np.testing.assert_allclose(propensities[1], [0.9, 0.06, 0.04], atol=1e-6)


def test_a_session_keeps_its_route_on_a_close_call():
    segment = decide_plainly(Router(at_corners(CLOSE)), axis(0), session=session("beta", axis(1))).segments[0]
    assert (segment.route, segment.cause, segment.propensity) == ("beta", "session", 1.0)


def test_a_session_follows_a_change_of_topic():
    router = Router(at_corners(SURE))
    assert decide_plainly(router, axis(2), session=session("beta", axis(1))).segments[0].cause == "centroid"


def test_a_session_does_not_hold_a_query_at_an_implausible_route():
    router = Router(at_corners([[0.26, 0.10, 0.64], *SURE[1:]]))
    assert decide_plainly(router, axis(0), session=session("beta", axis(1))).route == "gamma"


def test_a_question_that_comes_again_leaves_out_what_was_tried():
    router = Router(at_corners(CLOSE))
    first = decide_plainly(router, axis(0))
    state = advance_session(router, None, first, at=NOW)
    second = decide_plainly(router, axis(0), session=state)
    state = advance_session(router, state, second, at=NOW)
    third = decide_plainly(router, axis(0), session=state)
    assert [d.route for d in (first, second, third)] == ["alpha", "beta", "gamma"]
    assert second.segments[0].cause == third.segments[0].cause == "reasked"
    assert advance_session(router, state, third, at=NOW).tried == ("alpha", "beta")


def test_a_question_that_comes_again_stays_when_nothing_else_is_possible():
    router = Router(at_corners(SURE, reask_floor=0.05))
    assert decide_plainly(router, axis(0), session=session("alpha", axis(0))).segments[0].cause == "centroid"


def test_a_new_question_forgets_what_was_tried_for_the_old_one():
    router = Router(at_corners(SURE))
    state = session("beta", axis(1), tried=("gamma",))
    decision = decide_plainly(router, axis(2), session=state)
    assert advance_session(router, state, decision, at=NOW).tried == ()


def test_a_session_at_a_route_that_is_gone_is_no_obstacle():
    assert decide_plainly(Router(at_corners(SURE)), axis(1), session=session("old", axis(1))).route == "beta"


@pytest.mark.parametrize("cause", ["pinned", "session", "reasked", "abstained", "centroid"])
def test_every_cause_is_explained_in_words(cause):
    router = Router(at_corners(CLOSE, abstain_below=0.3))
    rest = {
        "pinned": {"pinned": "gamma"},
        "session": {"session": session("beta", axis(1))},
        "reasked": {"session": session("alpha", axis(0))},
    }.get(cause, {})
    decision = decide_plainly(router, np.eye(8)[7] if cause == "abstained" else axis(0), **rest)
    assert decision.segments[0].cause == cause
    lines = explain(decision)
    assert decision.route in lines[0]
    assert "version 7" in lines[-1]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sequential import Judged, e_process, find_worse, find_worse_anywhere, pair_up

ROUTES = tuple("abcdefgh")


def stream(seed: int, n: int, *, share: float = 0.25, lost: float = 0.0, won: float = 0.0, same: float = 0.0) -> Judged:
    """Votes on n questions. The canary loses and wins these shares of the routing; ``same``: apart, but both wrong."""
    rng = np.random.default_rng(seed)
    canary = rng.random(n) < share
    kind = rng.choice(4, n, p=[lost, won, same, 1 - lost - won - same])
    right = np.where(kind == 0, ~canary, np.where(kind == 1, canary, (kind == 3) & (rng.random(n) < 0.85)))
    pleased = rng.random(n) < np.where(right, 0.8, 0.15)
    routes = [frozenset({ROUTES[i]}) for i in rng.integers(len(ROUTES), size=n)]
    return Judged(
        value=(pleased ^ (rng.random(n) < 0.1)).astype(np.float64), canary=canary, apart=kind < 3, routes=routes
    )


def anywhere(judged: Judged, *, alpha: float = 0.05):
    return find_worse_anywhere(judged, routes=ROUTES, margin=0.005, route_margin=0.03, alpha=alpha)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_versions_that_are_equally_good_raise_no_more_false_alarms_than_alpha(share):
    alarms = [
        any(f.worse for f in anywhere(stream(seed, 8_000, share=share, lost=0.06, won=0.06, same=0.05), alpha=0.2))
        for seed in range(100)
    ]
    assert np.mean(alarms) <= 0.2


def test_without_any_margin_the_level_still_holds_at_every_moment():
    alarms = [
        find_worse(stream(seed, 8_000, lost=0.1, won=0.1), name="all", margin=0.0, alpha=0.2).worse
        for seed in range(150)
    ]
    assert np.mean(alarms) <= 0.2


def test_a_version_against_itself_never_raises_an_alarm():
    assert not any(f.worse or f.pairs for f in anywhere(stream(1, 20_000)))


def test_a_canary_ten_points_worse_is_found_after_a_few_hundred_votes():
    found = [anywhere(stream(seed, 20_000, lost=0.12, won=0.02, same=0.02))[0] for seed in range(40)]
    assert all(f.worse for f in found)
    assert np.median([f.judged for f in found]) <= 300


def test_one_ruined_route_is_found_although_the_whole_is_better():
    def ruined(seed: int) -> Judged:
        good = stream(seed, 8_000, won=0.06)
        bad = stream(seed + 1_000, 500, lost=0.7)
        order = np.random.default_rng(seed).permutation(8_500)
        joined = {
            name: np.concatenate([getattr(good, name), getattr(bad, name)])[order]
            for name in ("value", "canary", "apart")
        }
        routes = [*good.routes, *([frozenset({"a", "b"})] * 500)]
        return Judged(**joined, routes=[routes[i] for i in order])

    names = [{f.name for f in anywhere(ruined(seed)) if f.worse} for seed in range(20)]
    assert np.mean([bool(found & {"a", "b"}) for found in names]) >= 0.95
    assert not any("all" in found for found in names)


def test_a_better_canary_is_never_taken_for_worse():
    assert not any(f.worse for seed in range(20) for f in anywhere(stream(seed, 8_000, lost=0.01, won=0.08)))


@given(
    d=st.lists(st.floats(-1, 1), max_size=60),
    margin=st.floats(0, 1),
)
def test_wealth_is_never_negative_and_is_known_from_the_past_alone(d, margin):
    wealth = e_process(d, margin=margin)
    assert (wealth >= 0).all()
    assert np.array_equal(e_process(d[:-1], margin=margin), wealth[:-1])


@given(margin=st.floats(0, 1), worst=st.floats(0.01, 1))
def test_wealth_does_not_grow_on_average_where_the_loss_is_the_margin(margin, worst):
    """Two outcomes whose mean is minus the margin: the expected wealth after one step is one."""
    low, high = -margin - worst * (1 - margin), -margin + worst * (1 - margin)
    grown = [e_process([d], margin=margin)[0] for d in (low, high)]
    assert np.mean(grown) == pytest.approx(1.0, abs=1e-9)


@given(seed=st.integers(0, 10**6), n=st.integers(0, 80))
def test_every_judgement_apart_is_used_once_or_waits(seed, n):
    judged = stream(seed, n, share=0.4, lost=0.3, won=0.3)
    difference, at, share = pair_up(judged, rows=np.ones(n, bool))
    arms = [(judged.apart & (judged.canary == arm)).sum() for arm in (True, False)]
    assert len(difference) <= min(arms, default=0)
    assert (np.abs(difference) <= 1).all()
    assert (np.diff(at) > 0).all()
    assert ((share > 0) & (share <= 1)).all()


def test_the_alarm_says_after_how_many_judgements_it_came():
    judged = Judged(
        value=np.tile([1.0, 0.0], 40), canary=np.tile([False, True], 40), apart=np.ones(80, bool), routes=()
    )
    found = find_worse(judged, name="all", margin=0.005, alpha=0.05)
    assert found.worse
    assert found.difference == -1.0
    assert found.judged == found.pairs == (found.at + 1) // 2 < 12

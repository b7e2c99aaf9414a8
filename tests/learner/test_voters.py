"""Votes that nobody signed: whose they are, and how much they weigh beside signed ones."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.evidence import capped_weights, gather_evidence
from learner.follow_ups import find_follow_ups
from learner.learn import learn_centroids, prepare
from learner.settings import LearnerSettings
from learner.voters import ASKED, SIGNED, UNKNOWN, limit_unsigned
from tests.learner.test_what_is_learned import (
    NAMES,
    QUESTIONS,
    SETTINGS,
    Places,
    asked,
    choices,
    judged,
    truth,
    version,
    votes_on,
    window,
)

RIGHT = np.array([truth(row) for row in range(QUESTIONS)])


def weights(logged):
    follow_ups = find_follow_ups(logged, similarity=0.92, minutes=30)
    votes = gather_evidence(logged, follow_ups, routes=NAMES).votes
    return votes, capped_weights(votes, nearest=votes.question, night=votes.day, settings=SETTINGS)


def limited(weight, standing, *, user=None, key=None, day=None, **settings):
    n = len(weight)
    numbers = {"user": user, "key": key, "day": day}
    given = {
        k: np.arange(n) if k == "user" and v is None else np.zeros(n, int) if v is None else np.array(v)
        for k, v in numbers.items()
    }
    return limit_unsigned(
        np.array(weight, float), standing=np.array(standing), **given, settings=LearnerSettings(**settings)
    )


@given(
    st.lists(st.tuples(st.sampled_from([UNKNOWN, ASKED, SIGNED]), st.integers(0, 1), st.integers(0, 3)), max_size=80)
)
def test_what_nobody_signed_never_weighs_more_than_it_may_and_signed_votes_keep_all(rows):
    standing, key, day = (np.array([row[i] for row in rows], int) for i in range(3))
    weight = limited(np.ones(len(rows)), standing, key=key, day=day, signing_users=1)
    assert (weight[standing == SIGNED] == 1).all()
    for k, d in {(row[1], row[2]) for row in rows}:
        here = (key == k) & (day == d)
        if (here & (standing == SIGNED)).any():
            assert weight[here & (standing == ASKED)].sum() <= 0.1 * (here & (standing == SIGNED)).sum() + 1e-9


def test_where_nobody_signs_every_vote_counts_and_a_flood_does_not_buy_weight_where_many_do():
    np.testing.assert_array_equal(limited(np.ones(9), [ASKED] * 9), np.ones(9))
    few, many = (limited(np.ones(30 + n), [SIGNED] * 30 + [ASKED] * n)[30:].sum() for n in (10, 10_000))
    assert (few, many) == (pytest.approx(3), pytest.approx(3))
    half = limited(np.ones(20), [SIGNED] * 10 + [ASKED] * 10)[10:]  # ten of twenty people sign by now
    np.testing.assert_allclose(half, 0.5)


def test_votes_from_before_people_signed_and_votes_by_another_key_keep_their_weight():
    before = limited(np.ones(40), [ASKED] * 10 + [SIGNED] * 30, day=[5] * 10 + [4] * 30)
    np.testing.assert_array_equal(before, np.ones(40))
    after = limited(np.ones(40), [ASKED] * 10 + [SIGNED] * 30, day=[3] * 10 + [4] * 30)
    np.testing.assert_array_equal(after[:10], np.zeros(10))
    other = limited(np.ones(40), [ASKED] * 10 + [SIGNED] * 30, key=[1] * 10 + [0] * 30)
    np.testing.assert_array_equal(other, np.ones(40))


def test_a_vote_without_a_name_is_whoever_asked_and_shares_their_cap():
    units = asked()  # forty people
    mine = [row for row in range(QUESTIONS) if units["end_user"][row] == "user 7"]
    votes = votes_on(units, mine, [True] * len(mine), by=[None, *["user 7"] * (len(mine) - 1)])
    found, weight = weights(window(votes, units))
    assert found.users == ("user 7",)
    assert 0.95 * SETTINGS.votes_per_user < weight.sum() <= SETTINGS.votes_per_user


@pytest.mark.parametrize("known", [{}, {"end_user": None}, {"end_user": None, "session_id": None}])
def test_any_number_of_votes_without_a_name_on_one_answer_is_one_persons(known):
    units = asked().assign(**known)
    votes = votes_on(units, [5] * 1000, [False] * 1000, by=[None] * 1000)
    votes = votes.assign(feedback_id=[f"f{i}" for i in range(1000)])
    found, weight = weights(window(votes, units))
    assert (len(found.users), weight.sum()) == (1, pytest.approx(1))


def poisoned(units, *, count):
    """Signed votes, and others without a name that praise what is wrong and blame what is right."""
    rows = np.random.default_rng(3).permutation(QUESTIONS)[:count].tolist()
    lies = [NAMES.index(units["route"][row]) != truth(row) for row in rows]
    false = votes_on(units, rows, lies, by=[None] * count).assign(feedback_id=[f"lie {i}" for i in range(count)])
    return pd.concat([judged(units), false], ignore_index=True)


def right(votes, units, settings=SETTINGS):
    logged = window(votes, units)
    material = prepare(logged, version(), encoder=Places(), settings=settings)
    return float(np.mean(choices(learn_centroids(material, version(), settings=settings)).route == RIGHT))


def test_votes_without_a_name_teach_a_fleet_that_signs_hardly_anything_and_any_other_as_much_as_signed_ones():
    units = asked().assign(end_user=None)
    honest, lies = judged(units), poisoned(units, count=90)
    assert right(lies, units, replace(SETTINGS, unsigned_share=10.0)) < right(honest, units) - 0.1
    assert right(lies, units) > right(honest, units) - 0.03
    assert right(honest.assign(submitter=None), units) > right(honest, units) - 0.03

"""The estimate on questions where two versions differ, against simulated truth and against numbers."""

import numpy as np
import pytest

from learner.targeted import Disagreement, Tilt, _derivatives, draw_gains, fit_tilt, gains

UP = {True: 0.8, False: 0.15}


def asked(rng, *, n=600, truth=(0.3, 0.5, 0.2), belief=(0.1, 0.8, 0.1), rated=0.3, new_answered=0.1):
    """Questions of which old, new or neither is right; some are answered by the old or new choice and voted on."""
    right = rng.choice(3, size=n, p=truth)
    said = np.ones((n, 3))
    answered = np.where(rng.random(n) < new_answered, 1, 0)
    for i in np.flatnonzero(rng.random(n) < rated):
        up = rng.random() < UP[bool(right[i] == answered[i])]
        for case in range(3):
            chance = UP[case == answered[i]]
            said[i, case] = chance if up else 1 - chance
    return Disagreement(belief=np.tile(belief, (n, 1)), said=said, weight=np.ones(n), session=np.arange(n))


def mean_gain(d, spread=2.0):
    return float(gains(d, fit_tilt(d, spread=spread).value).mean())


@pytest.mark.parametrize("truth", [(0.3, 0.5, 0.2), (0.8, 0.1, 0.1), (0.1, 0.2, 0.7)])
def test_votes_correct_a_belief_that_is_wrong(truth):
    found = [mean_gain(asked(np.random.default_rng(seed), n=3000, truth=truth, rated=0.6)) for seed in range(10)]
    assert np.mean(found) == pytest.approx(truth[1] - truth[0], abs=0.07)


def test_a_candidate_that_is_sure_of_itself_is_not_believed_when_the_old_choice_pleases():
    d = asked(np.random.default_rng(0), truth=(0.9, 0.05, 0.05), belief=(0.01, 0.98, 0.01), new_answered=0.0)
    assert mean_gain(d) < -0.5


def test_what_nobody_judged_stays_as_uncertain_as_assumed():
    d = asked(np.random.default_rng(0), rated=0.0)
    tilt = fit_tilt(d, spread=2.0)
    np.testing.assert_allclose(tilt.value, 0, atol=1e-9)
    np.testing.assert_allclose(tilt.covariance, 4 * np.eye(2), atol=1e-9)


def test_votes_on_the_old_choice_say_nothing_about_the_new_one_where_the_old_is_wrong():
    tilt = fit_tilt(asked(np.random.default_rng(1), new_answered=0.0), spread=2.0)
    assert tilt.value[1] == pytest.approx(0.0, abs=1e-6)
    assert tilt.covariance[1, 1] == pytest.approx(4.0, rel=0.01)
    assert tilt.covariance[0, 0] < 0.5


def test_the_lower_bound_covers_as_often_as_it_says():
    truth = (0.35, 0.45, 0.2)
    covered = []
    for seed in range(150):
        d = asked(np.random.default_rng(seed), n=400, truth=truth, belief=(0.3, 0.5, 0.2), rated=0.4)
        tilt = fit_tilt(d, spread=2.0, rates=0.0)
        covered.append(np.quantile(draw_gains(d, tilt, seed=seed), 0.1) <= truth[1] - truth[0])
    assert 0.82 <= np.mean(covered) <= 0.99


def test_scores_and_information_are_the_derivatives_of_the_likelihood():
    d, t, h = asked(np.random.default_rng(3), n=200, new_answered=0.5), np.array([0.4, -0.7]), 1e-5

    def log_likelihood(t):
        b = d.belief
        A = 1 / (1 + (b[:, 1] + b[:, 2]) / b[:, 0] * np.exp(-t[0]))
        B = 1 / (1 + b[:, 2] / b[:, 1] * np.exp(-t[1]))
        cases = np.stack([A, (1 - A) * B, (1 - A) * (1 - B)], axis=1)
        return float(np.log((cases * d.said).sum(axis=1)).sum())

    score, information = _derivatives(d, t)
    steps = h * np.eye(2)
    slope = [(log_likelihood(t + e) - log_likelihood(t - e)) / (2 * h) for e in steps]
    np.testing.assert_allclose(score.sum(axis=0), slope, rtol=1e-4, atol=1e-6)
    bend = [(_derivatives(d, t + e)[0].sum(axis=0) - _derivatives(d, t - e)[0].sum(axis=0)) / (2 * h) for e in steps]
    np.testing.assert_allclose(information, -np.array(bend), rtol=1e-3, atol=1e-6)


def test_an_empty_tilt_leaves_the_belief_alone():
    d = asked(np.random.default_rng(0), rated=0.0)
    np.testing.assert_allclose(gains(d, np.zeros(2)), 0.7)
    certain = Tilt(value=np.zeros(2), covariance=np.zeros((2, 2)))
    np.testing.assert_allclose(draw_gains(d, certain, seed=0), 0.7)


def test_rates_that_may_be_wrong_widen_the_bounds_only_where_something_was_said():
    said, silent = (asked(np.random.default_rng(0), rated=rated) for rated in (0.5, 0.0))
    for d, wider in ((said, True), (silent, False)):
        sure, unsure = (fit_tilt(d, spread=2.0, rates=rates).covariance[0, 0] for rates in (0.0, 0.5))
        assert bool(unsure > sure + 0.1) is wider

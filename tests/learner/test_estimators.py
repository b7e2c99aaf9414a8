"""Each estimator against enumeration of small cases, and against real logged clicks with true propensities."""

from itertools import product

import numpy as np
import pytest

from learner.estimators import (
    doubly_robust,
    effective_sample_size,
    ips,
    snips,
    weighted_mean,
)

# Two contexts, three actions: chance of a reward, the logging policy, what the candidate does.
_REWARD = np.array([[0.2, 0.7, 0.4], [0.9, 0.1, 0.5]])
_LOGGING = np.array([[0.6, 0.3, 0.1], [0.25, 0.25, 0.5]])
_CANDIDATE = np.array([1, 2])
_TRUE_VALUE = float(np.mean(_REWARD[[0, 1], _CANDIDATE]))


def expectation(estimate):
    """Exact expectation over one logged event of each context: every action and reward, weighted by its chance."""
    total = 0.0
    for actions in product(range(3), repeat=2):
        for rewards in product((0.0, 1.0), repeat=2):
            a, r = np.array(actions), np.array(rewards)
            hit = _REWARD[[0, 1], a]
            chance = np.prod(_LOGGING[[0, 1], a]) * np.prod(np.where(r == 1, hit, 1 - hit))
            total += chance * estimate(r, a == _CANDIDATE, _LOGGING[[0, 1], a], a)
    return total


def test_ips_is_unbiased_over_all_that_can_happen():
    assert expectation(lambda r, match, pi, a: ips(r, match, pi)) == pytest.approx(_TRUE_VALUE)


@pytest.mark.parametrize("model", [np.zeros((2, 3)), _REWARD, np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.6]])])
def test_doubly_robust_is_unbiased_whatever_the_reward_model(model):
    def estimate(r, match, pi, a):
        return doubly_robust(r, match, pi, q_logged=model[[0, 1], a], q_new=model[[0, 1], _CANDIDATE])

    assert expectation(estimate) == pytest.approx(_TRUE_VALUE)


def test_doubly_robust_with_a_perfect_model_does_not_need_the_right_propensities():
    def estimate(r, match, pi, a):
        return doubly_robust(r, match, pi / 2, q_logged=_REWARD[[0, 1], a], q_new=_REWARD[[0, 1], _CANDIDATE])

    assert expectation(estimate) == pytest.approx(_TRUE_VALUE)


def test_snips_is_a_weighted_mean_of_rewards_that_matched():
    r, match = np.array([1.0, 0.0, 1.0, 1.0]), np.array([True, True, False, True])
    assert snips(r, match, np.array([0.5, 0.25, 0.1, 1.0])) == pytest.approx((2 * 1 + 4 * 0 + 1 * 1) / 7)
    assert np.isnan(snips(r, np.zeros(4, bool), np.ones(4)))


def test_snips_stays_within_the_rewards_where_ips_does_not():
    r, match, pi = np.ones(3), np.array([True, True, False]), np.array([0.1, 0.9, 0.5])
    assert ips(r, match, pi) > 1
    assert snips(r, match, pi) == pytest.approx(1.0)


def test_effective_sample_size_is_the_count_for_equal_weights_and_one_for_a_single_heavy_one():
    assert effective_sample_size(np.full(17, 3.0)) == pytest.approx(17)
    assert effective_sample_size(np.array([1000.0, 1e-9, 1e-9])) == pytest.approx(1.0)
    assert effective_sample_size(np.zeros(4)) == 0.0


def test_weighted_mean_without_weight_is_zero():
    assert weighted_mean(np.array([1.0, 3.0]), np.array([3.0, 1.0])) == pytest.approx(1.5)
    assert weighted_mean(np.ones(2), np.zeros(2)) == 0.0


@pytest.mark.data
def test_real_clicks_under_known_propensities_are_estimated_from_the_other_policy(shared_data):
    """The random policy's clicks estimate what the Bernoulli Thompson sampler earned, and the reverse (Saito 2021).

    The evaluated policy is the one that ignores the context: its chance of an item and position, as logged.
    """
    pd = pytest.importorskip("pandas")
    rows = pd.read_parquet(shared_data / "obd_small" / "obd_small.parquet")
    for _, campaign in rows.groupby("campaign"):
        bts = campaign[campaign["policy"] == "bts"]
        random = campaign[campaign["policy"] == "random"]
        shown = bts.groupby(["item_id", "position"]).size() / bts.groupby("position").size()
        chance = pd.Series(list(zip(random["item_id"], random["position"], strict=True))).map(shown.to_dict()).fillna(0)
        g, pi = chance.to_numpy(dtype=np.float64), random["propensity_score"].to_numpy(dtype=np.float64)
        reward = random["click"].to_numpy(dtype=np.float64)
        weight, estimate = g / pi, snips(reward, g, pi)
        assert effective_sample_size(weight) > 1000
        assert ips(reward, g, pi) == pytest.approx(estimate, rel=0.1)
        model = np.full(len(reward), reward.mean())
        assert doubly_robust(reward, g, pi, q_logged=model, q_new=model) == pytest.approx(estimate, rel=0.1)
        error = float(np.sqrt(np.sum(weight**2 * (reward - estimate) ** 2)) / np.sum(weight))
        other = float(np.sqrt(bts["click"].var() / len(bts)))
        assert abs(estimate - bts["click"].mean()) <= 3 * np.hypot(error, other)

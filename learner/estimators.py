"""Off-policy estimators. a: logged action, pi: its propensity, g: what the candidate would do, r: reward."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def ips(reward: Floats, match: Flags, propensity: Floats) -> float:
    """V = mean(1{a = g} r / pi). Horvitz and Thompson 1952. All (n,)."""
    return float(np.mean(match * reward / propensity))


def snips(reward: Floats, match: Flags, propensity: Floats) -> float:
    """V = sum(1{a = g} r / pi) / sum(1{a = g} / pi). Swaminathan and Joachims 2015. All (n,); nan without a match."""
    weight = match / propensity
    return float(np.sum(weight * reward) / np.sum(weight)) if match.any() else float("nan")


def doubly_robust(reward: Floats, match: Flags, propensity: Floats, *, q_logged: Floats, q_new: Floats) -> float:
    """V = mean(Q(x, g) + 1{a = g} (r - Q(x, a)) / pi). Dudik, Langford and Li 2011. All (n,)."""
    return float(np.mean(q_new + match * (reward - q_logged) / propensity))


def effective_sample_size(weight: Floats) -> float:
    """ESS = (sum w)^2 / sum w^2. Kish 1965. 0 without weights."""
    squares = float(np.sum(weight**2))
    return float(np.sum(weight) ** 2 / squares) if squares > 0 else 0.0


def weighted_mean(value: Floats, weight: Floats) -> float:
    """sum(w v) / sum w; 0 without weights."""
    total = float(weight.sum())
    return float((weight * value).sum() / total) if total > 0 else 0.0

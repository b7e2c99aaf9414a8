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


def cluster_bootstrap_t(
    value: Floats, weight: Floats, cluster: npt.NDArray[np.int64], *, level: float, draws: int = 999, seed: int = 0
) -> tuple[float, float]:
    """One-sided lower and upper bounds of the weighted mean, each at ``level``, resampling whole clusters.

    Studentised bootstrap (Efron 1981; Cameron, Gelbach and Miller 2008): t* = (m* - m) / se*, bounds
    m - t*_{level} se and m - t*_{1-level} se. Normal intervals cover too little with few, unequal clusters.

    Args:
        value: (n,) what is averaged.
        weight: (n,) its weight.
        cluster: (n,) numbers 0..C-1 of what belongs together.
        level: such as 0.9.
        draws: of the bootstrap.
        seed: of the draws.
    """
    clusters = int(cluster.max()) + 1 if len(cluster) else 0
    if clusters < 3 or weight.sum() <= 0:
        return float("-inf"), float("inf")
    W: Floats = np.bincount(cluster, weights=weight, minlength=clusters).astype(np.float64)
    WV: Floats = np.bincount(cluster, weights=weight * value, minlength=clusters).astype(np.float64)
    mean, error = _mean_and_error(W[None], WV[None])
    counts = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
    means, errors = _mean_and_error(W, WV, counts.astype(np.float64))
    usable = errors > 1e-12
    if usable.sum() < draws / 2 or error[0] <= 1e-12:
        return float("-inf"), float("inf")
    t = np.sort((means[usable] - mean[0]) / errors[usable])
    high, low = np.quantile(t, [level, 1 - level])
    return float(mean[0] - high * error[0]), float(mean[0] - low * error[0])


def _mean_and_error(W: Floats, WV: Floats, counts: Floats | None = None) -> tuple[Floats, Floats]:
    """Ratio estimate and its linearised standard error; ``counts`` (B, C) repeats clusters."""
    n = np.ones((1, W.shape[-1])) if counts is None else counts
    total = np.maximum((n * W).sum(axis=1), 1e-12)
    mean = (n * WV).sum(axis=1) / total
    residual = WV - mean[:, None] * W
    clusters = n.sum(axis=1)
    variance = clusters / np.maximum(clusters - 1, 1) * (n * residual**2).sum(axis=1)
    return mean, np.sqrt(variance) / total

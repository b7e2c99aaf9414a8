"""Which of two choices is right where they differ: a belief from elsewhere, put right by what was said there.

A targeted estimate (van der Laan and Rubin 2006, TMLE; it is doubly robust like phi of Dudik, Langford and Li 2011).
The old choice is right, or the new one, or neither, so that what is said of the one tells about the other. Belief and
what was said speak of the same three cases; two parameters tilt the belief until it agrees with what was said: one for
how often the old choice is right, one for how often the new one is where the old is not. So votes on the old choice
tell nothing about the second, which only answers of the new choice can: explored ones and those after a re-ask.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learner.estimators import Floats

_STEPS = 30
_DRAWS = 500
_MOST_AT_ONCE = 2_000_000
# Log odds by which the rates tilt all questions alike. They are estimated from the same votes, which no session's score
# shows; so measured over worlds whose truth is known (benchmarks.gate).
_RATES = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """n questions for which two versions choose differently; columns are: old is right, new is right, neither.

    ``belief`` (n, 3) is what was believed without what was said of the question itself, ``said`` (n, 3) the likelihood
    of that (up to a factor for each row), ``weight`` (n,) how much each counts, ``session`` (n,) what belongs together.
    """

    belief: Floats
    said: Floats
    weight: Floats
    session: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt:
    """Log odds that old is right more often than believed, and new where old is not, (2,); covariance (2, 2)."""

    value: Floats
    covariance: Floats


def fit_tilt(d: Disagreement, *, spread: float, rates: float = _RATES) -> Tilt:
    """Find the t that maximises sum_i w_i log(A L_old + (1 - A) (B L_new + (1 - B) L_neither)) - |t|^2 / (2 spread^2).

    A = sigmoid(logit b_old + t_1), B = sigmoid(logit(b_new / (1 - b_old)) + t_2). Newton's method, the information by
    Louis 1982, kept positive. The covariance is H^-1 (sum over sessions of s s' + I/spread^2) H^-1 with scores s
    (Liang and Zeger 1986), so that where nothing was said the prior's spread remains; and as far as anything was said,
    what the ``rates`` behind it may be wrong by is added.
    """
    ridge = np.eye(2) / spread**2
    t = np.zeros(2)
    for _ in range(_STEPS):
        score, information = _derivatives(d, t)
        step = np.linalg.solve(_positive(information) + ridge, score.sum(axis=0) - ridge @ t)
        step *= min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-12))
        t = t + step
        if np.abs(step).max() < 1e-6:
            break
    score, information = _derivatives(d, t)
    inverse = np.linalg.inv(_positive(information) + ridge)
    sessions = np.zeros((int(d.session.max()) + 1, 2))
    np.add.at(sessions, d.session, score)
    heard = np.eye(2) - inverse @ ridge
    return Tilt(value=t, covariance=inverse @ (sessions.T @ sessions + ridge) @ inverse + rates**2 * heard)


def gains(d: Disagreement, t: Floats) -> Floats:
    """P(new is right) - P(old is right) of each question after all that was said, (n,)."""
    _, _, after = _cases(d, t)
    return np.asarray(after[:, 1] - after[:, 0])


def draw_gains(d: Disagreement, tilt: Tilt, *, seed: int) -> Floats:
    """Weighted mean gain under 500 draws of the tilt, (500,)."""
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_normal(tilt.value, tilt.covariance, size=_DRAWS, method="eigh")
    parts = np.array_split(drawn, max(1, _DRAWS * len(d.weight) // _MOST_AT_ONCE))
    return np.concatenate([_mean_gains(d, part) for part in parts])


def _mean_gains(d: Disagreement, tilts: Floats) -> Floats:
    """Weighted mean gain under each of T tilts (T, 2), (T,)."""
    b = np.maximum(d.belief, 1e-9)
    A = 1 / (1 + (b[:, 1] + b[:, 2]) / b[:, 0] * np.exp(-tilts[:, :1]))
    B = 1 / (1 + b[:, 2] / b[:, 1] * np.exp(-tilts[:, 1:]))
    old, new, neither = A * d.said[:, 0], (1 - A) * B * d.said[:, 1], (1 - A) * (1 - B) * d.said[:, 2]
    return np.asarray(((new - old) / np.maximum(old + new + neither, 1e-30)) @ d.weight / d.weight.sum())


def _cases(d: Disagreement, t: Floats) -> tuple[Floats, Floats, Floats]:
    """A (n,), B (n,) and the chances of the three cases after what was said, (n, 3)."""
    b = np.maximum(d.belief, 1e-9)
    A = 1 / (1 + (b[:, 1] + b[:, 2]) / b[:, 0] * np.exp(-t[0]))
    B = 1 / (1 + b[:, 2] / b[:, 1] * np.exp(-t[1]))
    joint = np.stack([A, (1 - A) * B, (1 - A) * (1 - B)], axis=1) * d.said
    return A, B, joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-30)


def _derivatives(d: Disagreement, t: Floats) -> tuple[Floats, Floats]:
    """Score of each question (n, 2) and the observed information (2, 2) of the weighted log likelihood.

    Of the complete data the score is (old - A, new - B (1 - old)); Louis: information = complete - variance given data.
    """
    A, B, after = _cases(d, t)
    old, new, neither = after.T
    score = np.stack([old - A, new * (1 - B) - neither * B], axis=1)
    kept = np.stack([A * (1 - A) - old * (1 - old), (1 - old) * B * (1 - B) - _variance(new, neither, B)], axis=1)
    information = np.diag((d.weight[:, None] * kept).sum(axis=0))
    information[0, 1] = information[1, 0] = float((d.weight * old * score[:, 1]).sum())
    return d.weight[:, None] * score, information


def _variance(new: Floats, neither: Floats, B: Floats) -> Floats:
    """Variance of new - B (1 - old) over the three cases, (n,)."""
    mean = new * (1 - B) - neither * B
    return np.asarray(new * (1 - B) ** 2 + neither * B**2 - mean**2)


def _positive(matrix: Floats) -> Floats:
    """The nearest matrix without directions of negative curvature."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)

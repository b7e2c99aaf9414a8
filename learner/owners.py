"""Who owns each centroid, and since when: a hidden Markov model over the days of the window."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from router.version import Array

_ROWS_AT_ONCE = 4096
Cube = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """The k nearest of M centroids to each of Q questions: ``ids`` (Q, k) and ``pull`` exp(beta (cos - best cos)).

    ``day`` (Q,) numbers the day of each question from the window's first, ``days`` is how many there are.
    """

    ids: npt.NDArray[np.int64]
    pull: Array
    day: npt.NDArray[np.int64]
    days: int
    centroids: int

    @property
    def share(self) -> Array:
        """How much each of its k centroids speaks for a question, (Q, k); rows sum to one."""
        return np.asarray(self.pull / self.pull.sum(axis=1, keepdims=True))


def bounded(evidence: Array, background: Array, *, purity: float) -> Array:
    """L(d) = log(purity e^{l(d)} + (1 - purity) sum_d' b(d') e^{l(d')}), up to a constant; (Q, R).

    No question speaks for its centroid with more odds than purity / (1 - purity) allows: it may lie there by chance.
    """
    likely = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    by_chance = np.einsum("qr,qr->q", likely, background)[:, None]
    return np.asarray(np.log(purity * likely + (1 - purity) * by_chance), dtype=np.float32)


def posterior(near: Near, owners: Cube, *, day: npt.NDArray[np.int64] | None = None) -> Array:
    """p(d|x) = sum_k w_k q_k(d) as of each question's own day, or as of ``day`` (Q,); (Q, R)."""
    spread = _spread(near, near.share, day=near.day if day is None else day)
    return np.asarray(spread @ owners.reshape(-1, owners.shape[2]), dtype=np.float32)


def _spread(near: Near, share: Array, *, day: npt.NDArray[np.int64] | None) -> csr_array:
    """The shares as a sparse matrix (Q, M), or (Q, T x M) with the centroids of each question's day."""
    ids = near.ids if day is None else near.ids + day[:, None] * near.centroids
    rows = np.arange(0, ids.size + 1, ids.shape[1])
    width = near.centroids * (1 if day is None else near.days)
    return csr_array((share.ravel().astype(np.float64), ids.ravel(), rows), shape=(len(ids), width))


def responsibilities(near: Near, owners: Cube, said: Array) -> Array:
    """r_qk proportional to pull_k sum_d e^{L_q(d)} q_k(d) as of the question's day; rows sum to one, (Q, k)."""
    result = np.empty(near.pull.shape, dtype=np.float32)
    for start in range(0, len(said), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        likely = np.exp(said[part] - said[part].max(axis=1, keepdims=True))
        q = owners[near.day[part, None], near.ids[part]]
        share = near.pull[part] * np.einsum("qkd,qd->qk", q, likely)
        result[part] = share / share.sum(axis=1, keepdims=True)
    return result


def overlap(near: Near, other: Near) -> Array:
    """Which share of the questions near each of M centroids lies near each of the N others, (M, N); rows sum to one."""
    together = (_spread(near, near.share, day=None).T @ _spread(other, other.share, day=None)).toarray()
    return np.asarray(together / np.maximum(together.sum(axis=1, keepdims=True), 1e-9), dtype=np.float32)


def gather(near: Near, share: Array, values: Array, *, by_day: bool = False) -> Cube:
    """sum_q share_qk values_q for every centroid, (M, C), or for every day and centroid, (T, M, C)."""
    total = np.asarray(_spread(near, share, day=near.day if by_day else None).T @ values, dtype=np.float64)
    return total.reshape(near.days, near.centroids, -1) if by_day else total


def owners_by_day(
    prior: npt.NDArray[np.float64], said: Cube, *, hazard: npt.NDArray[np.float64], fresh: Cube | float
) -> tuple[Cube, npt.NDArray[np.float64]]:
    """Owner posteriors of every day given the evidence of all days, (T, M, R), and chances (T, M) of a change on each.

    Forward-backward in a hidden Markov model.

    An owner stays from one day to the next with 1 - hazard and is else drawn anew. So what was said lately outweighs
    what was said before where the two disagree, and both count in full where they agree.

    Args:
        prior: (M, R) rows sum to one, before the first day.
        said: (T, M, R) summed evidence, log likelihoods.
        hazard: (T, M) chance that the owner is drawn anew since the day before; (T, 1) where it is one for all.
        fresh: (T, M, R) by which chances it is then; or the one of every route.
    """
    T, _, _ = said.shape
    likely = np.exp(said - said.max(axis=2, keepdims=True))
    stay = 1 - hazard[:, :, None]
    drawn = np.broadcast_to(hazard[:, :, None] * fresh, said.shape)
    forward = np.empty_like(likely)
    state = prior
    for t in range(T):
        state = _normalised((stay[t] * state + drawn[t]) * likely[t])
        forward[t] = state
    ahead = np.ones_like(prior)
    changed = np.zeros(said.shape[:2])
    for t in range(T - 2, -1, -1):
        coming, before = ahead * likely[t + 1], forward[t]
        anew = drawn[t + 1] * coming
        left = before.sum(1) * anew.sum(1) - (before * anew).sum(1)
        changed[t + 1] = left / (left + (before * (stay[t + 1] * coming + anew)).sum(1))
        ahead = _normalised(stay[t + 1] * coming + anew.sum(axis=1, keepdims=True))
        forward[t] = _normalised(forward[t] * ahead)
    return forward, changed


def _normalised(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values = np.maximum(values, 1e-30)
    return np.asarray(values / values.sum(axis=-1, keepdims=True))

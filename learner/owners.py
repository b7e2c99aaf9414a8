"""Who owns each centroid: expectation maximisation over the truth of every question."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learner.settings import LearnerSettings
from router.version import Array

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """The k nearest of M centroids to each of Q questions: ``ids`` (Q, k) and ``pull`` exp(beta (cos - best cos))."""

    ids: npt.NDArray[np.int64]
    pull: Array


def truth_of(near: Near, owners: Array, evidence: Array) -> Array:
    """p(d | question) proportional to e^{l(d)} sum_k pull_k q_k(d), (Q, R)."""
    result = np.empty(evidence.shape, dtype=np.float32)
    for start in range(0, len(evidence), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        mixed = np.matmul(near.pull[part, None, :], owners[near.ids[part]])[:, 0, :]
        likely = mixed * np.exp(evidence[part] - evidence[part].max(axis=1, keepdims=True))
        result[part] = likely / likely.sum(axis=1, keepdims=True)
    return result


def responsibilities(near: Near, owners: Array, evidence: Array) -> Array:
    """r_qk proportional to pull_k sum_d e^{l_q(d)} q_k(d), rows sum to one, (Q, k)."""
    result = np.empty(near.pull.shape, dtype=np.float32)
    for start in range(0, len(evidence), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        likely = np.exp(evidence[part] - evidence[part].max(axis=1, keepdims=True))
        share = near.pull[part] * np.einsum("qkd,qd->qk", owners[near.ids[part]], likely)
        result[part] = share / share.sum(axis=1, keepdims=True)
    return result


def gather(near: Near, share: Array, values: Array, *, centroids: int) -> npt.NDArray[np.float64]:
    """sum_q share_qk values_q for every centroid, (M, C)."""
    columns = []
    flat = near.ids.ravel()
    for column in range(values.shape[1]):
        columns.append(np.bincount(flat, weights=(share * values[:, column, None]).ravel(), minlength=centroids))
    return np.stack(columns, axis=1)


def own(
    near: Near,
    owners: Array,
    evidence: Array,
    log_seed: Array,
    *,
    neighbours: npt.NDArray[np.int64],
    settings: LearnerSettings,
) -> Array:
    """Owners: log q_k(d) = w_0 mean log p_seed(d) + sum_q r_qk l_q(d) + 0.2 log(mean of the neighbours' q(d))."""
    share = responsibilities(near, owners, evidence)
    said = gather(near, share, evidence, centroids=len(owners))
    around = np.log(np.maximum(owners[neighbours].mean(axis=1), 1e-6))
    logits = settings.seed_weight * log_seed + said + settings.neighbour_weight * around
    logits -= logits.max(axis=1, keepdims=True)
    q = np.exp(logits)
    return np.asarray(q / q.sum(axis=1, keepdims=True), dtype=np.float32)

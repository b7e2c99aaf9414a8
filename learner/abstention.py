"""Under which similarity a question is left to the fallback."""

import numpy as np

from learner.centroid_shift import grouped_sums, nearest
from router.version import Array

_UNCALIBRATED = 0.25
_SHARE = 0.02
# Of a fallback that has questions of its own only what is very unlike all others shall go there unasked.
_MARGIN = 0.05


def abstention_threshold(X: Array, belongs: Array, *, count: int, silent_fallback: bool = False) -> float:
    """The best cosine under which a query is abstained from: under nearly all that is known to belong here.

    Measured among the questions themselves, thinned out to ``count`` of them, each to its nearest other: how close
    they lie to centroids that were made of them says nothing about the next question.

    Args:
        X: (n, D) questions and examples; repeats count once.
        belongs: (n,) the chance that each belongs to any route but the fallback.
        count: how many questions are looked at.
        silent_fallback: the fallback has no examples, so what is unlike the others is all that it is for.
    """
    distinct, inverse, times = np.unique(X, axis=0, return_inverse=True, return_counts=True)
    rows = np.linspace(0, len(distinct) - 1, min(count, len(distinct))).astype(np.int64)
    weight = (grouped_sums(belongs[:, None], inverse, size=len(distinct))[:, 0] / times)[rows]
    if len(rows) < 2 or weight.sum() <= 0:
        return _UNCALIBRATED
    cosines = nearest(distinct[rows], distinct[rows], count=2)[0][:, 1]
    margin = 0.0 if silent_fallback else _MARGIN
    order = np.argsort(cosines, kind="stable")
    share = np.cumsum(weight[order]) / weight.sum()
    return float(np.clip(cosines[order][np.searchsorted(share, _SHARE)] - margin, 0.15, 0.45))

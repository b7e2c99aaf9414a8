"""Where a query lies among the centroids: FAISS search, p(d given x), best cosine."""

from functools import cached_property
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from router.version import Array, Centroids

Matrix = npt.NDArray[np.float64]
_ROWS_AT_ONCE = 4096


def unit_rows(X: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Rows of length one, float32, and which rows could be normalised: zero, NaN and infinite rows become zeros."""
    rows = np.atleast_2d(np.asarray(X, dtype=np.float32))
    squares = np.einsum("nd,nd->n", rows, rows)
    usable = np.isfinite(squares) & (squares > 1e-12)
    if not usable.all():
        rows = np.where(usable[:, None], rows, np.float32(0))
        squares = np.where(usable, squares, np.float32(1))
    return np.ascontiguousarray(rows / np.sqrt(squares)[:, None]), usable


class CentroidIndex:
    """The centroids of one version, ready to be searched. Immutable after construction, safe to share by threads.

    Args:
        centroids: unit vectors (M, D) with owner posteriors (M, R).
        neighbours: how many of the nearest centroids speak.
        beta: inverse temperature of their weights.
    """

    def __init__(self, centroids: Centroids, *, neighbours: int, beta: float) -> None:
        self.centroids = centroids
        self.beta = beta
        self.neighbours = min(neighbours, len(centroids.vectors))
        self._index: Any = faiss.IndexFlatIP(centroids.vectors.shape[1])
        self._index.add(np.ascontiguousarray(centroids.vectors, dtype=np.float32))
        self._owners = np.asarray(centroids.owners, dtype=np.float64)
        self._values = None if centroids.values is None else np.asarray(centroids.values, dtype=np.float64)

    def nearest(self, X: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.int64]]:
        """Cosines and numbers of the nearest centroids, best first, each (n, k). Unusable rows have cosine -1."""
        rows, usable = unit_rows(X)
        cosines, ids = self._index.search(rows, self.neighbours)
        cosines[~usable] = -1.0
        return cosines, ids

    def posterior(self, X: npt.ArrayLike) -> tuple[Matrix, npt.NDArray[np.float64]]:
        """p(d|x) = sum_k w_k q_k(d) with w = softmax(beta x.c) over the nearest centroids.

        Args:
            X: (n, D) embeddings; they are normalised here.

        Returns:
            P (n, R) whose rows sum to one, and the best cosine (n,). Rows that cannot be normalised (zero, NaN) get
            equal probabilities and cosine -1, so that they are abstained from.
        """
        P, _, best = self.posterior_and_values(X)
        return P, best

    def posterior_and_values(self, X: npt.ArrayLike) -> tuple[Matrix, Matrix | None, npt.NDArray[np.float64]]:
        """As ``posterior``, with V (n, R) between them: the learned value of each route near x, if there is one."""
        n, R = len(np.atleast_2d(X)), self._owners.shape[1]
        if self.neighbours == 0:
            return np.full((n, R), 1 / R), None, np.full(n, -1.0)
        cosines, ids = self.nearest(X)
        best = cosines[:, 0].astype(np.float64)
        weights = np.exp(self.beta * (cosines - cosines[:, :1]).astype(np.float64))
        weights /= weights.sum(axis=1, keepdims=True)
        P = _mix(weights, ids, self._owners)
        P /= P.sum(axis=1, keepdims=True)
        P[best <= -1.0] = 1 / R
        return P, None if self._values is None else _mix(weights, ids, self._values), best

    def route_similarity(self, X: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Best cosine of each query to the centroids that each route owns, (n, R); -1 for a route that owns none."""
        rows, _ = unit_rows(X)
        order, routes, starts = self._by_owner
        result = np.full((len(rows), self._owners.shape[1]), -1.0, dtype=np.float32)
        if len(order) == 0:
            return result
        if len(rows) == 1:
            # A matrix product would wake all threads of BLAS for one query, which costs more than it saves.
            result[0, routes] = np.maximum.reduceat(np.vecdot(self._vectors_by_owner, rows[0]), starts)
            return result
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            result[part, routes] = np.maximum.reduceat(rows[part] @ self._vectors_by_owner.T, starts, axis=1)
        return result

    @cached_property
    def _by_owner(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        owner = self._owners.argmax(axis=1)
        order = np.argsort(owner, kind="stable")
        routes, starts = np.unique(owner[order], return_index=True)
        return order, routes, starts

    @cached_property
    def _vectors_by_owner(self) -> Array:
        return np.ascontiguousarray(self.centroids.vectors[self._by_owner[0]])


def _mix(weights: Matrix, ids: npt.NDArray[np.int64], table: Matrix) -> Matrix:
    """sum_k weights[n, k] table[ids[n, k]], in slices so that many queries of a large fleet fit into memory."""
    result = np.empty((len(weights), table.shape[1]))
    for start in range(0, len(weights), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        result[part] = np.matmul(weights[part, None, :], table[ids[part]])[:, 0, :]
    return result

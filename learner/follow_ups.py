"""What users did next: questions asked again in the same session."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from learner.window import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUps:
    """Re-asks among the n units of a window, in its order.

    ``question`` (n,) numbers the questions: units that ask the same thing again share one number, so that what is
    learned of one holds for all. ``asked_again`` (n,) says whether the same question came next in the session,
    ``next_unit`` (n,) which unit it was (-1: none); ``watched`` (n,) whether it could be seen at all (the unit has a
    session).
    """

    question: npt.NDArray[np.int64]
    asked_again: npt.NDArray[np.bool_]
    next_unit: npt.NDArray[np.int64]
    watched: npt.NDArray[np.bool_]


def find_follow_ups(window: Window, *, similarity: float, minutes: float) -> FollowUps:
    """Find re-asks: the next unit of the session, within ``minutes``, has at least this cosine to the one before.

    Segments of split queries never re-ask one another: only units that are whole queries take part.
    """
    units = window.units
    n = len(units)
    whole = units["segment_count"].fillna(1).to_numpy(dtype=np.int64) == 1
    watched = units["session_id"].notna().to_numpy(dtype=bool) & whole
    next_unit = np.full(n, -1, dtype=np.int64)
    before, after = _successors(window, np.flatnonzero(watched), minutes=minutes)
    same = np.einsum("nd,nd->n", window.embeddings[before], window.embeddings[after]) >= similarity
    next_unit[before[same]] = after[same]
    return FollowUps(question=_numbered(next_unit), asked_again=next_unit >= 0, next_unit=next_unit, watched=watched)


def _successors(
    window: Window, rows: npt.NDArray[np.int64], *, minutes: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of units that follow one another in a session no later than ``minutes``."""
    sessions = window.units["session_id"].iloc[rows].astype("category").cat.codes.to_numpy()
    order = np.argsort(sessions, kind="stable")
    rows, sessions = rows[order], sessions[order]
    times = (window.watermark - window.units["occurred_at"].iloc[rows]).dt.total_seconds().to_numpy() * -1.0
    near = (sessions[1:] == sessions[:-1]) & (times[1:] - times[:-1] <= minutes * 60)
    return rows[:-1][near], rows[1:][near]


def _numbered(next_unit: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Number the chains; units stand in the order of time, so that a chain's first unit comes first."""
    first = np.arange(len(next_unit))
    for unit in np.flatnonzero(next_unit >= 0):
        first[next_unit[unit]] = first[unit]
    return np.unique(first, return_inverse=True)[1].astype(np.int64)

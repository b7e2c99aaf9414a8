"""Parts of a window that are judged by what was learned without them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from learner.learn import LearnedCentroids, Material, learn_centroids
from learner.settings import LearnerSettings
from learner.window import Window
from router.version import RouterVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Folds:
    """The fold of each unit of a window (-1: it judges nobody), and what was learned without each fold."""

    of_unit: npt.NDArray[np.int64]
    learned: Mapping[int, LearnedCentroids]


def learn_by_folds(material: Material, incumbent: RouterVersion, *, settings: LearnerSettings) -> Folds:
    """Learn once without what was said of each fold of what came after the incumbent learned."""
    fold = session_folds(material.window, folds=settings.folds, since=incumbent.learned_until)
    learned = {
        int(k): learn_centroids(material, incumbent, settings=settings, unheard=fold == k)
        for k in np.unique(fold[fold >= 0])
    }
    return Folds(of_unit=fold, learned=learned)


def session_folds(window: Window, *, folds: int, since: datetime | None) -> npt.NDArray[np.int64]:
    """Number each unit's fold by a hash of its session, so that what belongs together is never parted; -1: not judged.

    What came up to ``since``, when the incumbent learned, is not judged: the incumbent knows what was said of it.
    """
    fold = np.array([int.from_bytes(_hash(s), "big") % folds for s in session_names(window)], dtype=np.int64)
    if since is not None:
        fold[(window.units["received_at"] <= since).to_numpy()] = -1
    return fold


def session_names(window: Window) -> list[str]:
    """Return the session of each unit; one without a session is one of its own."""
    names = window.units["session_id"].where(window.units["session_id"].notna(), window.units["inference_id"])
    return [str(name) for name in names]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8]

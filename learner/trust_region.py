"""How much of a night's shift is let through: who may take over a centroid, how many queries may change route."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from learner.centroid_shift import nearest
from learner.evidence import Evidence
from learner.settings import LearnerSettings
from learner.voters import askers
from learner.window import Window
from router.decide import Router, decide_many
from router.version import Array, Centroids, RouterVersion

_MOST_MEASURED = 10_000
_HALVINGS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What came through.

    ``churn`` is the share of last week's queries that change route, ``step`` how much of the shift was taken (1: all),
    ``flips`` and ``flips_refused`` how many centroids changed owner or were kept from it.
    """

    version: RouterVersion
    churn: float
    step: float
    flips: int
    flips_refused: int


def hold_back(
    candidate: RouterVersion,
    incumbent: RouterVersion,
    window: Window,
    evidence: Evidence,
    *,
    settings: LearnerSettings,
) -> Held:
    """Refuse takeovers without odds or witnesses, then take the largest step within the limits on changed routes.

    A centroid's old owners are what the incumbent says at its place. Where all others together are not ``flip_odds``
    times as probable as the old one, or fewer than ``flip_users`` users spoke for the new one, the old owners stay:
    whose questions surely belong elsewhere is not kept until it is sure where. Then owners go only a part of the way,
    if all the way changed the route of more of last week's queries than is allowed.
    """
    new = candidate.centroids
    before_at = Router(incumbent).score(new.vectors, lengths=np.zeros(len(new.vectors)), similarities=False)
    old_owners = before_at.probabilities.astype(np.float32)
    refused, flips = _refused(new, old_owners, window, evidence, settings=settings)
    target = np.where(refused[:, None], old_owners, new.owners)
    recent = _recent(window, settings=settings)
    before = decide_many(Router(incumbent), recent, explore=False).route if len(recent) else np.zeros(0, np.int64)

    def stepped(step: float) -> tuple[RouterVersion, float, bool]:
        owners = (step * target + (1 - step) * old_owners).astype(np.float32)
        values = None if new.values is None else step * new.values + (1 - step) * before_at.pleases.astype(np.float32)
        version = replace(candidate, centroids=replace(new, owners=owners, values=values))
        if len(recent) == 0:
            return version, 0.0, True
        changed = decide_many(Router(version), recent, explore=False).route != before
        return version, float(changed.mean()), _allowed(changed, before, settings=settings)

    step, (version, churn, fits) = 1.0, stepped(1.0)
    if not fits:
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if stepped(middle)[2] else (low, middle)
        step = low
        version, churn, _ = stepped(step)
    return Held(version=version, churn=churn, step=step, flips=flips, flips_refused=int(refused.sum()))


def _allowed(changed: npt.NDArray[np.bool_], before: npt.NDArray[np.int64], *, settings: LearnerSettings) -> bool:
    """At most ``most_churn`` of all queries and ``most_route_churn`` of those of one route, or one query, change."""
    total, left = np.bincount(before), np.bincount(before, weights=changed)
    by_route = left <= np.maximum(settings.most_route_churn * total, 1.0)
    return bool(changed.mean() <= settings.most_churn and by_route.all())


def _refused(
    new: Centroids, old_owners: Array, window: Window, evidence: Evidence, *, settings: LearnerSettings
) -> tuple[npt.NDArray[np.bool_], int]:
    """Which takeovers are refused (M,), and how many are not."""
    rows = np.arange(len(new.vectors))
    owner, old_owner = new.owners.argmax(axis=1), old_owners.argmax(axis=1)
    takeover = owner != old_owner
    left = np.maximum(new.owners[rows, old_owner], 1e-9)
    witnesses = _witnesses(new, owner, old_owner, window, evidence, settings=settings)
    # Where any route may please, owners only say what is worth trying: nothing is taken over.
    unsure = (1 - left < settings.flip_odds * left) | (witnesses < settings.flip_users)
    refused = takeover & (new.values is None) & unsure
    return refused, int((takeover & ~refused).sum())


def _witnesses(
    new: Centroids,
    owner: npt.NDArray[np.int64],
    old_owner: npt.NDArray[np.int64],
    window: Window,
    evidence: Evidence,
    *,
    settings: LearnerSettings,
) -> npt.NDArray[np.int64]:
    """How many distinct users spoke for the new owner near each centroid, (M,).

    An up for the new owner, a down or a re-ask for the old one, and going away content from the new one all count.
    """
    votes = evidence.votes
    asker = askers(window.units).to_numpy()
    submitter = np.array(votes.users, dtype=object)[votes.user] if len(votes.user) else np.zeros(0, object)
    user, known = pd.factorize(np.concatenate([submitter, asker[evidence.reask_unit]]), sort=True)
    question = np.concatenate([votes.question, evidence.reask_question])
    route = np.concatenate([votes.route, evidence.reask_route])
    pleased = np.concatenate([votes.up, ~evidence.reask_again])
    if len(question) == 0:
        return np.zeros(len(new.vectors), np.int64)
    near = nearest(window.embeddings[evidence.first_unit], new.vectors, count=settings.neighbours)[1][question]
    for_it = np.where(pleased[:, None], route[:, None] == owner[near], route[:, None] == old_owner[near])
    pairs = np.unique((near * len(known) + user[:, None])[for_it])
    return np.bincount(pairs // len(known), minlength=len(new.vectors))


def _recent(window: Window, *, settings: LearnerSettings) -> Array:
    """Embeddings of last week's queries, the latest of them where there are very many."""
    age = (window.watermark - window.units["occurred_at"]).dt.total_seconds().to_numpy()
    return window.embeddings[np.flatnonzero(age <= settings.churn_days * 86400)[-_MOST_MEASURED:]]

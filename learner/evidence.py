"""What the window says about each question, as sparse evidence: who voted what about which route."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from learner.follow_ups import FollowUps
from learner.settings import LearnerSettings
from learner.voters import find_voters, limit_unsigned
from learner.window import Window

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_PER_VOTE = ("question", "unit", "row", "route", "up", "correction", "user", "share", "standing", "key", "day")


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """V votes spread over units: ``question``, ``unit``, ``route`` (positions), ``up``, ``user`` (numbers), ``weight``.

    ``correction`` is the position of the route that the user named, -1 for none; ``row`` is the row in the window's
    votes; ``share`` is the part of the vote that falls to this unit (a vote on a whole query of n segments: 1/n);
    ``user`` numbers the entries of ``users``; ``standing``, ``key`` and ``day`` are as in ``Voters``.
    """

    question: Ints
    unit: Ints
    row: Ints
    route: Ints
    up: npt.NDArray[np.bool_]
    correction: Ints
    user: Ints
    share: Floats
    standing: Ints
    key: Ints
    day: Ints
    users: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything said about Q questions: votes and follow-ups of ``unit`` rows whose routes are still in the fleet.

    ``first_unit`` (Q,) is the unit that stands for the question, ``reask_*`` (F,) one entry for each watched unit.
    """

    first_unit: Ints
    votes: Votes
    reask_question: Ints
    reask_unit: Ints
    reask_route: Ints
    reask_again: npt.NDArray[np.bool_]

    def without(self, units: npt.NDArray[np.bool_]) -> "Evidence":
        """Return the evidence but for what was said about the units in the mask (n,)."""
        votes, reasks = self.votes, ~units[self.reask_unit]
        kept = ~units[votes.unit]
        return replace(
            self,
            votes=replace(
                votes,
                **{name: getattr(votes, name)[kept] for name in _PER_VOTE},
            ),
            reask_question=self.reask_question[reasks],
            reask_unit=self.reask_unit[reasks],
            reask_route=self.reask_route[reasks],
            reask_again=self.reask_again[reasks],
        )


def gather_evidence(window: Window, follow_ups: FollowUps, *, routes: tuple[str, ...]) -> Evidence:
    """Join votes and follow-ups to the units they judge."""
    unit_route = pd.Index(routes).get_indexer(pd.Index(window.units["route"]))
    watched = np.flatnonzero(follow_ups.watched & (unit_route >= 0))
    return Evidence(
        first_unit=np.unique(follow_ups.question, return_index=True)[1].astype(np.int64),
        votes=_join_votes(window, follow_ups.question, unit_route=unit_route, routes=routes),
        reask_question=follow_ups.question[watched],
        reask_unit=watched,
        reask_route=unit_route[watched],
        reask_again=follow_ups.asked_again[watched],
    )


def _join_votes(window: Window, question: Ints, *, unit_route: Ints, routes: tuple[str, ...]) -> Votes:
    """One entry for each vote and unit that it judges."""
    units = window.units[["inference_id", "segment_index", "segment_count"]].reset_index(names="unit")
    votes = window.votes.reset_index(drop=True).reset_index(names="row")
    joined = votes.merge(units, on="inference_id", suffixes=("", "_of_unit"))
    meant = joined["segment_index"].isna() | (joined["segment_index"] == joined["segment_index_of_unit"])
    joined = joined[meant & (unit_route[joined["unit"].to_numpy(dtype=np.int64)] >= 0)]
    joined = joined.sort_values(["feedback_id", "segment_index_of_unit"], kind="stable")
    unit = joined["unit"].to_numpy(dtype=np.int64)
    voters, row = find_voters(window), joined["row"].to_numpy(dtype=np.int64)
    user, users = pd.factorize(voters.name[row], sort=True)
    whole = joined["segment_index"].isna().to_numpy()
    return Votes(
        question=question[unit],
        unit=unit,
        row=row,
        route=unit_route[unit],
        up=(joined["value"] == "up").to_numpy(dtype=bool),
        correction=pd.Index(routes).get_indexer(joined["correction"]).astype(np.int64),
        user=user.astype(np.int64),
        share=np.where(whole, 1.0 / joined["segment_count"].fillna(1).to_numpy(dtype=np.float64), 1.0),
        standing=voters.standing[row],
        key=voters.key[row],
        day=voters.day[row],
        users=tuple(map(str, users)),
    )


def capped_weights(votes: Votes, *, nearest: Ints, night: Ints, settings: LearnerSettings) -> Floats:
    """Weight = share x min(1, cap / votes of that user), a user's on one centroid in one night sharing one vote.

    Then what nobody signed is limited as ``limit_unsigned`` says.

    Args:
        votes: V of them.
        nearest: (V,) the centroid nearest to what each vote judges.
        night: (V,) a number for the night in which each vote came.
        settings: ``votes_per_user`` of a user count in full.
    """
    keys = pd.DataFrame({"user": votes.user, "centroid": nearest, "night": night})
    same = keys.groupby(["user", "centroid", "night"])["user"].transform("size").to_numpy(dtype=np.float64)
    weight = votes.share / same
    total = np.bincount(votes.user, weights=weight, minlength=len(votes.users))
    weight = weight * np.minimum(1.0, settings.votes_per_user / np.maximum(total[votes.user], 1e-9))
    who = {name: getattr(votes, name) for name in ("user", "standing", "key", "day")}
    return limit_unsigned(np.asarray(weight), **who, settings=settings)

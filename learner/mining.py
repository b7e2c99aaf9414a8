"""Mine failures: every kind with evidence that a person can read, and a label where the evidence suggests one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from learner.estimates import Estimates
from learner.follow_ups import FollowUps
from learner.settings import LearnerSettings
from learner.spikes import robust_z
from learner.window import Window
from telemetry.failure_kinds import FailureKind

_LIKED_FOLLOW_UP, _CORRECTION = 0.80, 0.95
_LIKELY = 0.5
# So much likelier is a dislike where nothing was to be split (odds): needed segments are disliked for other reasons.
_DISLIKED = 2.0
_SPIKE = 6.0
_NEXT = 30
_MARKS = " ?.!,"


@dataclass(frozen=True, slots=True, kw_only=True)
class MinedFailure:
    """One failure: where, of what kind, why we think so, and which route would have been right (None: not said)."""

    inference_id: str
    segment_index: int | None
    kind: FailureKind
    evidence: dict[str, object]
    suggested_route: str | None
    weight: float


@dataclass(frozen=True, slots=True)
class _Night:
    """What all kinds look at; ``units`` has a column ``at`` with each unit's row."""

    window: Window
    units: pd.DataFrame
    votes: pd.DataFrame
    follow_ups: FollowUps
    estimates: Estimates

    def best_other(self, at: int, route: str) -> tuple[str | None, float]:
        """The likeliest route if it is another one than ``route``, and its probability."""
        best = int(np.argmax(self.estimates.posteriors[at]))
        name = self.estimates.routes[best]
        return (name if name != route else None), float(self.estimates.posteriors[at, best])


def mine(window: Window, follow_ups: FollowUps, estimates: Estimates, settings: LearnerSettings) -> list[MinedFailure]:
    """Return every failure of the window, in the order of the kinds and of time.

    Args:
        window: what was logged.
        follow_ups: re-asks, from ``find_follow_ups``.
        estimates: what the night believes, for how probable a wrong route is.
        settings: for the time within which a follow-up counts.
    """
    units = window.units.assign(at=np.arange(len(window.units)))
    keys = ["inference_id", "segment_index"]
    whole = window.votes["segment_index"].isna()
    named = window.votes[~whole].astype({"segment_index": "int64"}).merge(units, on=keys, suffixes=("_vote", ""))
    asked = window.votes[whole].drop(columns="segment_index").merge(units, on="inference_id", suffixes=("_vote", ""))
    votes = pd.concat([asked.assign(on_whole=True), named.assign(on_whole=False)], ignore_index=True)
    night = _Night(window, units, votes, follow_ups, estimates)
    miners: tuple[Callable[[_Night], list[MinedFailure]], ...] = (
        _thumbs_down,
        _corrections,
        _asked_again,
        _token_spikes,
        _latency_spikes,
        _unneeded_splits,
        lambda n: _missed_splits(n, minutes=settings.follow_up_minutes),
        _cut_off,
        _abstained,
    )
    return [failure for miner in miners for failure in miner(night)]


def _failure(
    row: object, kind: FailureKind, evidence: dict[str, object], *, to: str | None, weight: float
) -> MinedFailure:
    return MinedFailure(
        inference_id=row.inference_id,  # type: ignore[attr-defined]
        segment_index=int(row.segment_index),  # type: ignore[attr-defined]
        kind=kind,
        evidence=evidence,
        suggested_route=to,
        weight=round(weight, 4),
    )


def _thumbs_down(night: _Night) -> list[MinedFailure]:
    """Only the share P(wrong route | down) is a misroute; the rest is filed with the SLM's owner."""
    found = []
    for row in night.votes[(night.votes["value"] == "down") & night.votes["correction"].isna()].itertuples():
        wrong = night.estimates.wrong_route_given_down.get(str(row.feedback_id), 0.0)
        to, chance = night.best_other(int(row.at), str(row.route))
        evidence = {
            "feedback_id": row.feedback_id,
            "route": row.route,
            "wrong_route_probability": round(wrong, 3),
            "likeliest_other": to,
            "its_probability": round(chance, 3) if to else None,
        }
        found.append(_failure(row, "thumbs_down", evidence, to=to if wrong > 0.5 else None, weight=wrong))
    return found


def _corrections(night: _Night) -> list[MinedFailure]:
    return [
        _failure(
            row,
            "correction",
            {"feedback_id": row.feedback_id, "route": row.route, "corrected_to": row.correction},
            to=str(row.correction),
            weight=_CORRECTION,
        )
        for row in night.votes[night.votes["correction"].notna()].itertuples()
        if row.correction != row.route
    ]


def _asked_again(night: _Night) -> list[MinedFailure]:
    liked = set(night.votes.loc[night.votes["value"] == "up", "at"])
    routes = night.units["route"].to_numpy()
    ids = night.units["inference_id"].to_numpy()
    again = np.flatnonzero(night.follow_ups.asked_again)
    found = []
    for row in night.units.iloc[again].itertuples():
        then = int(night.follow_ups.next_unit[int(row.at)])
        switched = routes[then] != row.route
        evidence = {"route": row.route, "asked_again_as": ids[then], "then_route": routes[then]}
        if switched and then in liked:
            found.append(
                _failure(row, "follow_up_switch", {**evidence, "liked": True}, to=routes[then], weight=_LIKED_FOLLOW_UP)
            )
            continue
        position = night.estimates.routes.index(row.route) if row.route in night.estimates.routes else None
        right = float(night.estimates.posteriors[int(row.at), position]) if position is not None else 0.0
        to, _ = night.best_other(int(row.at), str(row.route))
        evidence["wrong_route_probability"] = round(1 - right, 3)
        found.append(_failure(row, "reask", evidence, to=to if right < 0.5 else None, weight=1 - right))
    return found


def _spikes(night: _Night, column: str, kind: FailureKind) -> list[MinedFailure]:
    """Spikes carry no label: what they say about the route is not known."""
    z = robust_z(night.units, column)
    return [
        _failure(
            row,
            kind,
            {"route": row.route, column: float(getattr(row, column)), "robust_z": round(float(z[int(row.at)]), 1)},
            to=None,
            weight=0.0,
        )
        for row in night.units[z > _SPIKE].itertuples()
    ]


def _token_spikes(night: _Night) -> list[MinedFailure]:
    return _spikes(night, "output_tokens", "token_spike")


def _latency_spikes(night: _Night) -> list[MinedFailure]:
    return _spikes(night, "duration_ms", "latency_spike")


def _unneeded_splits(night: _Night) -> list[MinedFailure]:
    """A split whose segments all belong to one route, as believed by now, or a disliked one to that beside it.

    A dislike alone says little: most are for a bad answer or for the wrong one of two routes that were both needed.
    """
    found = []
    disliked = set(night.votes.loc[(night.votes["value"] == "down") & ~night.votes["on_whole"], "at"])
    for _, parts in night.units[night.units["segment_count"] > 1].groupby("inference_id", sort=False):
        P = night.estimates.posteriors[parts["at"].to_numpy()].astype(np.float64)
        index = parts["segment_index"].tolist()
        together = P.prod(axis=0)
        chance, route, extra = float(together.sum()), None, {}
        if chance >= _LIKELY:
            route, unneeded = night.estimates.routes[int(together.argmax())], index[1:]
        else:
            extra = _extra_segments(P, [at in disliked for at in parts["at"]])
            unneeded = [index[start] for start, _ in extra.values()]
            chance = max((probable for _, probable in extra.values()), default=0.0)
        if not unneeded and route is None:
            continue
        evidence = {
            "routes": parts["route"].tolist(),
            "all_belong_to": route,
            "disliked_segments": [index[j] for j in extra],
            "unneeded_starts": unneeded,
            "probability": round(chance, 3),
        }
        found.append(_failure(next(parts.itertuples()), "unneeded_split", evidence, to=route, weight=chance))
    return found


def _extra_segments(P: npt.NDArray[np.float64], disliked: Sequence[bool]) -> dict[int, tuple[int, float]]:
    """The disliked segments that belong to the route of one beside them, probably.

    Args:
        P: (m, R) of the segments' routes.
        disliked: (m,) whether it was.

    Returns:
        By segment, which segment's start parts it from where it belongs, and how probable that is.
    """
    beside = (P[1:] * P[:-1]).sum(axis=1)
    odds = _DISLIKED * beside / np.maximum(1 - beside, 1e-9)
    found = {}
    for j in np.flatnonzero(disliked):
        start = max((i for i in (j, j + 1) if 0 < i < len(P)), key=lambda i: odds[i - 1])
        chance = float(odds[start - 1] / (1 + odds[start - 1]))
        if chance >= _LIKELY:
            found[int(j)] = (int(start), chance)
    return found


def _missed_splits(night: _Night, *, minutes: float) -> list[MinedFailure]:
    """Down on the whole; then a part of the same words went to another route and was liked."""
    down = set(night.votes.loc[night.votes["value"] == "down", "at"])
    liked = set(night.votes.loc[night.votes["value"] == "up", "at"])
    found = []
    wholes = night.units[(night.units["segment_count"] == 1) & night.units["session_id"].notna()]
    complained = wholes.loc[wholes["at"].isin(down), "session_id"]
    for row, then, part in asked_in_part(wholes[wholes["session_id"].isin(complained)], minutes=minutes):
        if row.at in down and then.at in liked and then.route != row.route:
            evidence = {
                "route": row.route,
                "part_asked_as": then.inference_id,
                "then_route": then.route,
                "part_start": part[0],
                "part_end": part[1],
            }
            found.append(_failure(row, "missed_split", evidence, to=str(then.route), weight=0.8))
    return found


def asked_in_part(units: pd.DataFrame, *, minutes: float) -> Iterator[tuple[Any, Any, tuple[int, int]]]:
    """Pairs of a unit and a later one of its session that asks a part of its words, with that part's characters.

    Within so many minutes, and among the next ones of the session: one session that is shared by all users must not
    make every question be compared with every other.
    """
    sessions: dict[str, list[tuple[Any, str]]] = {}
    for row in units[units["text"].notna()].itertuples():
        sessions.setdefault(str(row.session_id), []).append((row, lowered(str(row.text))))
    for session in sessions.values():
        for i, (row, whole) in enumerate(session):
            for then, part in session[i + 1 : i + 1 + _NEXT]:
                if (then.occurred_at - row.occurred_at).total_seconds() > minutes * 60:
                    break
                found = _part_of(whole, part)
                if found is not None:
                    yield row, then, found


def _part_of(whole: str, part: str) -> tuple[int, int] | None:
    """Where ``part`` starts and ends in ``whole``, None if it is not a proper part of its words; both in lower case."""
    words = part.strip(_MARKS)
    start = whole.find(words)
    proper = start >= 0 and 0 < len(words) < 0.9 * len(whole.strip(_MARKS))
    return (start, start + len(words)) if proper else None


def lowered(text: str) -> str:
    """The text in lower case with every character in its place: few languages have letters that would become two."""
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _cut_off(night: _Night) -> list[MinedFailure]:
    """This SLM is too verbose: its owner's matter, not the router's."""
    votes = night.votes
    rows = votes[(votes["value"] == "down") & (votes["finish_reason"] == "length")]
    return [
        _failure(
            row,
            "trace_budget_cutoff",
            {"route": row.route, "feedback_id": row.feedback_id, "output_tokens": _number(row.output_tokens)},
            to=None,
            weight=0.0,
        )
        for row in rows.itertuples()
    ]


def _number(value: object) -> float | None:
    return None if pd.isna(value) else float(value)  # type: ignore[arg-type]


def _abstained(night: _Night) -> list[MinedFailure]:
    found = []
    for row in night.units[night.units["cause"] == "abstained"].itertuples():
        to, chance = night.best_other(int(row.at), str(row.route))
        evidence = {"route": row.route, "likeliest_other": to, "its_probability": round(chance, 3) if to else None}
        found.append(_failure(row, "abstained", evidence, to=to if chance > 0.5 else None, weight=0.0))
    return found

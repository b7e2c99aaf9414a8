"""Simulated users: given which route was right and which one answered, how somebody reacts. Pure, given the dice."""

from dataclasses import dataclass

import numpy as np

from telemetry.records import Thumb


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How users behave, as probabilities.

    A wrong route always answers badly, the right one with ``bad_answer`` (``bad_route_rate`` where it is
    ``bad_route``). A share ``rated`` of the answers is voted on, ``flip`` of the honest votes are slips of the finger.
    After a good answer the question comes again with ``reask_good``, after a bad one with ``reask_bad``. A share
    ``poison_share`` of the votes comes from ``poison_users`` accounts whose every vote is a lie.
    """

    rated: float = 0.10
    flip: float = 0.10
    bad_answer: float = 0.10
    reask_good: float = 0.06
    reask_bad: float = 0.30
    bad_route: str | None = None
    bad_route_rate: float = 0.0
    users: int = 400
    poison_share: float = 0.0
    poison_users: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """What somebody made of an answer: whether it was good, the vote (if any), by whom, and whether they ask again."""

    good: bool
    thumb: Thumb | None
    voter: str
    asks_again: bool


def react(habits: Habits, *, user: str, route: str, right_route: str, rng: np.random.Generator) -> Reaction:
    """React to the answer of ``route`` to a question that belongs to ``right_route``.

    The dice are thrown in the same order whatever happened, so that runs which differ only in the router share them.
    """
    quality, voting, slip, again, liar, which = rng.random(6)
    bad = habits.bad_route_rate if route == habits.bad_route else habits.bad_answer
    good = route == right_route and quality >= bad
    if voting >= habits.rated:
        return Reaction(good=good, thumb=None, voter=user, asks_again=_asks_again(habits, good=good, chance=again))
    poisoned = liar < habits.poison_share
    voter = f"poisoner {int(which * habits.poison_users)}" if poisoned else user
    liked = route != right_route if poisoned else good != (slip < habits.flip)
    return Reaction(
        good=good,
        thumb="up" if liked else "down",
        voter=voter,
        asks_again=_asks_again(habits, good=good, chance=again),
    )


def _asks_again(habits: Habits, *, good: bool, chance: float) -> bool:
    return chance < (habits.reask_good if good else habits.reask_bad)

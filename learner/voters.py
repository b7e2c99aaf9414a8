"""Whose vote it is where nobody signed it, and how much such votes count together."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from learner.settings import LearnerSettings
from learner.window import Window

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# How well it is known who voted: not at all, by who asked, by name.
UNKNOWN, ASKED, SIGNED = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Voters:
    """Who stands behind each vote of a window (N,): a name, how well it is known, by which key and on which day.

    ``standing`` is UNKNOWN, ASKED or SIGNED; ``key`` numbers the API keys, ``day`` the days back from the watermark.
    """

    name: npt.NDArray[np.object_]
    standing: Ints
    key: Ints
    day: Ints


def askers(units: pd.DataFrame) -> "pd.Series[str]":
    """Who asked each unit: a person, else a session, else only that it was whoever asked this."""
    session = units["session_id"].where(units["session_id"].notna(), "asker of " + units["inference_id"].astype(str))
    return units["end_user"].where(units["end_user"].notna(), session).astype(str)


def find_voters(window: Window) -> Voters:
    """Return who voted: the submitter, else who asked, as with a feedback token.

    So whoever leaves out a name shares one cap with what they signed, and many votes on one answer are one person's.
    """
    votes = window.votes
    asked = window.units.drop_duplicates("inference_id").set_index("inference_id")
    asker = votes["inference_id"].map(pd.Series(askers(asked.reset_index()).to_numpy(), index=asked.index))
    known = votes["inference_id"].map(asked["end_user"].notna() | asked["session_id"].notna())
    signed = votes["submitter"].notna().to_numpy()
    key = votes["principal"] if "principal" in votes else pd.Series("", index=votes.index)
    age = (window.watermark - votes["received_at"]).dt.total_seconds().to_numpy()
    return Voters(
        name=votes["submitter"].where(signed, asker).astype(str).to_numpy(dtype=object),
        standing=np.where(signed, SIGNED, np.where(known.to_numpy(dtype=bool), ASKED, UNKNOWN)),
        key=pd.factorize(key, use_na_sentinel=False)[0].astype(np.int64),
        day=(age // 86400).astype(np.int64),
    )


def limit_unsigned(
    weight: Floats, *, user: Ints, standing: Ints, key: Ints, day: Ints, settings: LearnerSettings
) -> Floats:
    """Where people sign their votes, those that nobody signed weigh little together.

    Of one key and day the unsigned weigh at most max(share x signed, (1 - known / enough) x unsigned), where ``known``
    counts the different people that have signed by that key up to that day: where nobody signs, all count in full, and
    no flood of unsigned votes changes that. The same holds of votes of which nothing is known against all others.

    Args:
        weight: (V,) of the votes, each person's capped already.
        user: (V,) numbers of people.
        standing: (V,) UNKNOWN, ASKED or SIGNED.
        key: (V,) numbers of API keys.
        day: (V,) days back from the watermark.
        settings: ``unsigned_share`` and ``signing_users``.
    """
    crowds, crowd = np.unique(np.stack([key, day], axis=1), axis=0, return_inverse=True)
    crowd = crowd.ravel()
    for level in (UNKNOWN, ASKED):
        lesser, better = standing == level, standing > level
        if not lesser.any() or not better.any():
            continue
        total = np.bincount(crowd[lesser], weights=weight[lesser], minlength=len(crowds))
        over = np.bincount(crowd[better], weights=weight[better], minlength=len(crowds))
        known = _known_people(crowds, user[better], key[better], day[better])
        most = np.maximum(settings.unsigned_share * over, np.maximum(1 - known / settings.signing_users, 0.0) * total)
        share = np.minimum(1.0, most / np.maximum(total, 1e-9))
        weight = np.where(lesser, weight * share[crowd], weight)
    return weight


def _known_people(crowds: Ints, user: Ints, key: Ints, day: Ints) -> Ints:
    """How many different people had voted by each crowd's key up to its day; ``crowds`` are (key, day)."""
    first = pd.DataFrame({"key": key, "user": user, "day": day}).groupby(["key", "user"])["day"].max()
    since = {k: np.sort(days.to_numpy()) for k, days in first.groupby("key")}
    nobody = np.zeros(0, np.int64)
    counts = [len(s := since.get(k, nobody)) - int(np.searchsorted(s, d)) for k, d in crowds.tolist()]
    return np.array(counts, dtype=np.int64)

"""Is the canary worse? Tests that may be looked at after every vote and may stop at any time. Pure.

Only questions that the two versions would send differently can tell them apart: on all others both do the same, so
their difference is zero and they are left out, which takes most of the noise along. What is judged is paired in the
order of arrival; the thin arm's one judgement stands against the mean of what the other arm brought meanwhile, so
nothing is thrown away and every difference is bounded by -1 and 1 whatever the shares are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Shares of the boldest bet. Betting all of them at once loses at most log(5) on the best of them.
_BETS = np.array([0.08, 0.2, 0.4, 0.65, 0.9])


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """n judged questions in the order of arrival, one a session at most, so that they are independent.

    ``value`` (n,) is 0..1, how well it went; ``canary`` (n,) which arm answered; ``apart`` (n,) whether the two
    versions choose differently; ``routes`` (n,) the routes that either of them chooses.
    """

    value: Floats
    canary: Flags
    apart: Flags
    routes: Sequence[frozenset[str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one test found: ``evidence`` is the largest K so far; ``worse`` once it reached ``needed`` (= 1 / alpha).

    ``judged`` counts the canary's judgements up to the alarm (or all), ``pairs`` those of them that were compared;
    ``difference`` is the mean of the pairs, canary minus control, among questions the versions send differently.
    ``at`` is the row of ``Judged`` that gave the alarm.
    """

    name: str
    worse: bool
    evidence: float
    needed: float
    judged: int
    pairs: int
    difference: float
    at: int | None


def find_worse(judged: Judged, *, name: str, margin: float, alpha: float, rows: Flags | None = None) -> Finding:
    """Test whether the canary loses more than ``margin`` (0..1, over all questions in ``rows``).

    K_T = prod_t (1 - lambda_t (d_t + m_t)) is a nonnegative supermartingale when the canary does not lose more than
    the margin, so P(sup K >= 1/alpha) <= alpha (Ville 1939; Waudby-Smith and Ramdas 2024). d_t is taken among the
    questions apart, hence m_t = margin / share apart so far. lambda_t is the mean of fixed bets weighted by what each
    has won so far: predictable, and never far behind the best of them.
    """
    kept = np.ones(len(judged.value), bool) if rows is None else rows
    difference, at, share = pair_up(judged, rows=kept)
    wealth = e_process(difference, margin=margin / np.maximum(share, margin))
    reached = np.flatnonzero(wealth >= 1 / alpha)
    pairs = int(reached[0]) + 1 if len(reached) else len(difference)
    end = int(at[reached[0]]) if len(reached) else None
    seen = kept & judged.canary & (np.arange(len(kept)) <= (len(kept) if end is None else end))
    return Finding(
        name=name,
        worse=end is not None,
        evidence=float(wealth[:pairs].max(initial=1.0)),
        needed=1 / alpha,
        judged=int(seen.sum()),
        pairs=pairs,
        difference=float(difference[:pairs].mean()) if pairs else 0.0,
        at=end,
    )


def e_process(difference: npt.ArrayLike, *, margin: npt.ArrayLike) -> Floats:
    """Wealth K after each difference (T,) in [-1, 1], starting from one; ``margin`` (T,) or one number, >= 0."""
    d = np.asarray(difference, dtype=np.float64)
    m = np.broadcast_to(np.asarray(margin, dtype=np.float64), d.shape)
    won = np.cumsum(np.log1p(-_BETS[:, None] * (d + m) / (1 + m)), axis=1)
    wealth: Floats = np.exp(won).mean(axis=0)
    return wealth


def pair_up(judged: Judged, *, rows: Flags) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    """Differences canary minus control of the questions apart, the row that closed each, the share apart before it."""
    waiting: dict[bool, list[float]] = {True: [], False: []}
    found: list[tuple[float, int, float]] = []
    apart = seen = 0
    for row in np.flatnonzero(rows):
        share = (apart + 1) / (seen + 1)  # of what came before, so that the bet is made before the outcome is known
        apart, seen = apart + int(judged.apart[row]), seen + 1
        if not judged.apart[row]:
            continue
        waiting[bool(judged.canary[row])].append(float(judged.value[row]))
        if waiting[True] and waiting[False]:
            found.append((float(np.mean(waiting[True]) - np.mean(waiting[False])), int(row), share))
            waiting = {True: [], False: []}
    difference, at, shares = zip(*found, strict=True) if found else ((), (), ())
    return np.array(difference, np.float64), np.array(at, np.int64), np.array(shares, np.float64)


def find_worse_anywhere(
    judged: Judged, *, routes: Sequence[str], margin: float, route_margin: float, alpha: float
) -> list[Finding]:
    """Test all questions at alpha/2, and each route's (those that either version sends there) at alpha/2 over routes.

    Together they raise a false alarm with probability alpha at most, whatever depends on what (union bound).
    """
    found = [find_worse(judged, name="all", margin=margin, alpha=alpha / 2)]
    for route in routes:
        rows = np.array([route in touched for touched in judged.routes], dtype=bool)
        found.append(find_worse(judged, name=route, margin=route_margin, alpha=alpha / 2 / len(routes), rows=rows))
    return found

"""What can be won back after a change: ``python -m benchmarks.drift_bound``.

The votes of ``feedback_loop --drift-intents`` are put before somebody who knows what no learner knows: the intent of
each question, every rate of the users, and that all routes were right before. ``told`` also knows the night of the
change and how many intents move; ``untold`` expects a share of them to move each night. Both reckon by Bayes' rule,
learn at night, send what explores where they doubt most, and whoever asks again to the next best route. Intents that
did not move and are taken for moved count against them. ``feedback_loop``'s ``drift_won_back`` counts what is learned
of everything else in those nights too, and these do not: they had nothing to learn.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from api.demo.simulated_users import Habits
from benchmarks.feedback_house import MOST_ATTEMPTS
from benchmarks.feedback_world import add_user_arguments, user_habits
from benchmarks.report import BenchmarkReport, Row

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_TINY = 1e-12


def react_all(
    habits: Habits, right: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Votes (1 up, 0 down, -1 none) and whether they ask again, for many answers of the right route or another."""
    good = right & (rng.random(len(right)) >= habits.bad_answer)
    up = good ^ (rng.random(len(right)) < habits.flip)
    voted = rng.random(len(right)) < habits.rated
    again = rng.random(len(right)) < np.where(good, habits.reask_good, habits.reask_bad)
    return np.where(voted, up.astype(np.int64), -1), again


def likelihood(habits: Habits, vote: Ints, again: npt.NDArray[np.bool_], *, right: bool) -> Floats:
    """Probability of what was seen, up to what does not depend on the route."""
    found = np.zeros(len(vote))
    for good, chance in ((True, 1 - habits.bad_answer), (False, habits.bad_answer)) if right else ((False, 1.0),):
        ups = 1 - habits.flip if good else habits.flip
        asks = habits.reask_good if good else habits.reask_bad
        said = np.select([vote == 1, vote == 0], [ups, 1 - ups], 1.0)
        found += chance * said * np.where(again, asks, 1 - asks)
    return found


class Reckoner:
    """Beliefs over (n intents, R routes); route 0 was every intent's before.

    Args:
        chance: that an intent moves: on the one night (told), or each night (untold).
    """

    def __init__(self, *, intents: int, routes: int, chance: float, told: bool) -> None:
        self._chance = chance
        belief = np.full((intents, routes), (chance if told else _TINY) / (routes - 1))
        belief[:, 0] = 1 - belief[:, 1:].sum(axis=1)
        self._log = np.log(belief)

    @property
    def belief(self) -> Floats:
        """Probability of each route, (n, R)."""
        P = np.exp(self._log - self._log.max(axis=1, keepdims=True))
        return np.asarray(P / P.sum(axis=1, keepdims=True))

    def expect_change(self) -> None:
        """Anything may have moved since."""
        P = self.belief
        others = (1 - P) / (P.shape[1] - 1)
        self._log = np.log((1 - self._chance) * P + self._chance * others)

    def live(self, truth: Ints, *, asked: Ints, habits: Habits, explore: float, rng: np.random.Generator) -> None:
        """One day: each intent is asked so often (n,); what came of it counts from tomorrow on."""
        P, learned = self.belief, self._log.copy()
        best, doubt = P.argmax(axis=1), 1 - P.max(axis=1)
        explores = np.minimum(explore * doubt / max(float(doubt.mean()), _TINY), 1)
        for question in range(int(asked.max())):
            rows, tried = np.flatnonzero(asked > question), np.zeros(P.shape, bool)
            for attempt in range(MOST_ATTEMPTS):
                open_ = np.where(tried[rows], 0, P[rows] + _TINY)
                route = open_.argmax(axis=1)
                if attempt == 0 and len(rows):
                    elsewhere = np.flatnonzero(rng.random(len(rows)) < explores[rows])
                    open_[elsewhere, best[rows[elsewhere]]] = 0
                    route[elsewhere] = _drawn(open_[elsewhere], rng)
                tried[rows, route] = True
                vote, again = react_all(habits, route == truth[rows], rng)
                right, wrong = (np.log(likelihood(habits, vote, again, right=is_right)) for is_right in (True, False))
                learned[rows] += wrong[:, None]
                learned[rows, route] += right - wrong
                rows = rows[again]
        self._log = learned


def _drawn(weights: Floats, rng: np.random.Generator) -> Ints:
    """One column for each row, with probability in proportion to weights (n, R)."""
    shares = weights.cumsum(axis=1) / weights.sum(axis=1, keepdims=True)
    return np.asarray(np.minimum((shares < rng.random((len(weights), 1))).sum(axis=1), weights.shape[1] - 1))


def won_back(options: argparse.Namespace, *, told: bool, rng: np.random.Generator) -> dict[str, float]:
    """The share of what the change costs that is back after each night."""
    share = options.drift_intents / options.intents
    habits = user_habits(options)
    before = np.zeros(options.simulated, np.int64)
    moved = rng.random(options.simulated) < share
    truth = np.where(moved, rng.integers(1, options.routes, options.simulated), 0)
    reckoner = Reckoner(
        intents=options.simulated, routes=options.routes, chance=share if told else options.hazard, told=told
    )
    found = {}
    for night in range(0 if told else -options.nights_before, options.nights):
        if not told:
            reckoner.expect_change()
        asked = rng.poisson(options.per_night / options.intents, options.simulated)
        now = truth if night >= 0 else before
        reckoner.live(now, asked=asked, habits=habits, explore=options.explore, rng=rng)
        if night >= 0:
            wrong = (reckoner.belief.argmax(axis=1) != truth).mean()
            found[f"won_back_{night + 1}"] = float(1 - wrong / max(moved.mean(), _TINY))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Simulate both, print the table and write the figures."""
    options = _parser().parse_args(arguments)
    rows = [
        Row(name=name, repeat=seed, metrics=won_back(options, told=told, rng=np.random.default_rng([seed, told])))
        for seed in range(options.repeats)
        for name, told in (("told", True), ("untold", False))
    ]
    report = BenchmarkReport(benchmark="drift_bound", args=vars(options), rows=rows)
    if options.json:
        report.write_json(options.json)
    report.print_table()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--intents", type=int, default=150)
    add("--drift-intents", type=int, default=20, help="how many of them move")
    add("--routes", type=int, default=10)
    add("--nights", type=int, default=5, help="nights after the change")
    add("--nights-before", type=int, default=8, help="nights before it, where the night of the change is not told")
    add_user_arguments(parser)
    add("--hazard", type=float, default=0.02, help="share of the intents that are expected to move each night (untold)")
    add("--simulated", type=int, default=20_000, help="intents that are simulated, each by itself")
    add("--repeats", type=int, default=3)
    add("--json", type=Path, help="write raw figures and summary")
    return parser


if __name__ == "__main__":
    main()

"""Settings of the learner: every one has a default that a user need not touch and one line that explains it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any


class WrongLearnerSetting(ValueError):
    """A setting of the learner cannot be used."""


def _setting(default: float | int, explanation: str) -> Any:
    return field(default=default, metadata={"explanation": explanation})


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """What a night goes by. The report prints all of it; ``explanations`` gives the lines in words."""

    # How many centroids and where they lie
    questions_per_centroid: int = _setting(10, "one centroid for so many questions of the window")
    fewest_centroids: int = _setting(20, "never fewer centroids than this, if there are as many questions")
    most_centroids: int = _setting(300, "never more centroids than this, or than three for each route")
    cluster_steps: int = _setting(8, "k-means steps of each clustering that is averaged")
    lloyd_steps: int = _setting(5, "spherical k-means steps a night")
    beta: float = _setting(
        40.0, "how sharply a query prefers its nearest centroids (inverse temperature of the cosine)"
    )
    neighbours: int = _setting(8, "how many of the nearest centroids speak for a query")
    anchor_mass: float = _setting(20.0, "questions that yesterday's position of a centroid is worth")
    most_degrees: float = _setting(15.0, "how far a centroid may turn in one night, in degrees")

    # Who owns them
    seed_sharpness: float = _setting(10.0, "sharpness of the first guess from the routes' examples")
    seed_weight: float = _setting(2.0, "votes that the first guess from the examples is worth")
    draws: int = _setting(4, "clusterings that are averaged")
    coarse_clusters: int = _setting(150, "coarse clusters at most, from which the fine ones start")
    coarse_weight: float = _setting(0.5, "votes that the coarse clusters' owner is worth to a fine one")
    purity: float = _setting(0.9, "chance that a question belongs where its centroid does")
    hazard: float = _setting(0.001, "chance a day that a centroid's questions move to another route")
    hazard_mass: float = _setting(1.0, "how firmly that chance is held against what the days show")
    em_rounds: int = _setting(10, "rounds of estimating owners, truth, rates and reliability in turn")
    example_confidence: float = _setting(0.95, "chance that an operator's example is filed under the right route")
    correction_confidence: float = _setting(0.95, "chance that a user's correction names the right route")
    flip_odds: float = _setting(
        3.0, "odds at which a centroid must belong to another route than its old owner's for that to lose it"
    )
    flip_users: int = _setting(3, "distinct users that must speak for a new owner of a centroid")
    most_churn: float = _setting(0.10, "share of last week's queries that may change route in one night")
    most_route_churn: float = _setting(0.20, "the same within one route")
    churn_days: float = _setting(7.0, "days of queries on which the change of routes is measured")
    reask_floor: float = _setting(0.0005, "probability from which another route is tried when a question comes again")
    explore_share: float = _setting(0.02, "share of the queries that explore; more of the doubtful ones")
    most_explore_kappa: float = _setting(2.0, "the most readily that a doubtful query explores")

    # Whom to believe
    votes_per_user: float = _setting(3.0, "a user's votes count fully up to this number; more share it")
    unsigned_share: float = _setting(0.1, "where people sign their votes: what unsigned ones weigh to all signed ones")
    signing_users: int = _setting(
        20, "different people that sign their votes by one key until unsigned ones are limited"
    )
    follow_up_minutes: float = _setting(30.0, "a question asked again in the same session within this time is a re-ask")
    orphan_days: float = _setting(1.0, "days that feedback waits for its inference before it is listed as orphaned")
    reask_similarity: float = _setting(0.92, "cosine from which two questions of a session are the same question")
    prior_success: float = _setting(0.8, "chance that the right route's answer pleases, before any vote")
    prior_wrong_route_success: float = _setting(0.15, "chance that a wrong route's answer pleases, before any vote")
    prior_reask_right: float = _setting(0.08, "chance that a rightly routed question comes again, before any did")
    prior_reask_wrong: float = _setting(0.25, "chance that a wrongly routed question comes again, before any did")
    prior_votes: float = _setting(10.0, "votes or answers that each of these four guesses is worth")

    # What is read, and when a version is good enough
    most_hours: float = _setting(6.0, "hours after which a night is given up, and the next one may begin")
    window_days: float = _setting(90.0, "days of telemetry that a night reads")
    folds: int = _setting(5, "parts for cross-fitting: each is judged by a candidate that never saw it")
    gate_level: float = _setting(0.9, "confidence of the gate's bounds")
    most_loss_points: float = _setting(1.0, "points of accuracy that a version may lose at worst, at that confidence")
    tilt_spread: float = _setting(2.0, "log odds by which the belief may be wrong where the versions disagree")
    value_spread: float = _setting(0.05, "in a fleet of models, by how much the expected gain may be wrong")
    recent_questions: int = _setting(1000, "the evaluation's half-life is never less than the age of so many questions")
    least_evidence: float = _setting(15.0, "votes' worth of evidence needed where the versions disagree")
    large_change: float = _setting(0.05, "share of the queries that change from which on all of that is needed")
    least_route_evidence: float = _setting(15.0, "votes' worth of evidence without which a large route stays as it is")
    most_route_loss_points: float = _setting(5.0, "points that one route may lose before it stays as it is")
    most_dearer: float = _setting(0.05, "share by which expected cost or latency may rise")
    largest_share: float = _setting(0.8, "share of the queries that one route may get")
    evidence_half_life_days: float = _setting(3.0, "days after which evidence counts half in the evaluation")
    splitter_examples: int = _setting(1600, "questions put together each night to train the splitter; 0: leave it")
    splitter_judged: int = _setting(200, "queries of each kind on which a new splitter is judged beside the old one")
    most_split_loss_points: float = _setting(4.0, "points of a kind's queries that it may cut worse; half in routes")
    seed: int = _setting(0, "of everything random in a night; the same seed gives the same version")

    @classmethod
    def with_overrides(cls, given: Mapping[str, str]) -> "LearnerSettings":
        """Return the defaults with ``given`` (texts by name) instead.

        Raises:
            WrongLearnerSetting: a name is unknown, or a value is not a number or out of its range.
        """
        kinds: dict[str, Callable[[str], float | int]] = {s.name: type(s.default) for s in fields(cls)}  # type: ignore[misc]
        values: dict[str, Any] = {}
        for name, text in given.items():
            if name.lower() not in kinds:
                raise WrongLearnerSetting(f"TRIMTAB_LEARNER__{name.upper()} is not a setting of the learner.")
            try:
                values[name.lower()] = kinds[name.lower()](text)
            except ValueError:
                raise WrongLearnerSetting(f"TRIMTAB_LEARNER__{name.upper()} must be a number.") from None
            if wrong := _out_of_range(name.lower(), values[name.lower()]):
                raise WrongLearnerSetting(f"TRIMTAB_LEARNER__{name.upper()} must be {wrong}.")
        return cls(**values)

    @classmethod
    def explanations(cls) -> dict[str, str]:
        """One line for each setting, by name."""
        return {setting.name: _explanation(setting) for setting in fields(cls)}


_SHARES = frozenset(
    (
        *("most_churn", "most_route_churn", "reask_floor", "explore_share"),
        *("reask_similarity", "largest_share", "large_change"),
    )
)
_CHANCES = frozenset(  # certain ones leave nothing to learn: their odds are infinite
    ("purity", "hazard", "example_confidence", "correction_confidence", "gate_level")
)
_PRIORS = frozenset(("prior_success", "prior_wrong_route_success", "prior_reask_right", "prior_reask_wrong"))
_MAY_BE_NONE = frozenset(("splitter_examples", "seed"))
_FEWEST = {"folds": 2}


def _out_of_range(name: str, value: float | int) -> str | None:
    """What the value must be, where it is something else."""
    if name in _CHANCES | _PRIORS:
        return None if 0 < value < 1 else "more than 0 and less than 1"
    if name in _SHARES:
        return None if 0 <= value <= 1 else "between 0 and 1"
    if isinstance(value, int):
        least = 0 if name in _MAY_BE_NONE else _FEWEST.get(name, 1)
        return None if value >= least else f"at least {least}"
    return None if 0 <= value < math.inf else "a number that is not negative"


def _explanation(setting: "Field[Any]") -> str:
    return str(setting.metadata["explanation"])

"""Settings of the learner: every one has a default that a user need not touch and one line that explains it."""

from dataclasses import Field, dataclass, field, fields
from typing import Any


def _setting(default: float | int, explanation: str) -> Any:
    return field(default=default, metadata={"explanation": explanation})


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """What a night goes by. The report prints all of it; ``explanations`` gives the lines in words."""

    # How many centroids and where they lie
    questions_per_centroid: int = _setting(10, "one centroid for so many questions of the window")
    fewest_centroids: int = _setting(20, "never fewer centroids than this, if there are as many questions")
    most_centroids: int = _setting(300, "never more centroids than this, or than three for each route")
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
    neighbour_weight: float = _setting(0.2, "weight of the neighbouring centroids' owners")
    em_rounds: int = _setting(4, "rounds of estimating truth, owners and rates in turn")
    example_confidence: float = _setting(0.95, "chance that an operator's example is filed under the right route")
    correction_confidence: float = _setting(0.95, "chance that a user's correction names the right route")
    flip_odds: float = _setting(3.0, "odds that a centroid's new owner needs over the old one")
    flip_users: int = _setting(3, "distinct users that must speak for a new owner of a centroid")
    most_churn: float = _setting(0.10, "share of last week's queries that may change route in one night")
    most_route_churn: float = _setting(0.20, "the same within one route")
    churn_days: float = _setting(7.0, "days of queries on which the change of routes is measured")

    # Whom to believe
    votes_per_user: float = _setting(3.0, "a user's votes count fully up to this number; more share it")
    follow_up_minutes: float = _setting(30.0, "a question asked again in the same session within this time is a re-ask")
    reask_similarity: float = _setting(0.92, "cosine from which two questions of a session are the same question")
    prior_success: float = _setting(0.8, "chance that the right route's answer pleases, before any vote")
    prior_wrong_route_success: float = _setting(0.15, "chance that a wrong route's answer pleases, before any vote")
    prior_votes: float = _setting(10.0, "votes that these two guesses are worth")

    @classmethod
    def explanations(cls) -> dict[str, str]:
        """One line for each setting, by name."""
        return {setting.name: _explanation(setting) for setting in fields(cls)}


def _explanation(setting: "Field[Any]") -> str:
    return str(setting.metadata["explanation"])

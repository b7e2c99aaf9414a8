"""What ``benchmarks.feedback_loop`` measures: courses of accuracy by night, the ceiling, the figures of one repeat."""

from argparse import Namespace
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from benchmarks.feedback_house import House
from benchmarks.feedback_world import Ints, World
from benchmarks.peers import nearest_labelled, route_centroids
from benchmarks.report import peak_mib

DRIFT_AFTER = 8
RECOVERY_NIGHTS = 5


@dataclass(slots=True)
class Course:
    """One contender's accuracy on the scored questions, before the first night and after each, and the recalls."""

    accuracy: list[float] = field(default_factory=list)
    recall: list[npt.NDArray[np.float64]] = field(default_factory=list)
    after_drift: float | None = None

    def add(self, chosen: Ints, label: Ints, *, routes: int) -> None:
        """Score one more night; a route that no scored question belongs to has no recall."""
        right = chosen == label
        asked = np.bincount(label, minlength=routes)
        self.accuracy.append(float(right.mean()))
        recall = np.bincount(label, weights=right, minlength=routes) / np.maximum(asked, 1)
        self.recall.append(np.where(asked > 0, recall, np.nan))


@dataclass(frozen=True, slots=True, kw_only=True)
class Nights:
    """How the nights went: ``published`` (nights,) and ``seconds`` (nights,)."""

    published: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def full_information(world: World, rows: Ints) -> float:
    """Accuracy with the true route of every question of the stream known: the better of two ways to use them.

    30 centroids a route, or the five nearest. No learner from votes is told as much.
    """
    X, label = world.X[rows], world.label[rows]
    ways = (
        route_centroids(X, label, routes=len(world.routes), each=30),
        nearest_labelled(X, label, routes=len(world.routes), k=5),
    )
    return max(float(np.mean(predict(world.X[world.score]) == world.label[world.score])) for predict in ways)


def out_of_scope_auroc(house: House, world: World) -> float | None:
    """How well the best cosine tells questions of the fleet from alien ones; None where the file has none."""
    if len(world.alien) == 0:
        return None
    rows = np.concatenate([world.score, world.alien])
    best = house.router.index.posterior(world.X[rows])[1]
    return float(roc_auc_score(np.arange(len(rows)) < len(world.score), best))


def bad_route(options: Namespace, world: World) -> str:
    """The route whose SLM answers badly: the one named, else the second by name."""
    return str(options.bad_route or world.routes[1 % len(world.routes)])


def course_metrics(course: Course, world: World, options: Namespace, *, full: float) -> dict[str, float]:
    """The figures that every contender has."""
    accuracy = course.accuracy
    found = {f"accuracy_night_{night}": value for night, value in enumerate(accuracy)}
    found |= {"accuracy_last": accuracy[-1], "worst_route_recall": float(np.nanmin(course.recall[-1]))}
    found["worst_step"] = float(np.diff(accuracy).min())
    if options.bad_route_rate:
        found["bad_route_recall"] = float(course.recall[-1][world.routes.index(bad_route(options, world))])
    if not options.drift_intents:
        found["gap_recovered"] = (accuracy[-1] - accuracy[0]) / max(full - accuracy[0], 1e-9)
    if course.after_drift is not None:
        before, recovered = accuracy[DRIFT_AFTER], accuracy[min(DRIFT_AFTER + RECOVERY_NIGHTS, len(accuracy) - 1)]
        found["drift_won_back"] = (recovered - course.after_drift) / max(before - course.after_drift, 1e-9)
        found["accuracy_after_drift"] = course.after_drift
    return found


def house_metrics(course: Course, house: House, nights: Nights, *, auroc: float | None) -> dict[str, float]:
    """The figures that only the real loop has; its worst step is that of a published night."""
    published = np.array(nights.published, dtype=bool)
    steps = np.diff(course.accuracy)
    if course.after_drift is not None:  # what the world did to it is not the night's step
        steps[DRIFT_AFTER] = course.accuracy[DRIFT_AFTER + 1] - course.after_drift
    steps = steps[published]
    found = {"worst_step": float(steps.min()) if len(steps) else 0.0}
    found["online_accuracy"] = float(np.mean(house.right))
    if auroc is not None:
        found["oos_auroc"] = auroc
    found |= {"published": float(published.sum()), "held": float((~published).sum())}
    found["night_seconds"] = float(nights.seconds[-1])
    found["peak_mib"] = peak_mib()
    return found

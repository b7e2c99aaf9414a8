"""A new splitter in the version that serves: what users taught about splits need not wait for the centroids."""

from dataclasses import dataclass, replace

from learner.conditions import GateDecision
from learner.learn import HeldCentroids
from learner.settings import LearnerSettings
from learner.splitter_gate import decide_splitter_gate
from learner.splitter_night import NightSplitter
from router.version import RouterVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitterAlone:
    """The incumbent with the new splitter, its centroids where they were, and what the gate says of it."""

    candidate: RouterVersion
    learned: HeldCentroids
    gate: GateDecision


def splitter_alone(
    incumbent: RouterVersion, splitter: NightSplitter, learned: HeldCentroids, *, settings: LearnerSettings
) -> SplitterAlone | None:
    """Put the new splitter into the incumbent if it passes the gate by itself, else None.

    Args:
        incumbent: what serves.
        splitter: that was trained tonight.
        learned: what was learned of the routes, and held.
        settings: what the night goes by.
    """
    if not splitter.taken:
        return None
    gate = decide_splitter_gate(splitter.judged, mined=splitter.mined, people=splitter.people, settings=settings)
    if gate.verdict == "held":
        return None
    # The training window stays: these centroids have learned from nothing later than before.
    training = {**incumbent.training, "parent": str(incumbent.number)}
    return SplitterAlone(
        candidate=replace(incumbent, splitter=splitter.arrays, training=training, number=0, fingerprint=""),
        learned=replace(
            learned,
            centroids=incumbent.centroids,
            parameters=incumbent.parameters,
            churn=0.0,
            step=0.0,
            flips=0,
        ),
        gate=gate,
    )

"""Forgetting erased people: a version that may know them is not built upon, the next one is learned anew."""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Engine

from learner.conditions import GateDecision
from learner.first_version import FleetEncoder, build_first_version
from learner.settings import LearnerSettings
from router.version import RouterVersion
from telemetry.erasure import last_erasure

# To be no worse is enough for a version whose purpose is to forget.
_WAIVED = ("better", "enough_evidence")


def may_know_the_erased(version: RouterVersion, *, erased_at: datetime | None) -> bool:
    """Tell whether something that ``version`` learned was read before the last erasure (None: there was none).

    What a version says of its training is taken as it stands: the watermark of its night, or of the version that a
    changed fleet was applied to. One that was made from the fleet alone knows nobody.
    """
    if erased_at is None:
        return False
    read = version.learned_until
    return "learned_by" in version.training if read is None else read <= erased_at


def starting_point(
    engine: Engine, incumbent: RouterVersion, *, encoder: FleetEncoder, settings: LearnerSettings
) -> RouterVersion:
    """Return what the night starts from: the incumbent, or the fleet alone where the incumbent may know the erased.

    Centroids, owners, parameters and the splitter's weights all go on from the night before; so all of them start anew.
    """
    with engine.connect() as conn:
        erased_at = last_erasure(conn)
    if not may_know_the_erased(incumbent, erased_at=erased_at):
        return incumbent
    fresh = build_first_version(incumbent.fleet, encoder=encoder, seed=settings.seed, settings=settings)
    return replace(fresh, number=incumbent.number, training=incumbent.training)


def forgiving(gate: GateDecision) -> GateDecision:
    """The gate for a version that forgets: everything but being better, and the evidence that being better takes."""
    kept = tuple(condition for condition in gate.conditions if condition.name not in _WAIVED)
    missing = tuple(condition.sentence for condition in kept if not condition.passed)
    return GateDecision(verdict="held" if missing else "published", conditions=kept, missing=missing)

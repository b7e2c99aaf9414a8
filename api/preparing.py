"""Before serving: a first version where there is none, and a changed fleet applied to the one that serves."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from router.activations import StaleActivation, fleet_taken_back, lock_activations, newest_seq
from router.artifact import DamagedArtifact
from router.encoder import Encoder
from router.fleet import Fleet, fleet_fingerprint
from router.plan import read_plan
from router.registry import active, load, publish
from router.version import RouterVersion

if TYPE_CHECKING:
    from learner.settings import LearnerSettings

Announce = Callable[[str], None]


def prepare_versions(
    engine: Engine,
    fleet: Fleet,
    *,
    only_first: bool,
    encoder: Encoder,
    actor: str,
    announce: Announce,
    settings: "LearnerSettings | None" = None,
) -> int:
    """Make sure that a version of this fleet serves, and return its number.

    Version 1 is built from the fleet alone. A fleet that differs from the serving version's is applied to it: routes
    that stay keep what they learned. One that somebody rolled back from is not applied again by a restart, nor is any
    while a person pins the version that serves; and what comes to serve while this works is built upon, not undone.
    Imports the learner, and with it torch: run it in a process of its own.

    Args:
        engine: of the migrated database.
        fleet: as the operator wrote it.
        only_first: leave a version that serves as it is; so for the sample fleet, which nobody chose.
        encoder: that the version is for.
        actor: who is written into the history.
        announce: told what is done.
        settings: the learner's, which the versions start from; its defaults when left out.
    """
    while True:
        with engine.connect() as conn:
            seq = newest_seq(conn)
            activation = active(conn)
            try:
                current = load(conn, activation.version) if activation else None
            except (
                DamagedArtifact
            ) as error:  # serving goes on with the last good one; which to go back to is a person's say
                announce(f"{error} Go back to another version with trimtab rollback --reason ...")
                return activation.version if activation else 0
        if current is not None and (only_first or current.fleet == fleet or _held(engine, fleet, announce)):
            return current.number
        version, reason = _build(current, fleet, encoder=encoder, announce=announce, settings=settings)
        try:
            with engine.begin() as conn:
                lock_activations(conn, if_seq=seq)
                parent = current.number if current else None
                number = publish(conn, version, actor=actor, reason=reason, parent=parent).number
        except StaleActivation:  # a night, a person or another server came first: what they made must not be undone
            announce("Another version came to serve meanwhile; the fleet is looked at again on top of it.")
            continue
        announce(f"Version {number} is published.")
        return number


def _build(
    current: RouterVersion | None,
    fleet: Fleet,
    *,
    encoder: Encoder,
    announce: Announce,
    settings: "LearnerSettings | None",
) -> tuple[RouterVersion, str]:
    """The version of this fleet, made from the one that serves where there is one, and why it comes."""
    from learner.changed_fleet import apply_fleet
    from learner.first_version import build_first_version

    if current is None:
        announce(f"Building the first version from the fleet ({len(fleet.routes)} routes) ...")
        return build_first_version(fleet, encoder=encoder, settings=settings), "built from the fleet"
    added = sorted(set(fleet.names) - set(current.fleet.names))
    removed = sorted(set(current.fleet.names) - set(fleet.names))
    changes = [f"+{name}" for name in added] + [f"-{name}" for name in removed]
    reason = f"fleet changed: {', '.join(changes) or 'same routes, other details'}"
    announce(f"Applying the fleet to version {current.number}; {reason} ...")
    return apply_fleet(current, fleet, encoder=encoder, settings=settings), reason


def _held(engine: Engine, fleet: Fleet, announce: Announce) -> bool:
    """Whether a person's word stands against applying this fleet: a pin, or a rollback from it."""
    with engine.connect() as conn:
        plan = read_plan(conn)
        left = fleet_taken_back(conn, fleet_fingerprint(fleet))
    if plan is not None and plan.pinned:
        announce(
            f"The fleet file has changed, but {plan.main.actor} pinned version {plan.main.version}, so its fleet goes"
            " on. End the pin with trimtab unpin, then start again."
        )
        return True
    if left is not None:
        announce(
            f"The fleet file is the one that {left.actor} rolled back from; version {left.version}'s fleet goes on."
            " Change the file, or trimtab activate the version that had it."
        )
    return left is not None

"""Before serving: a first version where there is none, and a changed fleet applied to the one that serves."""

from collections.abc import Callable

from sqlalchemy import Engine

from router.activations import fleet_taken_back
from router.artifact import DamagedArtifact
from router.encoder import Encoder
from router.fleet import Fleet, fleet_fingerprint
from router.registry import active, load, publish

Announce = Callable[[str], None]


def prepare_versions(
    engine: Engine, fleet: Fleet, *, only_first: bool, encoder: Encoder, actor: str, announce: Announce
) -> int:
    """Make sure that a version of this fleet serves, and return its number.

    Version 1 is built from the fleet alone. A fleet that differs from the serving version's is applied to it: routes
    that stay keep what they learned. One that somebody rolled back from is not applied again by a restart. Imports the
    learner, and with it torch: run it in a process of its own.

    Args:
        engine: of the migrated database.
        fleet: as the operator wrote it.
        only_first: leave a version that serves as it is; so for the sample fleet, which nobody chose.
        encoder: that the version is for.
        actor: who is written into the history.
        announce: told what is done.
    """
    from learner.changed_fleet import apply_fleet
    from learner.first_version import build_first_version

    with engine.connect() as conn:
        activation = active(conn)
        try:
            current = load(conn, activation.version) if activation else None
        except (
            DamagedArtifact
        ) as error:  # serving goes on with the last good one; which to go back to is a person's say
            announce(f"{error} Go back to another version with trimtab rollback --reason ...")
            return activation.version if activation else 0
    if current is not None and (only_first or current.fleet == fleet or _taken_back(engine, fleet, announce)):
        return current.number
    if current is None:
        announce(f"Building the first version from the fleet ({len(fleet.routes)} routes) ...")
        version, reason = build_first_version(fleet, encoder=encoder), "built from the fleet"
    else:
        added = sorted(set(fleet.names) - set(current.fleet.names))
        removed = sorted(set(current.fleet.names) - set(fleet.names))
        changes = [f"+{name}" for name in added] + [f"-{name}" for name in removed]
        reason = f"fleet changed: {', '.join(changes) or 'same routes, other details'}"
        announce(f"Applying the fleet to version {current.number}; {reason} ...")
        version = apply_fleet(current, fleet, encoder=encoder)
    with engine.begin() as conn:
        parent = current.number if current else None
        number = publish(conn, version, actor=actor, reason=reason, parent=parent).number
    announce(f"Version {number} is published.")
    return number


def _taken_back(engine: Engine, fleet: Fleet, announce: Announce) -> bool:
    with engine.connect() as conn:
        left = fleet_taken_back(conn, fleet_fingerprint(fleet))
    if left is not None:
        announce(
            f"The fleet file is the one that {left.actor} rolled back from; version {left.version}'s fleet goes on."
            " Change the file, or trimtab activate the version that had it."
        )
    return left is not None

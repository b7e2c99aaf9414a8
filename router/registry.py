"""The router versions in Postgres: publish, activate, roll back, load. The caller commits."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from router.activations import (
    Activation,
    ActivationKind,
    StaleActivation,
    active,
    append_activation,
    history,
    lock_activations,
    newest_seq,
    verify_history,
    ways_back,
)
from router.artifact import Artifact, DamagedArtifact, pack
from router.plan import read_plan
from router.stored_versions import (
    UnknownVersion,
    VersionRecord,
    VersionStatus,
    list_versions,
    load,
    read_artifact,
    read_version,
)
from router.trial import open_router
from router.version import RouterVersion
from telemetry.tables import learner_lease, router_activation, router_artifact, router_version

__all__ = [
    "Activation",
    "ActivationKind",
    "LeaseLost",
    "NeverActive",
    "NotShadowed",
    "NothingToRollBack",
    "Pinned",
    "PublishedVersion",
    "RefusedVersion",
    "ServesAlready",
    "StaleActivation",
    "UnknownVersion",
    "VersionRecord",
    "VersionStatus",
    "activate",
    "active",
    "history",
    "list_versions",
    "load",
    "newest_seq",
    "publish",
    "quarantine_version",
    "read_artifact",
    "read_version",
    "rollback",
    "verify_history",
]

_LEASE = "night"
_REFUSED = ("rejected", "quarantined")
_TRIED = ("shadow", "canary")
_SERVED = ("active", "retired")


class RefusedVersion(Exception):
    """A rejected or quarantined router version cannot be activated; choose another."""

    def __init__(self, number: int, status: str) -> None:
        self.number, self.status = number, status
        super().__init__(f"{self.__doc__} Version {number} is {status}.")


class ServesAlready(RefusedVersion):
    """This version serves already, so there is nothing to try; name another one."""


class Pinned(Exception):
    """A person pinned the version that serves, so nothing changes it by itself; end the pin with trimtab unpin."""


class NotShadowed(Exception):
    """A version for another encoder is first tried beside the serving one; start with trimtab rollout shadow."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"{self.__doc__} Version {number} was never in shadow.")


class NeverActive(Exception):
    """One can only roll back to a version that served before; activate this one instead."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"{self.__doc__} Version {number} never served.")


class NothingToRollBack(Exception):
    """There is no earlier sound version to roll back to."""


class LeaseLost(Exception):
    """Another learner has taken over the night's lease; nothing was published."""

    def __init__(self, *, token: int, found: int | None) -> None:
        self.token, self.found = token, found
        super().__init__(self.__doc__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedVersion:
    """What publishing made. ``created`` is False where the same content had been registered before."""

    number: int
    fingerprint: str
    created: bool
    activation: Activation | None


def publish(
    conn: Connection,
    version: RouterVersion,
    *,
    actor: str,
    reason: str,
    parent: int | None,
    report: Mapping[str, Any] | None = None,
    status: VersionStatus = "active",
    watermark: datetime | None = None,
    window_start: datetime | None = None,
    fencing_token: int | None = None,
) -> PublishedVersion:
    """Register a version and, where its status is ``active``, activate it in the same transaction.

    Content that is registered already keeps its number; a version that served is not degraded by registering it anew.

    Args:
        conn: the caller commits.
        version: what is published; its ``number`` and ``fingerprint`` are ignored.
        actor: who publishes.
        reason: why, for the history.
        parent: number of the version that it was made from, None for the first.
        report: the evaluation, JSON.
        status: ``active`` activates; the others only register.
        watermark: up to when telemetry was read.
        window_start: from when on.
        fencing_token: of the learner's lease, checked and held until commit.

    Raises:
        LeaseLost: the lease has another token by now.
        Pinned: a night would activate, but a person pinned what serves.
        UnknownVersion: there is no such parent.
        RefusedVersion: the same content was quarantined.
        DamagedArtifact: the version's numbers are not sound; nothing may be committed then.
    """
    if fencing_token is not None:
        _hold_lease(conn, fencing_token)
    lock_activations(conn)
    artifact = pack(version, parent="" if parent is None else read_version(conn, parent).fingerprint)
    row = {
        "report": report,
        "status": status,
        "watermark": watermark,
        "window_start": window_start,
        "window_end": watermark,
    }
    number, created = _register(conn, artifact, {"parent": parent, "created_by": actor, **row})
    _store_parts(conn, number, artifact)
    open_router(load(conn, number))
    activation = None
    if status == "active":
        if fencing_token is not None:
            refuse_if_pinned(conn)
        activation = _switch(conn, number, kind="publish", actor=actor, reason=reason)
    return PublishedVersion(number=number, fingerprint=artifact.fingerprint, created=created, activation=activation)


def activate(
    conn: Connection, number: int, *, kind: ActivationKind, actor: str, reason: str, if_seq: int | None = None
) -> Activation:
    """Let a registered version serve all sessions; a second version beside the serving one ends with that.

    Raises:
        UnknownVersion: there is none of this number.
        RefusedVersion: it was rejected or quarantined.
        DamagedArtifact: its stored parts are not what was published.
        NotShadowed: it is for another encoder and was never in shadow, nor did it serve before.
        StaleActivation: ``if_seq`` is not the newest seq.
    """
    lock_activations(conn, if_seq=if_seq)
    check_fit(conn, number)
    _refuse_new_encoder(conn, number)
    return _switch(conn, number, kind=kind, actor=actor, reason=reason)


def check_fit(conn: Connection, number: int) -> VersionRecord:
    """Return what is registered, after loading and trying the version.

    Raises:
        UnknownVersion, RefusedVersion, DamagedArtifact: as ``activate``.
    """
    record = read_version(conn, number)
    if record.status in _REFUSED:
        raise RefusedVersion(number, record.status)
    open_router(load(conn, number))
    return record


def refuse_if_pinned(conn: Connection) -> None:
    """Let nothing automatic pass while a person's pin holds.

    Raises:
        Pinned: it does.
    """
    now = active(conn)
    if now is not None and now.kind == "pin":
        raise Pinned(Pinned.__doc__)


def _refuse_new_encoder(conn: Connection, number: int) -> None:
    now = active(conn)
    if now is None or read_version(conn, now.version).encoder == read_version(conn, number).encoder:
        return
    seen = select(router_activation.c.seq).where(router_activation.c.version == number).limit(1)
    if conn.execute(seen).first() is None:
        raise NotShadowed(number)


def rollback(
    conn: Connection,
    *,
    to: int | None = None,
    actor: str,
    reason: str,
    if_seq: int | None = None,
    kind: Literal["rollback", "auto_rollback"] = "rollback",
) -> Activation:
    """Return to a version that served before.

    Without ``to``, a version that is in shadow or canary is taken back first, and the one that serves stays; else the
    nearest sound one of ``activations.ways_back`` serves: a second rollback goes one further back.

    Raises:
        NothingToRollBack: no earlier version is sound.
        NeverActive: ``to`` never served.
        UnknownVersion, RefusedVersion, DamagedArtifact, StaleActivation: as ``activate``.
    """
    lock_activations(conn, if_seq=if_seq)
    activations = history(conn, limit=None, order="asc")
    if to is None and (plan := read_plan(conn)) and plan.mode in _TRIED:
        to = plan.main.version
    if to is None:
        to = next((number for number in ways_back(activations) if _is_sound(conn, number)), None)
        if to is None:
            raise NothingToRollBack(NothingToRollBack.__doc__)
        return _switch(conn, to, kind=kind, actor=actor, reason=reason)  # it was just tried
    if read_version(conn, to).number not in {row.version for row in activations if row.share == 1}:
        raise NeverActive(to)
    return activate(conn, to, kind=kind, actor=actor, reason=reason)


def quarantine_version(conn: Connection, number: int) -> None:
    """Never let this version serve again; the one that serves now must be rolled back first.

    Raises:
        UnknownVersion: there is none of this number.
        RefusedVersion: it serves at present.
    """
    lock_activations(conn)
    if read_version(conn, number).status == "active":
        raise RefusedVersion(number, "active")
    set_status(conn, number, "quarantined")


def _hold_lease(conn: Connection, token: int) -> None:
    query = select(learner_lease.c.fencing_token).where(learner_lease.c.name == _LEASE).with_for_update()
    found = conn.execute(query).scalar_one_or_none()
    if found != token:
        raise LeaseLost(token=token, found=found)


def _register(conn: Connection, artifact: Artifact, row: Mapping[str, Any]) -> tuple[int, bool]:
    """Number of the version with this content, and whether it is new. What is known already is only added to."""
    table = router_version.c
    known = conn.execute(
        select(table.number, table.status).where(table.fingerprint == artifact.fingerprint)
    ).one_or_none()
    if known is None:
        manifest = artifact.manifest
        content = {"fingerprint": artifact.fingerprint, "manifest": manifest}
        content |= {"encoder": manifest["encoder"], "fleet": manifest["fleet"]}
        return int(
            conn.execute(insert(router_version).values({**row, **content}).returning(table.number)).scalar_one()
        ), True
    if known.status == "quarantined":
        raise RefusedVersion(known.number, known.status)
    kept = ("parent", "created_by", *(("status",) if known.status in _SERVED else ()))
    added = {name: value for name, value in row.items() if value is not None and name not in kept}
    if added:
        conn.execute(update(router_version).where(table.number == known.number).values(added))
    return int(known.number), False


def _store_parts(conn: Connection, number: int, artifact: Artifact) -> None:
    """Write the parts; where they were there already, this heals what was damaged since."""
    listed = artifact.manifest["parts"]
    rows = [
        {"version": number, "part": name, "sha256": listed[name]["sha256"], "bytes": data}
        for name, data in artifact.parts.items()
    ]
    statement = upsert(router_artifact).values(rows)
    healed = {"sha256": statement.excluded.sha256, "bytes": statement.excluded.bytes}
    conn.execute(statement.on_conflict_do_update(index_elements=["version", "part"], set_=healed))


def _switch(conn: Connection, number: int, *, kind: ActivationKind, actor: str, reason: str) -> Activation:
    for before, after in (("active", "retired"), ("canary", "candidate"), ("shadow", "candidate")):
        others = (router_version.c.status == before) & (router_version.c.number != number)
        conn.execute(update(router_version).where(others).values(status=after))
    set_status(conn, number, "active")
    return append_activation(conn, number, kind=kind, actor=actor, reason=reason)


def set_status(conn: Connection, number: int, status: VersionStatus) -> None:
    """Write the status of a version; the caller holds ``lock_activations``."""
    conn.execute(update(router_version).where(router_version.c.number == number).values(status=status))


def _is_sound(conn: Connection, number: int) -> bool:
    if read_version(conn, number).status in _REFUSED:
        return False
    try:
        open_router(load(conn, number))
    except DamagedArtifact:
        return False
    return True

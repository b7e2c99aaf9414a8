"""Router versions as they lie in Postgres: what is registered about them, and their parts."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, case, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from router.artifact import Artifact, unpack
from router.fleet import Fleet, fleet_from_json
from router.version import RouterVersion
from telemetry.tables import router_artifact, router_version

VersionStatus = Literal["candidate", "shadow", "canary", "active", "retired", "rejected", "quarantined"]


class UnknownVersion(LookupError):
    """There is no router version of that number; list the versions to see those there are."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"{self.__doc__} Asked for: {number}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRecord:
    """What is registered about a version, without its parts."""

    number: int
    fingerprint: str
    manifest: Mapping[str, Any]
    parent: int | None
    encoder: str
    fleet: str
    window_start: datetime | None
    window_end: datetime | None
    watermark: datetime | None
    report: Mapping[str, Any] | None
    status: VersionStatus
    created_by: str
    created_at: datetime


def load(conn: Connection, number: int) -> RouterVersion:
    """Read, verify and parse a version.

    Raises:
        UnknownVersion: there is none of this number.
        DamagedArtifact: its stored parts are not what was published.
    """
    artifact = read_artifact(conn, number)
    return unpack(artifact.manifest, artifact.parts, fingerprint=artifact.fingerprint, number=number)


def read_artifact(conn: Connection, number: int) -> Artifact:
    """The stored parts as they are, unverified; ``artifact.unpack`` verifies them.

    Raises:
        UnknownVersion: there is no version of this number.
    """
    record = read_version(conn, number)
    table = router_artifact.c
    rows = conn.execute(select(table.part, table.bytes).where(table.version == number))
    parts = {row.part: bytes(row.bytes) for row in rows}
    return Artifact(manifest=record.manifest, parts=parts, fingerprint=record.fingerprint)


def read_fleets(conn: Connection, numbers: Collection[int]) -> dict[int, Fleet]:
    """The fleets of those of these versions that there are, by number; one whose part is damaged is left out."""
    table = router_artifact.c
    wanted = (table.part == "fleet.json") & table.version.in_(numbers)
    rows = conn.execute(select(table.version, table.sha256, table.bytes).where(wanted))
    return {
        row.version: fleet_from_json(bytes(row.bytes))
        for row in rows
        if hashlib.sha256(row.bytes).hexdigest() == row.sha256
    }


def read_version(conn: Connection, number: int) -> VersionRecord:
    """What is registered under a number.

    Raises:
        UnknownVersion: there is none.
    """
    if not 0 < number < 2**31:
        raise UnknownVersion(number)
    query = select(router_version).where(router_version.c.number == number)
    row = conn.execute(query).mappings().one_or_none()
    if row is None:
        raise UnknownVersion(number)
    return VersionRecord(**row)


def list_versions(
    conn: Connection, *, after: int | None = None, limit: int | None = 50, order: Literal["asc", "desc"] = "desc"
) -> list[VersionRecord]:
    """Versions, newest first unless ``order`` is ``asc``; the page begins behind ``after``.

    Reports are large: of each only its sentence is read, and no manifest.
    """
    number, report = router_version.c.number, router_version.c.report
    sentence = case((report.is_not(None), func.jsonb_build_object("sentence", report["sentence"])))
    short = {"report": sentence.label("report"), "manifest": literal({}, JSONB).label("manifest")}
    query = (
        select(*[short.get(column.name, column) for column in router_version.columns])
        .order_by(number.asc() if order == "asc" else number.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(number > after if order == "asc" else number < after)
    return [VersionRecord(**row) for row in conn.execute(query).mappings()]

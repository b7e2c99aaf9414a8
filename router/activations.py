"""Which version serves from when: an append-only, hash-chained history in ``router_activation``."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select

from router.artifact import canonical_json
from telemetry.notifications import notify
from telemetry.tables import router_activation, router_version

ActivationKind = Literal["publish", "shadow", "canary", "holdout", "rollback", "auto_rollback", "pin", "unpin"]

CHANNEL = "trimtab_router"
_LOCK = int.from_bytes(b"trimtab", "big")
_START = "0" * 64


class StaleActivation(Exception):
    """Another activation came first; look at the history again and repeat the command if it is still wanted."""

    def __init__(self, *, expected: int, found: int) -> None:
        self.expected, self.found = expected, found
        super().__init__(f"{self.__doc__} Expected seq {expected}, found {found}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """One row of the history: from ``activated_at`` on, ``version`` serves ``share`` of the sessions.

    ``route`` is the one that a pin or its end is about, None where it is about the version.
    """

    seq: int
    version: int
    share: float
    kind: ActivationKind
    actor: str
    reason: str
    hash: str
    activated_at: datetime
    route: str | None = None


def lock_activations(conn: Connection, *, if_seq: int | None = None) -> None:
    """One activation at a time, until the transaction ends.

    Args:
        conn: in the transaction that will append.
        if_seq: go on only while this is the newest seq; 0 means that nothing was ever activated.

    Raises:
        StaleActivation: the newest seq is another one.
    """
    conn.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    found = newest_seq(conn)
    if if_seq is not None and if_seq != found:
        raise StaleActivation(expected=if_seq, found=found)


def newest_seq(conn: Connection) -> int:
    """The newest seq, 0 where nothing was ever activated: cheap enough to ask every second."""
    return int(conn.execute(select(func.coalesce(func.max(router_activation.c.seq), 0))).scalar_one())


def append_activation(
    conn: Connection,
    version: int,
    *,
    kind: ActivationKind,
    actor: str,
    reason: str,
    share: float = 1.0,
    route: str | None = None,
) -> Activation:
    """Append to the history and tell the server processes at commit; ``lock_activations`` comes first."""
    table = router_activation.c
    last = conn.execute(select(table.hash).order_by(table.seq.desc()).limit(1)).scalar_one_or_none()
    drawn = select(
        func.nextval(func.pg_get_serial_sequence(router_activation.name, table.seq.name)), func.clock_timestamp()
    )
    seq, now = conn.execute(drawn).one()
    unsigned = Activation(
        seq=seq,
        version=version,
        share=share,
        kind=kind,
        actor=actor,
        reason=reason,
        hash="",
        activated_at=now,
        route=route,
    )
    row = {**asdict(unsigned), "hash": chain_hash(last or _START, unsigned)}
    conn.execute(insert(router_activation).values(row))
    conn.execute(select(func.pg_notify(CHANNEL, str(seq))))
    done = Activation(**row)
    notify(conn, {"event": kind, **_signed(done), "hash": done.hash})
    return done


def chain_hash(previous: str, activation: Activation) -> str:
    """sha256 over the previous row's hash and the canonical JSON of this row without its own hash."""
    return hashlib.sha256(previous.encode() + canonical_json(_signed(activation))).hexdigest()


def _signed(activation: Activation) -> dict[str, Any]:
    row = asdict(activation)
    del row["hash"]
    if activation.route is None:  # rows from before there were pins keep their hashes
        del row["route"]
    row["activated_at"] = activation.activated_at.astimezone(UTC).isoformat(timespec="microseconds")
    return row


def active(conn: Connection, *, at: datetime | None = None) -> Activation | None:
    """What served at a time (now, when left out): the newest activation for all sessions up to then."""
    query = select(router_activation).where(router_activation.c.share == 1, router_activation.c.route.is_(None))
    if at is not None:
        query = query.where(router_activation.c.activated_at <= at)
    row = conn.execute(query.order_by(router_activation.c.seq.desc()).limit(1)).mappings().one_or_none()
    return None if row is None else Activation(**row)


def history(
    conn: Connection,
    *,
    after: int | None = None,
    limit: int | None = 50,
    order: Literal["asc", "desc"] = "desc",
    version: int | None = None,
) -> list[Activation]:
    """Activations (of one ``version`` only), newest first unless ``order`` is ``asc``, from behind seq ``after``."""
    seq = router_activation.c.seq
    query = select(router_activation).order_by(seq.asc() if order == "asc" else seq.desc()).limit(limit)
    if after is not None:
        query = query.where(seq > after if order == "asc" else seq < after)
    if version is not None:
        query = query.where(router_activation.c.version == version)
    return [Activation(**row) for row in conn.execute(query).mappings()]


def fleet_taken_back(conn: Connection, fleet: str) -> Activation | None:
    """The rollback that left the fleet of this fingerprint for another one, None if it serves or never did.

    Nights keep the fleet, so only a rollback leaves one without a newer one being applied.
    """
    query = (
        select(router_activation, router_version.c.fleet)
        .join(router_version, router_version.c.number == router_activation.c.version)
        .where(router_activation.c.share == 1, router_activation.c.route.is_(None))
        .order_by(router_activation.c.seq)
    )
    before, left = "", None
    for row in conn.execute(query).mappings():
        activation = {key: value for key, value in row.items() if key != "fleet"}
        if row["fleet"] == fleet:
            left = None
        elif before == fleet and row["kind"] in ("rollback", "auto_rollback"):
            left = Activation(**activation)
        before = row["fleet"]
    return left


def verify_history(conn: Connection) -> int | None:
    """Check the hash chain: the seq of the first row that was changed or whose predecessor is gone, None if whole."""
    previous = _START
    for activation in history(conn, limit=None, order="asc"):
        if activation.hash != chain_hash(previous, activation):
            return activation.seq
        previous = activation.hash
    return None


def ways_back(activations: Sequence[Activation]) -> list[int]:
    """Versions to which a rollback leads, nearest first, after this history (oldest first).

    The history is walked as a stack: publishing or activating lays a version on top, a rollback takes off what lies
    above the version it went to. So a second rollback goes one further back instead of forward again, and after
    a rollback and a new publication the way back leads to what served before that publication, not to what had been
    rolled back. The version that serves is not among them, and each is there once.
    """
    stack: list[int] = []
    for activation in activations:
        if activation.share < 1 or activation.route is not None:
            continue
        if activation.kind in ("rollback", "auto_rollback") and activation.version in stack:
            while stack[-1] != activation.version:
                stack.pop()
        elif stack[-1:] != [activation.version]:
            stack.append(activation.version)
    return [version for version in dict.fromkeys(reversed(stack)) if version != stack[-1]]

"""What serves according to the history: the version for all, the second one beside it, and what a person pinned."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from router.activations import Activation, active
from router.arms import Mode
from telemetry.tables import router_activation

_SIDES: tuple[Mode, ...] = ("shadow", "canary", "holdout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``main`` is the activation that serves; ``side`` the newest one of a second version since then, None for none.

    ``began`` is when the comparison of the two versions began: with the first shadow or canary of the newer one, so
    that what a canary has shown is not forgotten when it becomes the version for all with a hold-out.
    """

    main: Activation
    side: Activation | None
    began: datetime | None

    @property
    def mode(self) -> Mode | None:
        """What the second version does."""
        return None if self.side is None else self.side.kind  # type: ignore[return-value]

    @property
    def newer(self) -> int:
        """The version on trial: the second one, but in a hold-out the one that serves."""
        return self.main.version if self.side is None or self.mode == "holdout" else self.side.version

    @property
    def older(self) -> int:
        """The version that it is compared with."""
        return self.main.version if self.side is None or self.mode != "holdout" else self.side.version

    @property
    def pinned(self) -> bool:
        """Whether a person pinned the version that serves: then nothing but a person changes it."""
        return self.main.kind == "pin"


def read_plan(conn: Connection, *, at: datetime | None = None) -> Plan | None:
    """What serves now, or what served at a time; None before the first activation."""
    main = active(conn, at=at)
    if main is None:
        return None
    table = router_activation.c
    query = select(router_activation).where(table.kind.in_(_SIDES), table.seq > main.seq)
    if at is not None:
        query = query.where(table.activated_at <= at)
    row = conn.execute(query.order_by(table.seq.desc()).limit(1)).mappings().one_or_none()
    side = None if row is None or (row["share"] == 0 and row["kind"] != "shadow") else Activation(**row)
    return Plan(main=main, side=side, began=None if side is None else _began(conn, main, side))


def pinned_routes(conn: Connection) -> dict[str, Activation]:
    """The routes that are pinned, with the pin of each: the nights leave their centroids as they are."""
    table = router_activation.c
    query = select(router_activation).where(table.route.is_not(None)).order_by(table.seq)
    newest = {row["route"]: Activation(**row) for row in conn.execute(query).mappings()}
    return {route: activation for route, activation in newest.items() if activation.kind == "pin"}


def _began(conn: Connection, main: Activation, side: Activation) -> datetime:
    """When the newer version of the two was first tried beside the older one without interruption."""
    table = router_activation.c
    after = main.seq
    if side.kind == "holdout":
        earlier = select(table.seq).where(table.share == 1, table.route.is_(None), table.seq < main.seq)
        after = conn.execute(earlier.order_by(table.seq.desc()).limit(1)).scalar() or 0
    tried = main.version if side.kind == "holdout" else side.version
    first = select(table.activated_at).where(table.seq > after, table.version == tried, table.kind.in_(_SIDES))
    found: datetime | None = conn.execute(first.order_by(table.seq).limit(1)).scalar()
    return found or side.activated_at

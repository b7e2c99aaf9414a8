"""Feedback: append-only judgements. The highest revision counts; a withdrawal is a revision too."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Connection, RowMapping, TextClause, case, func, null, select, text, tuple_, update

from telemetry.multirow import insert_rows
from telemetry.records import Feedback, Resolution, StoreResult
from telemetry.tables import feedback, inference, inference_alias

_COLUMNS = (
    *("feedback_id", "revision", "op", "target_kind", "target_value", "segment_index", "inference_id", "resolution"),
    *("name", "value", "correction", "comment", "annotator_kind", "submitter", "principal", "payload_sha256"),
    "occurred_at",
)
_Resolved = tuple[UUID | None, Resolution]


def store_feedback(conn: Connection, items: Sequence[Feedback]) -> list[StoreResult]:
    """Store ``items`` (create, revise, withdraw) and return one result each, in order; the caller commits.

    A create with a known id is a duplicate when its payload is the same and a conflict otherwise; a judgement of a
    segment that the decision does not have is a conflict too, with a message. Feedback whose target is not there yet
    waits as pending. A revision of what is not there is missing.
    """
    creates = [item for item in items if item.op == "create"]
    done = iter(_create(conn, creates))
    others = [i for i, item in enumerate(items) if item.op != "create"]
    revised = {i: _revise(conn, items[i]) for i in sorted(others, key=lambda i: items[i].feedback_id)}
    return [revised[i] if i in revised else next(done) for i in range(len(items))]


def _create(conn: Connection, items: list[Feedback]) -> list[StoreResult]:
    if not items:
        return []
    targets = resolve_targets(conn, [(item.target_kind, item.target_value) for item in items])
    unique = {item.feedback_id: item for item in reversed(items)}
    wrong = _unknown_segments(conn, [(item, targets[item.target_kind, item.target_value][0]) for item in items])
    rows = [
        _row(item, targets[item.target_kind, item.target_value])
        for key, item in sorted(unique.items())  # as all transactions do, or two that write the same ones deadlock
        if key not in wrong
    ]
    tail = "on conflict (feedback_id, revision) do nothing returning feedback.feedback_id"
    stored = {row[0] for row in conn.execute(*_insert(rows, tail))} if rows else set()
    fresh = {key: item for key, item in unique.items() if key in stored}
    known = _payloads(conn, [item.feedback_id for item in items if fresh.get(item.feedback_id) is not item])
    results = []
    for item in items:
        inference_id, resolution = targets[item.target_kind, item.target_value]
        same = known.get(item.feedback_id) == item.payload_sha256
        status = "stored" if fresh.get(item.feedback_id) is item else "duplicate" if same else "conflict"
        message = wrong.get(item.feedback_id, "") if item.feedback_id not in known else ""
        details = {"inference_id": str(inference_id)} if inference_id else {}
        results.append(
            StoreResult(
                id=item.feedback_id,
                status=status,  # type: ignore[arg-type]
                resolution=resolution,
                revision=1,
                message=message,
                details=details,
            )
        )
    return results


def _unknown_segments(conn: Connection, judged: Sequence[tuple[Feedback, UUID | None]]) -> dict[UUID, str]:
    """What is wrong, in a sentence, with judgements of segments that the decision on their inference does not have."""
    asked = [(item, key) for item, key in judged if item.segment_index is not None and key is not None]
    if not asked:
        return {}
    columns = (inference.c.inference_id, inference.c.segment_count)
    of_these = inference.c.inference_id.in_([key for _, key in asked])
    counts: dict[UUID, int | None] = {row[0]: row[1] for row in conn.execute(select(*columns).where(of_these))}
    wrong = {}
    for item, key in asked:
        count = counts.get(key)
        if count is not None and item.segment_index is not None and item.segment_index >= count:
            has = "1 segment" if count == 1 else f"{count} segments"
            wrong[item.feedback_id] = f"The decision has {has}, so no segment_index {item.segment_index}."
    return wrong


def _insert(rows: list[dict[str, object]], tail: str = "") -> tuple[TextClause, dict[str, str]]:
    occurred = {"occurred_at": "coalesce(r.occurred_at, clock_timestamp())"}
    return insert_rows(feedback, rows, names=_COLUMNS, tail=tail, expressions=occurred)


def _row(item: Feedback, target: _Resolved) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(item, name) for name in _COLUMNS}
    return {**row, "inference_id": target[0], "resolution": target[1]}


def _payloads(conn: Connection, ids: list[UUID]) -> dict[UUID, bytes]:
    if not ids:
        return {}
    columns = (feedback.c.feedback_id, feedback.c.payload_sha256)
    rows = conn.execute(select(*columns).where(feedback.c.feedback_id.in_(ids), feedback.c.revision == 1))
    return {row[0]: row[1] for row in rows}


def _revise(conn: Connection, item: Feedback) -> StoreResult:
    first = select(feedback).where(feedback.c.feedback_id == item.feedback_id, feedback.c.revision == 1)
    if conn.execute(first.with_for_update()).first() is None:  # the lock puts revisions of one judgement in a row
        return StoreResult(id=item.feedback_id, status="missing")
    newest = select(feedback).where(feedback.c.feedback_id == item.feedback_id).order_by(feedback.c.revision.desc())
    last = conn.execute(newest.limit(1)).mappings().one()
    target: _Resolved = (last["inference_id"], last["resolution"])
    if _says_the_same(item, last):
        return StoreResult(
            id=item.feedback_id, status="duplicate", resolution=target[1], revision=int(last["revision"])
        )
    if wrong := _unknown_segments(conn, [(item, target[0])]):
        return StoreResult(id=item.feedback_id, status="conflict", message=wrong[item.feedback_id])
    revision = int(last["revision"]) + 1
    # Whose judgement it is stays as first told: a vote does not leave its user's cap by being revised.
    kept = ["target_kind", "target_value", "name", "annotator_kind", "submitter", "principal"]
    kept += ["segment_index"] if item.segment_index is None else []
    row = _row(item, target) | {name: last[name] for name in kept} | {"revision": revision}
    conn.execute(*_insert([row]))
    return StoreResult(id=item.feedback_id, status="stored", resolution=target[1], revision=revision)


def _says_the_same(item: Feedback, row: RowMapping) -> bool:
    """Whether a revision would change nothing of what stands there; a withdrawal says nothing, so it has no value."""
    place = item.segment_index is None or item.segment_index == row["segment_index"]
    return place and all(getattr(item, name) == row[name] for name in ("value", "correction", "comment"))


def is_stored(conn: Connection, item: Feedback) -> bool:
    """Tell whether just this was stored before, as the first or the newest revision: it is sent again then."""
    rows = read_feedback(conn, item.feedback_id)
    return bool(rows) and (item.payload_sha256 == rows[0]["payload_sha256"] or _says_the_same(item, rows[-1]))


def resolve_targets(conn: Connection, targets: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], _Resolved]:
    """Map each (kind, value) to the inference it names: resolved, pending (none yet) or ambiguous (several)."""
    found: dict[tuple[str, str], set[UUID]] = {target: set() for target in targets}
    ids = [UUID(value) for kind, value in found if kind == "inference_id"]
    if ids:
        for (inference_id,) in conn.execute(select(inference.c.inference_id).where(inference.c.inference_id.in_(ids))):
            found["inference_id", str(inference_id)].add(inference_id)
    aliases = [target for target in found if target[0] != "inference_id"]
    if aliases:
        kinds, values = (list(part) for part in zip(*aliases, strict=True))
        statement = text(
            "select distinct a.kind, a.value, a.inference_id from inference_alias a"
            " join unnest(cast(:kinds as text[]), cast(:targets as text[])) as t(kind, value)"
            " on a.kind = t.kind and a.value = t.value"
        )
        for kind, value, inference_id in conn.execute(statement, {"kinds": kinds, "targets": values}):
            found[kind, value].add(inference_id)
    return {target: _resolution(ids) for target, ids in found.items()}


def _resolution(ids: set[UUID]) -> _Resolved:
    if len(ids) > 1:
        return None, "ambiguous"
    return (next(iter(ids)), "resolved") if ids else (None, "pending")


def resolve_waiting(conn: Connection) -> int:
    """Resolve what still waits although its target is there (both were written at the same moment); return how many.

    What waits for an id that several inferences have by now is ambiguous: it counts for none of them.
    """
    by_id = (
        update(feedback)
        .where(feedback.c.resolution.in_(("pending", "orphaned")), feedback.c.target_kind == "inference_id")
        .where(feedback.c.target_value == func.cast(inference.c.inference_id, feedback.c.target_value.type))
        .values(inference_id=inference.c.inference_id, resolution="resolved")
    )
    alias = inference_alias.c
    named = (
        select(alias.kind, alias.value, func.count().label("number"), func.any_value(alias.inference_id).label("id"))
        .group_by(alias.kind, alias.value)
        .subquery()
    )
    one = named.c.number == 1
    by_alias = (
        update(feedback)
        .where(feedback.c.resolution.in_(("pending", "orphaned")))
        .where(feedback.c.target_kind == named.c.kind, feedback.c.target_value == named.c.value)
        .values(
            inference_id=case((one, named.c.id), else_=null()), resolution=case((one, "resolved"), else_="ambiguous")
        )
    )
    return sum(conn.execute(statement).rowcount for statement in (by_id, by_alias))


def mark_orphans(conn: Connection, *, older_than: timedelta) -> int:
    """Mark feedback that has waited longer than ``older_than`` as orphaned; its target may still come."""
    waiting = (feedback.c.resolution == "pending", feedback.c.received_at < func.clock_timestamp() - older_than)
    return conn.execute(update(feedback).where(*waiting).values(resolution="orphaned")).rowcount


def read_feedback(conn: Connection, feedback_id: UUID) -> list[RowMapping]:
    """Return all revisions of one judgement, oldest first; empty when there is none."""
    statement = select(feedback).where(feedback.c.feedback_id == feedback_id).order_by(feedback.c.revision)
    return list(conn.execute(statement).mappings())


def list_feedback(
    conn: Connection, *, resolution: str | None = None, after: tuple[UUID, int] | None = None, limit: int = 100
) -> list[RowMapping]:
    """Return feedback revisions, newest id first, from before the revision ``after``, optionally of one resolution."""
    statement = select(feedback).order_by(feedback.c.feedback_id.desc(), feedback.c.revision.desc()).limit(limit)
    if resolution:
        statement = statement.where(feedback.c.resolution == resolution)
    if after:
        statement = statement.where(tuple_(feedback.c.feedback_id, feedback.c.revision) < after)
    return list(conn.execute(statement).mappings())

"""Store inferences. A row comes by two roads, the router's decision and the client's log, in either order."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from operator import attrgetter
from uuid import UUID

from sqlalchemy import Connection, TextClause, select, text
from sqlalchemy.exc import DBAPIError

from telemetry.dead_letters import quarantine
from telemetry.multirow import as_json, insert_rows, insertion, recordset
from telemetry.records import Inference, StoreResult
from telemetry.segments import candidate_rows, fit_segments, store_segments, unknown_segments
from telemetry.tables import inference, inference_alias, inference_payload

ROUTE_ROAD = "route"
_DECISION = (
    *("router_version", "policy", "cause", "route", "score", "margin", "candidates", "propensity", "explored"),
    *("split_reason", "segment_count", "shadow_version", "shadow_route", "shadow_agrees"),
)
_OUTCOME = (
    *("request_model", "response_model", "input_tokens", "output_tokens", "reasoning_output_tokens", "cost"),
    *("duration_ms", "ttft_ms", "finish_reason", "error_type", "started_at", "ended_at"),
)
_IDS = ("client_request_id", "response_id", "trace_id", "span_id", "external_call_id", "session_id", "end_user")
_COLUMNS = (
    *("inference_id", *_IDS, *_DECISION, *_OUTCOME),
    *("client_sent_at", "occurred_at", "sources", "payload_sha256"),
)
_PAYLOAD_COLUMNS = ("inference_id", "query", "answer", "embedding", "encoder", "redaction")
# occurred = created + received - sent: what the client's clock is off by is taken out.
_OCCURRED = "coalesce(r.occurred_at + (clock_timestamp() - r.client_sent_at), r.occurred_at, clock_timestamp())"
_BAD_DATA = ("22", "23", "54")  # SQLSTATE classes: data exception, integrity constraint violation, limit exceeded
# What its batch has before an item may be refused itself; so often what comes behind it is tried after all.
_MOST_ROUNDS = 5
_RACES = ("40P01", "40001")  # SQLSTATE: deadlock detected, serialization failure


def store_inferences(conn: Connection, items: Sequence[Inference], *, apart: bool = True) -> list[StoreResult]:
    """Store ``items`` and return one result each, in order; the caller commits.

    The same id with the same payload is a duplicate, with another payload a conflict. The road ``route`` brings the
    decision, which wins over one that a client sends; any other road brings the outcome. What only Postgres refuses is
    found by bisection and quarantined, without harm to the rest. Waiting feedback for the new rows is resolved.

    Args:
        conn: in a transaction.
        items: what to store.
        apart: False saves the savepoint, which is two of five exchanges with the server: what Postgres refuses then
            ends the transaction with an error that ``refuses_data`` knows, and all of it has to be stored again, apart.
    """
    results: dict[int, StoreResult] = {}
    for by_router in (True, False):
        wanted = [(i, item) for i, item in enumerate(items) if (item.source == ROUTE_ROAD) == by_router]
        rounds = _MOST_ROUNDS
        while wanted:
            rounds -= 1
            repeated = _store_first(conn, wanted, results, apart=apart)
            wanted = []
            for i, earlier in repeated:
                if rounds and _is_in_nobodys_way(items[i], items[earlier], results[earlier]):
                    wanted.append((i, items[i]))
                else:
                    results[i] = _repeated(items[i], items[earlier], results[earlier])
    return [results[i] for i in range(len(items))]


def _store_first(
    conn: Connection, wanted: Sequence[tuple[int, Inference]], results: dict[int, StoreResult], *, apart: bool
) -> list[tuple[int, int]]:
    """Store the first of each id and span; return the places of the others, each with that of the one before it."""
    first: dict[UUID | tuple[str | None, str], int] = {}
    fresh, repeated = [], []
    for i, item in wanted:
        earlier = first.setdefault(item.inference_id, i)
        if earlier == i and item.span_id is not None:
            earlier = first.setdefault((item.trace_id, item.span_id), i)
        if earlier == i:
            fresh.append((i, item))
        else:
            repeated.append((i, earlier))
    fresh.sort(key=_by_id)
    store = _store_or_bisect if apart else _store
    for (i, _), result in zip(fresh, store(conn, [item for _, item in fresh]), strict=True):
        results[i] = result
    return repeated


def _by_id(placed: tuple[int, Inference]) -> int:
    """All transactions write in this order: two that write the same rows wait for each other, never both at once."""
    return placed[1].inference_id.int


def refuses_data(error: DBAPIError) -> bool:
    """Whether it is a value that Postgres will not have, not the connection or the server."""
    return not error.connection_invalidated and _state(error)[:2] in _BAD_DATA


def deadlocked(error: DBAPIError) -> bool:
    """Whether Postgres ended the transaction in favour of another one: the same again will do."""
    return _state(error) in _RACES


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or "22000"  # the driver refuses a NUL without asking the server


def _is_in_nobodys_way(item: Inference, earlier: Inference, result: StoreResult) -> bool:
    """Whether the ``earlier`` one with the same id or span was not stored, and says nothing about this item."""
    return result.status in ("conflict", "quarantined") and item.payload_sha256 != earlier.payload_sha256


def _repeated(item: Inference, earlier: Inference, result: StoreResult) -> StoreResult:
    """What becomes of an item whose id or span an ``earlier`` one of its batch has, which had this ``result``."""
    if item.payload_sha256 == earlier.payload_sha256:
        return replace(result, status="duplicate") if result.status == "stored" else result
    anothers = item.inference_id != earlier.inference_id
    return StoreResult(id=item.inference_id, status="conflict", message=_ANOTHERS_SPAN if anothers else "")


def _store_or_bisect(conn: Connection, items: list[Inference]) -> list[StoreResult]:
    try:
        with conn.begin_nested():
            return _store(conn, items)
    except DBAPIError as error:
        if not refuses_data(error):
            raise
        if len(items) == 1:
            return [_set_aside(conn, items[0], _state(error))]
    half = len(items) // 2
    return _store_or_bisect(conn, items[:half]) + _store_or_bisect(conn, items[half:])


def _set_aside(conn: Connection, item: Inference, state: str) -> StoreResult:
    if state == "23505":  # another transaction brought its span at the same moment
        return _result(item, (), {}, {}, _known_spans(conn, [item]))
    raw = json.dumps(asdict(item), default=repr).encode()
    quarantine(conn, endpoint="inferences", reason_code=f"sqlstate_{state}", raw=raw)
    return StoreResult(id=item.inference_id, status="quarantined", message="the database refused a value")


def _store(conn: Connection, items: list[Inference]) -> list[StoreResult]:
    by_router = items[0].source == ROUTE_ROAD
    wrong = {} if by_router else unknown_segments(conn, items)
    rows = as_json([_row(item) for item in items if item.inference_id not in wrong])
    statement = _STORE_DECISIONS if by_router else _STORE_OUTCOMES
    joined: dict[UUID, bool] = {row[0]: row[1] for row in conn.execute(statement, {"rows": rows})}
    stored = [item for item in items if item.inference_id in joined]
    _store_parts(conn, stored)
    fit_segments(conn, [i.inference_id for i in stored if i.segment_outcomes or (by_router and joined[i.inference_id])])
    missed = [item for item in items if item.inference_id not in joined and item.inference_id not in wrong]
    known = _known_payloads(conn, [item.inference_id for item in missed])
    spans = _known_spans(conn, [item for item in missed if item.span_id and known.get(item.inference_id) is None])
    return [_result(item, joined, known, wrong, spans) for item in items]


def _result(
    item: Inference,
    stored: Collection[UUID],
    known: Mapping[UUID, bytes | None],
    wrong: Mapping[UUID, str],
    spans: Mapping[UUID, StoreResult],
) -> StoreResult:
    if item.inference_id in stored:
        return StoreResult(id=item.inference_id, status="stored")
    if item.inference_id in wrong:
        return StoreResult(id=item.inference_id, status="conflict", message=wrong[item.inference_id])
    if item.inference_id in spans:
        return spans[item.inference_id]
    same = item.source == ROUTE_ROAD or known.get(item.inference_id) == item.payload_sha256
    return StoreResult(id=item.inference_id, status="duplicate" if same else "conflict")


def _known_payloads(conn: Connection, ids: list[UUID]) -> dict[UUID, bytes | None]:
    if not ids:
        return {}
    columns = (inference.c.inference_id, inference.c.payload_sha256)
    return {row[0]: row[1] for row in conn.execute(select(*columns).where(inference.c.inference_id.in_(ids)))}


def _known_spans(conn: Connection, items: list[Inference]) -> dict[UUID, StoreResult]:
    """What becomes of items whose span another row has, by their id: an event may have no other name than its span."""
    if not items:
        return {}
    found = {}
    traces, spans = [item.trace_id for item in items], [item.span_id for item in items]
    rows = conn.execute(_SPANS, {"traces": traces, "spans": spans})
    taken = {(row.trace_id, row.span_id): row for row in rows}
    for item in items:
        row = taken.get((item.trace_id, item.span_id))
        if row is not None and row.payload_sha256 == item.payload_sha256:
            found[item.inference_id] = StoreResult(id=row.inference_id, status="duplicate")
        elif row is not None:
            found[item.inference_id] = StoreResult(id=item.inference_id, status="conflict", message=_ANOTHERS_SPAN)
    return found


_ANOTHERS_SPAN = "another inference has this trace_id and span_id"
_SPANS = text(
    "select i.inference_id, i.trace_id, i.span_id, i.payload_sha256"
    " from unnest(cast(:traces as text[]), cast(:spans as text[])) as t(trace_id, span_id)"
    " join inference i on i.trace_id = t.trace_id and i.span_id = t.span_id"
)


def _merge(*, prefer_new: Iterable[str], prefer_old: Iterable[str], condition: str) -> str:
    sets = [f"{c} = coalesce(excluded.{c}, inference.{c})" for c in prefer_new]
    sets += [f"{c} = coalesce(inference.{c}, excluded.{c})" for c in prefer_old]
    sets.append("sources = array_append(inference.sources, excluded.sources[1])")
    return (
        f"on conflict (inference_id) do update set {', '.join(sets)} where {condition}"
        " returning inference.inference_id, cardinality(inference.sources) > 1 as joined, inference.end_user"
    )


def _storing(merge: str, *, where: str = "") -> TextClause:
    """One statement for rows, their payloads, and the feedback that waits for them under their own id.

    The end_user that came first is kept; another one becomes an alias of a kind that no target has, for erasing alone.
    """
    columns = [*(inference.c[name] for name in _COLUMNS), *(inference_payload.c[name] for name in _PAYLOAD_COLUMNS[1:])]
    better = ", ".join(f"{c} = coalesce(inference_payload.{c}, excluded.{c})" for c in _PAYLOAD_COLUMNS[1:-1])
    payloads = insertion(
        inference_payload,
        _PAYLOAD_COLUMNS,
        rows="r join stored using (inference_id)"
        " where r.query is not null or r.answer is not null or r.embedding is not null",
        tail=f"on conflict (inference_id) do update set {better}",
    )
    return text(
        f"with r as materialized (select * from {recordset(columns)} {where}),"  # noqa: S608  # names of our own tables
        f" stored as ({insertion(inference, _COLUMNS, rows='r', tail=merge, expressions={'occurred_at': _OCCURRED})}),"
        f" paid as ({payloads}),"
        " also as (insert into inference_alias select 'end_user', r.end_user, inference_id"
        " from stored join r using (inference_id) where joined and r.end_user <> stored.end_user"
        " on conflict do nothing),"
        " heard as (update feedback f set inference_id = s.inference_id, resolution = 'resolved' from stored s"
        f" where f.target_kind = 'inference_id' and f.target_value = s.inference_id::text and {_WAITS})"
        " select inference_id, joined from stored"
    )


_WAITS = "f.resolution <> 'resolved' and f.resolution <> 'ambiguous'"
_STORE_DECISIONS = _storing(
    _merge(
        prefer_new=_DECISION,
        prefer_old=(*_IDS, "client_sent_at"),
        condition=f"not ('{ROUTE_ROAD}' = any(inference.sources))",
    )
)
_STORE_OUTCOMES = _storing(
    _merge(
        prefer_new=(*_IDS[:-1], *_OUTCOME, "client_sent_at", "payload_sha256"),
        prefer_old=("end_user", *_DECISION),
        condition="inference.payload_sha256 is null",
    ),
    # A span of another row is left out, not run into: that would end the transaction.
    where="where r.span_id is null or not exists (select from inference i where i.trace_id = r.trace_id"
    " and i.span_id = r.span_id and i.inference_id <> r.inference_id)",
)


def _row(item: Inference) -> dict[str, object]:
    """What is known of an inference and its payload, by column; what is not known is left out."""
    decision, outcome = item.decision, item.outcome
    values = (
        *(item.inference_id, [item.source], item.payload_sha256, item.client_sent_at, item.occurred_at),
        *_ids(item),
        *(_NOTHING_CHOSEN if decision is None else _chosen(decision)),
        *(_NOTHING_CAME if outcome is None else _came(outcome)),
        *_paid(item.payload),
    )
    row: dict[str, object] = {name: value for name, value in zip(_ROW, values, strict=True) if value is not None}
    if decision is not None:
        row["segment_count"] = len(decision.segments) or 1
        if decision.candidates:
            row["candidates"] = candidate_rows(decision.candidates)
    return row


_CHOSEN = tuple(name for name in _DECISION if name not in ("candidates", "segment_count"))
_ROW = (
    *("inference_id", "sources", "payload_sha256", "client_sent_at", "occurred_at"),
    *(*_IDS, *_CHOSEN, *_OUTCOME, *_PAYLOAD_COLUMNS[1:]),
)
_NOTHING_CHOSEN, _NOTHING_CAME = (None,) * len(_CHOSEN), (None,) * len(_OUTCOME)
_ids, _chosen, _came, _paid = (attrgetter(*names) for names in (_IDS, _CHOSEN, _OUTCOME, _PAYLOAD_COLUMNS[1:]))


def _store_parts(conn: Connection, items: list[Inference]) -> None:
    """Segments of split queries and aliases of rows that were new or merged, and the feedback that waits for these."""
    store_segments(conn, items)
    aliases = [row for item in items for row in _alias_rows(item)]
    if aliases:
        names = ("kind", "value", "inference_id")
        statement, rows = insert_rows(inference_alias, aliases, names=names, tail="on conflict do nothing")
        conn.execute(statement, rows)
        conn.execute(_RESOLVE, rows)


def _alias_rows(item: Inference) -> list[dict[str, object]]:
    named = {kind: getattr(item, kind) for kind in ("client_request_id", "response_id", "external_call_id")}
    pairs = [(kind, value) for kind, value in named.items() if value]
    if item.trace_id:
        pairs.append(("trace", item.trace_id))
        if item.span_id:
            pairs.append(("trace", f"{item.trace_id}:{item.span_id}"))
    return [{"kind": kind, "value": value, "inference_id": item.inference_id} for kind, value in pairs]


# An id that a second inference has as well names neither: a vote that waited for it counts for none, one that was given
# to the first when it had come already stays with it.
_RESOLVE = text(
    "with named as materialized (select a.kind, a.value, count(*) as number, any_value(a.inference_id) as id"  # noqa: S608  # names of our own tables
    f" from (select distinct r.kind, r.value from {recordset(tuple(inference_alias.columns))}) r"
    " join inference_alias a using (kind, value) group by a.kind, a.value),"
    " undone as (update feedback f set inference_id = null, resolution = 'ambiguous' from named n"
    " join inference_alias a using (kind, value) join inference i on i.inference_id = a.inference_id"
    " where n.number > 1 and f.inference_id = a.inference_id and f.target_kind = n.kind and f.target_value = n.value"
    " and (select min(o.received_at) from feedback o where o.feedback_id = f.feedback_id) < i.received_at)"
    " update feedback f set inference_id = case when n.number = 1 then n.id end,"
    " resolution = case when n.number = 1 then 'resolved' else 'ambiguous' end"
    f" from named n where f.target_kind = n.kind and f.target_value = n.value and {_WAITS}"
)

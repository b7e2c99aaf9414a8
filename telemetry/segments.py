"""Segments of split queries: their rows, and fitting what clients log for each to what the router decided."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from uuid import UUID

from sqlalchemy import Connection, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from telemetry.dead_letters import quarantine
from telemetry.multirow import insert_rows
from telemetry.records import CandidateRecord, Inference, SegmentRecord
from telemetry.tables import segment

_COLUMNS = tuple(c.name for c in segment.columns)
_OUTCOME = ("request_model", "input_tokens", "output_tokens", "cost", "duration_ms", "finish_reason")
_BETTER = ", ".join(f"{c} = coalesce(segment.{c}, excluded.{c})" for c in _COLUMNS if c not in segment.primary_key)
_IDS = bindparam("ids", type_=ARRAY(PG_UUID(as_uuid=True)))
_COUNTS = text("""
select inference_id, segment_count from inference
where inference_id = any(:ids) and 'route' = any(sources) and payload_sha256 is null
""").bindparams(_IDS)
_SURPLUS = text("""
delete from segment s using inference i
where i.inference_id = any(:ids) and s.inference_id = i.inference_id
  and 'route' = any(i.sources) and s.segment_index >= i.segment_count
returning row_to_json(s)::text
""").bindparams(_IDS)
_FOLD = text(
    "with whole as (delete from segment s using inference i where i.inference_id = any(:ids)"  # noqa: S608  # names of our own tables
    " and s.inference_id = i.inference_id and i.segment_count = 1 returning s.*)"
    f" update inference i set {', '.join(f'{c} = coalesce(i.{c}, w.{c})' for c in _OUTCOME)}"
    " from whole w where i.inference_id = w.inference_id"
).bindparams(_IDS)


def store_segments(conn: Connection, items: Sequence[Inference]) -> None:
    """Write the segments of split queries, and what came of each; the caller commits."""
    rows = [row for item in items for row in _rows(item)]
    if rows:
        tail = f"on conflict (inference_id, segment_index) do update set {_BETTER}"
        conn.execute(*insert_rows(segment, rows, names=_COLUMNS, tail=tail))


def unknown_segments(conn: Connection, items: Sequence[Inference]) -> Mapping[UUID, str]:
    """Return in a sentence what is wrong with outcomes of segments that the router's decision does not have."""
    last = {i.inference_id: max(part.segment_index for part in i.segment_outcomes) for i in items if i.segment_outcomes}
    if not last:
        return {}
    wrong = {}
    for key, count in conn.execute(_COUNTS, {"ids": list(last)}):
        if last[key] >= count:
            has = "1 segment" if count == 1 else f"{count} segments"
            wrong[key] = f"The decision has {has}, so no segment_index {last[key]}; nothing was changed."
    return wrong


def fit_segments(conn: Connection, ids: Sequence[UUID]) -> None:
    """Give the outcome of the only segment of an unsplit query to the inference, which that segment is.

    Outcomes that came before the router's decision may be of segments that it does not have: they become dead letters.
    """
    if not ids:
        return
    for row in conn.execute(_SURPLUS, {"ids": list(ids)}).scalars():
        quarantine(conn, endpoint="inferences", reason_code="unknown_segment", raw=row.encode())
    conn.execute(_FOLD, {"ids": list(ids)})


def candidate_rows(candidates: tuple[CandidateRecord, ...]) -> list[dict[str, object]] | None:
    """Return candidates as the database keeps them."""
    return [asdict(c) for c in candidates] or None


def _rows(item: Inference) -> list[dict[str, object]]:
    """Rows of ``segment``; an unsplit decision brings none, since its one segment is the inference itself."""
    parts = item.decision.segments if item.decision else item.segment_outcomes
    if len(parts) < 2 and not item.segment_outcomes:
        return []
    outcomes = {part.segment_index: part for part in item.segment_outcomes}
    return [_row(item.inference_id, part, outcomes.get(part.segment_index)) for part in parts]


def _row(inference_id: UUID, part: SegmentRecord, outcome: SegmentRecord | None) -> dict[str, object]:
    row = {name: getattr(part, name) for name in _COLUMNS if name not in ("inference_id", "candidates")}
    if outcome:
        row |= {name: getattr(outcome, name) for name, value in row.items() if value is None}
    return {**row, "inference_id": inference_id, "candidates": candidate_rows(part.candidates)}

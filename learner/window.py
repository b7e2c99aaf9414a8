"""The training window: what was logged, read from Postgres into frames and arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sqlalchemy import Connection, Engine, bindparam, select, text, update

from learner.seeds import Embedder
from telemetry.tables import inference_payload, segment

_BATCH = 512
_TIMES = ("occurred_at", "received_at")
# One statement for both: an unsplit inference is its own unit, a split one has a unit for each segment.
_UNITS = text("""
select i.inference_id::text, 0 as segment_index, 1 as segment_count, p.query as text, p.query,
       0 as start_offset, length(p.query) as end_offset, i.session_id, i.end_user, i.occurred_at, i.received_at,
       i.router_version, i.route, i.cause, i.policy, i.score, i.margin, i.propensity, i.explored,
       coalesce(i.response_model, i.request_model) as model, i.input_tokens, i.output_tokens, i.cost, i.duration_ms,
       i.finish_reason, i.error_type, p.embedding
from inference i join inference_payload p using (inference_id)
where coalesce(i.segment_count, 1) = 1 and i.route is not null and p.encoder = :encoder and p.embedding is not null
      and i.received_at > :start and i.received_at <= :watermark
union all
select i.inference_id::text, s.segment_index, i.segment_count, s.text, p.query,
       s.start_offset, s.end_offset, i.session_id, i.end_user, i.occurred_at, i.received_at,
       i.router_version, s.route, s.cause, i.policy, s.score, s.margin, s.propensity, s.explored,
       coalesce(s.request_model, i.response_model), s.input_tokens, s.output_tokens, s.cost, s.duration_ms,
       coalesce(s.finish_reason, i.finish_reason), i.error_type, s.embedding
from inference i join inference_payload p using (inference_id) join segment s using (inference_id)
where i.segment_count > 1 and s.route is not null and p.encoder = :encoder and s.embedding is not null
      and i.received_at > :start and i.received_at <= :watermark
order by occurred_at, inference_id, segment_index
""")
_VOTES = text("""
select distinct on (feedback_id) feedback_id::text, revision, op, inference_id::text, segment_index, value, correction,
       submitter, principal, annotator_kind, occurred_at, received_at
from feedback
where inference_id is not null and received_at <= :watermark
order by feedback_id, revision desc
""")
# A row that is being written now has a later time than its transaction's start (or, before the transaction has got its
# number, than its statement's), so none can slip in behind this. The clock is read before looking who is writing, and
# they are looked at anew: a transaction keeps what it once saw of them.
_CLOCK = text("select clock_timestamp() from pg_stat_clear_snapshot()")
_WATERMARK = text("""
select least(:now, min(case when backend_xid is null then query_start else xact_start end))
from pg_stat_activity
where datname = current_database() and (backend_xid is not null or state = 'active') and pid <> pg_backend_pid()
""")
_WITHOUT_EMBEDDING = text("""
select p.inference_id, p.query from inference_payload p
where (p.encoder is distinct from :encoder or p.embedding is null) and p.query is not null
      and (cast(:after as uuid) is null or p.inference_id > cast(:after as uuid))
order by p.inference_id limit :batch
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One night's material: everything retained up to the watermark.

    ``units`` has one row per routed unit, that is per segment of an inference (an unsplit inference is one unit),
    ordered by ``occurred_at``, which is never before the window nor after it: inference_id (str), segment_index,
    segment_count, text (of the segment), query (whole), start_offset, end_offset, session_id, end_user, occurred_at,
    received_at, router_version, route, cause, policy, score, margin, propensity, explored, model, input_tokens,
    output_tokens, cost (US dollars), duration_ms, finish_reason, error_type. ``embeddings`` is (len(units), D), unit
    rows, in the same order.
    ``votes`` has the latest revision of each feedback that is not withdrawn: feedback_id (str), revision,
    inference_id (str), segment_index (or missing: the whole), value ("up", "down"), correction (a route or missing),
    submitter, principal (whose key brought it), annotator_kind, occurred_at, received_at. ``since`` says from when on a
    version with an example decided, by route and text; an example that is not in it is newer than all units.
    """

    units: pd.DataFrame
    embeddings: npt.NDArray[np.float32]
    votes: pd.DataFrame
    start: datetime | None
    watermark: datetime
    since: Mapping[tuple[str, str], datetime] = field(default_factory=dict)

    def vote_revisions(self) -> list[tuple[str, int]]:
        """Which revision of which feedback is in here."""
        return list(zip(self.votes["feedback_id"], map(int, self.votes["revision"]), strict=True))


def watermark(conn: Connection) -> datetime:
    """Return the database's time up to which nothing more can appear."""
    now = conn.execute(_CLOCK).scalar_one()
    return conn.execute(_WATERMARK, {"now": now}).scalar_one()  # type: ignore[no-any-return]


def read_window(conn: Connection, *, encoder: Embedder, days: float, until: datetime | None = None) -> Window:
    """Read everything retained of the last ``days`` up to ``until`` (default: the watermark), with embeddings.

    Units without an embedding of this encoder are left out; ``embed_missing`` comes first.
    """
    end = until or watermark(conn)
    start = end - timedelta(days=days)
    bounds = {"encoder": encoder.fingerprint, "start": start, "watermark": end}
    units = _frame(conn, _UNITS, bounds)
    units, embeddings = _with_embeddings(units, dimension=encoder.dimension)
    # A client's clock that is years off must not make a window of thousands of days.
    units["occurred_at"] = units["occurred_at"].clip(lower=start, upper=end)
    votes = _frame(conn, _VOTES, {"watermark": end})
    votes = votes[(votes.pop("op") != "withdraw") & votes["inference_id"].isin(units["inference_id"])]
    return Window(units=units, embeddings=embeddings, votes=votes.reset_index(drop=True), start=start, watermark=end)


def _with_embeddings(units: pd.DataFrame, *, dimension: int) -> tuple[pd.DataFrame, npt.NDArray[np.float32]]:
    """The units and their embeddings, unit rows; what is no ``dimension`` finite numbers is damaged and left out."""
    blobs = units.pop("embedding")
    units = units[(blobs.str.len() == 2 * dimension).to_numpy(dtype=bool)]
    values = np.frombuffer(b"".join(blobs[units.index]), dtype="<f2").reshape(len(units), dimension).astype(np.float32)
    finite = np.isfinite(values).all(axis=1)
    values = values[finite]
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return units[finite].reset_index(drop=True), values


def _frame(conn: Connection, statement: Any, bounds: dict[str, object]) -> pd.DataFrame:
    result = conn.execute(statement, bounds)
    frame = pd.DataFrame(result.fetchall(), columns=list(result.keys()))
    for name in _TIMES:
        frame[name] = pd.to_datetime(frame[name], utc=True)
    for name in ("propensity", "cost", "duration_ms", "output_tokens", "score", "margin"):
        if name in frame:
            frame[name] = frame[name].astype("float64")
    return frame


def embed_missing(engine: Engine, *, encoder: Embedder, progress: Callable[[int], None] = lambda _: None) -> int:
    """Embed every stored query that has no embedding of this encoder, in committed batches; return how many.

    An interrupted night thus goes on where it stopped, and a new encoder re-embeds the past once.
    """
    done, after = 0, None
    while True:
        with engine.begin() as conn:
            bounds = {"encoder": encoder.fingerprint, "after": after, "batch": _BATCH}
            rows = conn.execute(_WITHOUT_EMBEDDING, bounds).all()
            if not rows:
                return done
            _embed_segments(conn, [row.inference_id for row in rows], encoder=encoder)
            values = _bytes(encoder.embed([row.query for row in rows]))
            named = [{"id": row.inference_id, "value": value} for row, value in zip(rows, values, strict=True)]
            where = inference_payload.c.inference_id == bindparam("id")
            statement = update(inference_payload).where(where)
            conn.execute(statement.values(embedding=bindparam("value"), encoder=encoder.fingerprint), named)
        done, after = done + len(rows), rows[-1].inference_id
        progress(done)


def _embed_segments(conn: Connection, ids: Sequence[object], *, encoder: Embedder) -> None:
    columns = (segment.c.inference_id, segment.c.segment_index, segment.c.text)
    rows = conn.execute(select(*columns).where(segment.c.inference_id.in_(ids), segment.c.text.is_not(None))).all()
    if not rows:
        return
    values = _bytes(encoder.embed([row.text for row in rows]))
    named = [
        {"id": row.inference_id, "index": row.segment_index, "value": value}
        for row, value in zip(rows, values, strict=True)
    ]
    statement = update(segment).where(
        segment.c.inference_id == bindparam("id"), segment.c.segment_index == bindparam("index")
    )
    conn.execute(statement.values(embedding=bindparam("value")), named)


def _bytes(embeddings: npt.NDArray[np.float32]) -> list[bytes]:
    return [row.astype("<f2").tobytes() for row in embeddings]

"""Read inferences: one with everything that belongs to it, or a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, RowMapping, select

from telemetry.tables import (
    feedback,
    inference,
    inference_alias,
    inference_payload,
    learner_consumption,
    mined_failure,
    segment,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInference:
    """One inference with its segments, texts, feedback, the failures mined from it and the versions that learned."""

    inference: RowMapping
    segments: Sequence[RowMapping]
    payload: RowMapping | None
    feedback: Sequence[RowMapping]
    failures: Sequence[RowMapping]
    learned_by: Sequence[int]


def read_inference(conn: Connection, inference_id: UUID) -> StoredInference | None:
    """Return the inference with all that belongs to it, None when it is not there."""
    row = conn.execute(select(inference).where(inference.c.inference_id == inference_id)).mappings().first()
    if row is None:
        return None

    def rows(statement: object) -> Sequence[RowMapping]:
        return conn.execute(statement).mappings().all()  # type: ignore[call-overload, no-any-return]

    learned = (
        select(learner_consumption.c.version)
        .distinct()
        .join(feedback, feedback.c.feedback_id == learner_consumption.c.feedback_id)
        .where(feedback.c.inference_id == inference_id)
        .order_by(learner_consumption.c.version)
    )
    payloads = rows(select(inference_payload).where(inference_payload.c.inference_id == inference_id))
    judged = select(feedback).where(feedback.c.inference_id == inference_id)
    failed = select(mined_failure).where(mined_failure.c.inference_id == inference_id)
    parts = select(segment).where(segment.c.inference_id == inference_id)
    return StoredInference(
        inference=row,
        segments=rows(parts.order_by(segment.c.segment_index)),
        payload=payloads[0] if payloads else None,
        feedback=rows(judged.order_by(feedback.c.received_at, feedback.c.revision)),
        failures=rows(failed.order_by(mined_failure.c.failure_id)),
        learned_by=list(conn.execute(learned).scalars()),
    )


def who_asked(conn: Connection, inference_id: UUID) -> RowMapping | None:
    """Return end_user (keyed hash) and session_id of an inference, None when it is not there."""
    columns = (inference.c.end_user, inference.c.session_id)
    return conn.execute(select(*columns).where(inference.c.inference_id == inference_id)).mappings().first()


def resolve_alias(conn: Connection, kind: str, value: str) -> list[UUID]:
    """Return the inferences that the id ``value`` of ``kind`` names; several when a sender repeats it."""
    statement = select(inference_alias.c.inference_id).where(
        inference_alias.c.kind == kind, inference_alias.c.value == value
    )
    return list(conn.execute(statement).scalars())


def list_inferences(
    conn: Connection, *, after: UUID | None = None, limit: int = 100, session_id: str | None = None
) -> Sequence[RowMapping]:
    """Return inferences, newest id first, from before the id ``after``."""
    statement = select(inference).order_by(inference.c.inference_id.desc()).limit(limit)
    if after:
        statement = statement.where(inference.c.inference_id < after)
    if session_id:
        statement = statement.where(inference.c.session_id == session_id)
    return conn.execute(statement).mappings().all()


def logged_queries(conn: Connection, *, encoder: str, limit: int) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Return the newest distinct logged queries that have an embedding of ``encoder``: n texts and (n, D)."""
    newest = (
        select(inference_payload.c.query, inference_payload.c.embedding)
        .where(inference_payload.c.encoder == encoder)
        .where(inference_payload.c.query.is_not(None), inference_payload.c.embedding.is_not(None))
        .order_by(inference_payload.c.inference_id.desc())
        .limit(limit)
    )
    found = {row.query: row.embedding for row in conn.execute(newest)}
    X = np.frombuffer(b"".join(found.values()), "<f2").astype(np.float32).reshape(len(found), -1 if found else 0)
    return list(found), X

"""What is logged: values that the store writes and reads and nobody changes. Shapes and units are with each field."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar, dataclass_transform
from uuid import UUID

Thumb = Literal["up", "down"]
FeedbackOp = Literal["create", "revise", "withdraw"]
Resolution = Literal["resolved", "pending", "orphaned", "ambiguous"]
AnnotatorKind = Literal["HUMAN", "LLM", "CODE"]
Redaction = Literal["full", "redacted", "none", "erased"]
StoreStatus = Literal["stored", "duplicate", "conflict", "missing", "quarantined"]
AliasKind = Literal["client_request_id", "response_id", "trace", "external_call_id"]
TargetKind = Literal["inference_id", "client_request_id", "response_id", "trace", "external_call_id"]
_Class = TypeVar("_Class")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def _record(cls: type[_Class]) -> type[_Class]:
    """A dataclass that is frozen for the type checker: frozen when it runs, an event would take a tenth longer."""
    return dataclass(slots=True, kw_only=True)(cls)


@_record
class CandidateRecord:
    """One route that was considered: its probability, its utility and its best cosine."""

    route: str
    probability: float
    utility: float
    similarity: float


@_record
class SegmentRecord:
    """A contiguous part of a query that one route answered. Offsets are characters of the query."""

    segment_index: int
    start_offset: int | None = None
    end_offset: int | None = None
    text: str | None = None
    route: str | None = None
    score: float | None = None
    margin: float | None = None
    cause: str | None = None
    candidates: tuple[CandidateRecord, ...] = ()
    propensity: float | None = None
    explored: bool | None = None
    embedding: bytes | None = None
    request_model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    duration_ms: float | None = None
    finish_reason: str | None = None


@_record
class DecisionRecord:
    """What the router chose, as it is logged. Written by the road ``route``, merged with the outcome by id.

    All but ``route`` may be missing when a client logs a decision that another router took. ``shadow_*`` is what a
    second version would have done with the same query, where one was tried beside it.
    """

    route: str
    router_version: int | None = None
    policy: str | None = None
    cause: str | None = None
    score: float | None = None
    margin: float | None = None
    propensity: float | None = None
    explored: bool | None = None
    split_reason: str | None = None
    shadow_version: int | None = None
    shadow_route: str | None = None
    shadow_agrees: bool | None = None
    candidates: tuple[CandidateRecord, ...] = ()
    segments: tuple[SegmentRecord, ...] = ()


@_record
class OutcomeRecord:
    """What came of a decision, in OTel GenAI's words. Costs are US dollars, durations milliseconds."""

    request_model: str | None = None
    response_model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    cost: float | None = None
    duration_ms: float | None = None
    ttft_ms: float | None = None
    finish_reason: str | None = None
    error_type: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@_record
class Payload:
    """The texts and the embedding (float16 bytes, little-endian) with the fingerprint of its encoder."""

    query: str | None = None
    answer: str | None = None
    embedding: bytes | None = None
    encoder: str | None = None
    redaction: Redaction = "full"


@_record
class Inference:
    """One decision carried out: ids, decision, outcome, payload. Either half may be missing when it is written."""

    inference_id: UUID
    source: str = "inferences"
    client_request_id: str | None = None
    response_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    external_call_id: str | None = None
    session_id: str | None = None
    end_user: str | None = None
    decision: DecisionRecord | None = None
    outcome: OutcomeRecord | None = None
    segment_outcomes: tuple[SegmentRecord, ...] = ()
    payload: Payload = field(default_factory=Payload)
    occurred_at: datetime | None = None
    client_sent_at: datetime | None = None
    payload_sha256: bytes | None = None


@_record
class Feedback:
    """One judgement of an inference or of one of its segments; append-only, the highest revision counts."""

    feedback_id: UUID
    target_kind: TargetKind
    target_value: str
    op: FeedbackOp = "create"
    revision: int = 1
    segment_index: int | None = None
    name: str = "thumb"
    value: Thumb | None = None
    correction: str | None = None
    comment: str | None = None
    annotator_kind: AnnotatorKind = "HUMAN"
    submitter: str | None = None
    principal: str | None = None
    payload_sha256: bytes = b""
    inference_id: UUID | None = None
    resolution: Resolution = "pending"
    occurred_at: datetime | None = None
    received_at: datetime | None = None


@_record
class StoreResult:
    """What became of one event.

    stored, duplicate (a replay), conflict (same id, other payload), missing (revises what is not there), quarantined.
    """

    id: UUID
    status: StoreStatus
    resolution: Resolution | None = None
    revision: int | None = None
    message: str = ""
    details: Mapping[str, str] = field(default_factory=dict)

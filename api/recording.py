"""From what clients send and the router decides to the records that are stored: hashing, redaction, fingerprints."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

import numpy as np
import numpy.typing as npt
import re2
from pydantic_core import to_json

from api.schemas import DecisionBody, FeedbackEvent, InferenceEvent, Judgement, SegmentBody, Strict
from router.decision import Candidate, Decision, RoutedSegment
from telemetry.ids import keyed_hash, new_id
from telemetry.records import (
    CandidateRecord,
    DecisionRecord,
    Feedback,
    Inference,
    OutcomeRecord,
    Payload,
    SegmentRecord,
    TargetKind,
)

# Addresses: a dot in the host, in any script, or a plain name as "localhost", or every mention and "react@18" would go.
_AT = r"[@\x{ff20}]"
_DOT = r"[.\x{3002}\x{ff0e}\x{ff61}]"
_HOST = r"[\p{L}\p{M}\p{Nd}_-]+"
_ADDRESS = re2.compile(
    rf"[\p{{L}}\p{{M}}\p{{Nd}}.!#$%&'*+/=?^_`|~-]+{_AT}(?:{_HOST}(?:{_DOT}{_HOST})+|[a-zA-Z][a-zA-Z0-9-]+)"
)
# Then cards, accounts, telephones, in one line: six digits with one sign at most between two, or nine with up to three.
# Nine, since eight so far apart are ordinary: "2019 - 2021", "12.99 - 15.99", "from 10.30 - 12.45". Digits, dashes and
# blanks of any script, as wide ones too; signs that are not seen come along with numbers that are copied.
_SIGN = r"[ \t\p{Zs}\p{Pd}\p{Cf}./()\x{b7}\x{2212}\x{ff08}\x{ff09}\x{ff0e}\x{ff0f}]"
_NUMBER = re2.compile(rf"[+\x{{ff0b}}]?\p{{Nd}}(?:(?:{_SIGN}{{0,3}}\p{{Nd}}){{8,}}|(?:{_SIGN}?\p{{Nd}}){{5,}})")
# One after the other: as one expression each number would look for an address up to the end of its word.
_PERSONAL = (_ADDRESS, _NUMBER)
_BLANK = "[redacted]"
_TARGETS: tuple[TargetKind, ...] = ("inference_id", "client_request_id", "response_id", "external_call_id")
Span = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """How texts and people are kept: ``store_text`` as in the settings, ``key`` for hashing people's ids."""

    store_text: Literal["full", "redacted", "none"]
    key: bytes

    def person(self, value: str | None) -> str | None:
        """Return the keyed hash of a person's id."""
        return None if value is None else keyed_hash(value, key=self.key)

    def text(self, value: str | None) -> str | None:
        """Return the text as it is kept."""
        if value is None or self.store_text == "none":
            return None
        if self.store_text == "redacted":
            for pattern in _PERSONAL:
                value = str(pattern.sub(_BLANK, value))
        return value

    def spans(self, query: str | None, spans: Sequence[Span]) -> list[Span]:
        """Return where ``spans`` of the query lie in the text that is kept of it; nowhere, where it is not at hand.

        A span that begins or ends within what is blanked takes all of the blank.
        """
        if self.store_text != "redacted":
            return list(spans)
        if query is None:
            return [(None, None)] * len(spans)
        for pattern in _PERSONAL:
            blanked = [match.span() for match in pattern.finditer(query)]
            spans = [(_moved(start, blanked, 0), _moved(end, blanked, len(_BLANK))) for start, end in spans]
            query = str(pattern.sub(_BLANK, query))
        return list(spans)

    def decision(
        self, decision: Decision, *, session_id: str | None, end_user: str | None, client_request_id: str | None
    ) -> Inference:
        """Return the router's own decision as it is logged."""
        first, shadow = decision.segments[0], decision.shadow
        split = len(decision.segments) > 1
        record = DecisionRecord(
            router_version=decision.router_version,
            policy=decision.policy,
            cause=first.cause,
            route=decision.route,
            score=first.score,
            margin=first.margin,
            propensity=math.prod(segment.propensity for segment in decision.segments),
            explored=any(segment.explored for segment in decision.segments),
            split_reason=decision.split.reason,
            shadow_version=shadow.router_version if shadow else None,
            shadow_route=shadow.route if shadow else None,
            shadow_agrees=shadow.agrees if shadow else None,
            candidates=_candidates(first.candidates),
            segments=self._segments(decision) if split else (),
        )
        return Inference(
            inference_id=decision.inference_id,
            source="route",
            client_request_id=client_request_id,
            session_id=session_id,
            end_user=self.person(end_user),
            decision=record,
            payload=Payload(
                query=self.text(decision.query),
                embedding=float16_bytes(decision.embedding),
                encoder=decision.encoder,
                redaction=self.store_text,
            ),
        )

    def _segments(self, decision: Decision) -> tuple[SegmentRecord, ...]:
        query = self.text(decision.query)
        spans = self.spans(decision.query, [(segment.start, segment.end) for segment in decision.segments])
        return tuple(
            self._segment(index, segment, span, text=None if query is None else query[slice(*span)])
            for index, (segment, span) in enumerate(zip(decision.segments, spans, strict=True))
        )

    def _segment(self, index: int, segment: RoutedSegment, span: Span, *, text: str | None) -> SegmentRecord:
        return SegmentRecord(
            segment_index=index,
            start_offset=span[0],
            end_offset=span[1],
            text=text,
            route=segment.route,
            score=segment.score,
            margin=segment.margin,
            cause=segment.cause,
            candidates=_candidates(segment.candidates),
            propensity=segment.propensity,
            explored=segment.explored,
            embedding=float16_bytes(segment.embedding),
        )

    def inference(self, event: InferenceEvent) -> Inference:
        """Return what a client logged."""
        parts = self._outcomes(event) if event.segments else ()
        return Inference(
            inference_id=event.inference_id or new_id(),
            client_request_id=event.client_request_id,
            response_id=event.response_id,
            trace_id=event.trace_id,
            span_id=event.span_id,
            external_call_id=event.external_call_id,
            session_id=event.session_id,
            end_user=self.person(event.end_user),
            decision=_external(event.decision, parts) if event.decision else None,
            outcome=_what_came(event),
            segment_outcomes=parts,
            payload=Payload(query=self.text(event.query), answer=self.text(event.answer), redaction=self.store_text),
            occurred_at=event.occurred_at,
            client_sent_at=event.client_sent_at,
            payload_sha256=_digest(event, without=None if event.client_sent_at is None else {"client_sent_at"}),
        )

    def _outcomes(self, event: InferenceEvent) -> tuple[SegmentRecord, ...]:
        spans = self.spans(event.query, [(segment.start, segment.end) for segment in event.segments])
        return tuple(self._outcome(segment, span) for segment, span in zip(event.segments, spans, strict=True))

    def _outcome(self, segment: SegmentBody, span: Span) -> SegmentRecord:
        return SegmentRecord(
            segment_index=segment.segment_index,
            start_offset=span[0],
            end_offset=span[1],
            text=self.text(segment.text),
            route=segment.route,
            request_model=segment.model,
            input_tokens=segment.input_tokens,
            output_tokens=segment.output_tokens,
            cost=segment.cost,
            duration_ms=segment.duration_ms,
            finish_reason=segment.finish_reason,
        )

    def feedback(self, event: FeedbackEvent, *, principal: str | None = None) -> Feedback:
        """Return a new judgement; ``principal`` is whose key brought it."""
        kind, value = _target(event)
        return Feedback(
            feedback_id=event.feedback_id or new_id(),
            target_kind=kind,
            target_value=value,
            segment_index=event.segment_index,
            value=event.value or "down",
            correction=event.correction,
            comment=self.text(event.comment),
            annotator_kind=event.annotator_kind,
            submitter=self.person(event.submitter),
            principal=principal,
            payload_sha256=_digest(event),
            occurred_at=event.occurred_at,
        )

    def revision(self, feedback_id: UUID, judgement: Judgement | None) -> Feedback:
        """Return a revision, or for None the withdrawal."""
        # The target stands with the first revision; the store copies it from there.
        target: dict[str, str] = {"target_kind": "inference_id", "target_value": ""}
        if judgement is None:
            return Feedback(feedback_id=feedback_id, op="withdraw", **target)  # type: ignore[arg-type]
        return Feedback(
            feedback_id=feedback_id,
            op="revise",
            segment_index=judgement.segment_index,
            value=judgement.value or "down",
            correction=judgement.correction,
            comment=self.text(judgement.comment),
            payload_sha256=_digest(judgement),
            **target,  # type: ignore[arg-type]
        )


def _what_came(event: InferenceEvent) -> OutcomeRecord:
    return OutcomeRecord(
        request_model=event.request_model,
        response_model=event.response_model,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        reasoning_output_tokens=event.reasoning_output_tokens,
        cost=event.cost,
        duration_ms=event.duration_ms,
        ttft_ms=event.ttft_ms,
        finish_reason=event.finish_reason,
        error_type=event.error_type,
        started_at=event.started_at,
        ended_at=event.ended_at,
    )


def _external(decision: DecisionBody, segments: tuple[SegmentRecord, ...]) -> DecisionRecord:
    return DecisionRecord(
        route=decision.route,
        router_version=decision.router_version,
        policy=decision.policy or "external",
        cause=decision.cause,
        score=decision.score,
        margin=decision.margin,
        propensity=decision.propensity,
        explored=decision.explored,
        candidates=tuple(CandidateRecord(**c.model_dump()) for c in decision.candidates),
        segments=segments,
    )


def _moved(offset: int | None, blanked: Sequence[tuple[int, int]], inside: int) -> int | None:
    """The offset after each of these spans was replaced by the blank; ``inside`` one, so far behind its begin."""
    if offset is None:
        return None
    shift = 0
    for start, end in blanked:
        if end <= offset:
            shift += len(_BLANK) - (end - start)
        elif start < offset:
            return start + shift + inside
    return offset + shift


def float16_bytes(embedding: npt.NDArray[np.float32]) -> bytes:
    """Return an embedding as it is stored: float16, little-endian."""
    return embedding.astype("<f2").tobytes()


def _candidates(candidates: tuple[Candidate, ...]) -> tuple[CandidateRecord, ...]:
    return tuple(
        CandidateRecord(
            route=c.route,
            probability=round(c.probability, 6),
            utility=round(c.utility, 6),
            similarity=round(c.similarity, 6),
        )
        for c in candidates
    )


def _target(event: FeedbackEvent) -> tuple[TargetKind, str]:
    if event.trace_id is not None:
        return "trace", event.trace_id if event.span_id is None else f"{event.trace_id}:{event.span_id}"
    for kind in _TARGETS:
        value = getattr(event, kind)
        if value is not None:
            return kind, str(value)
    raise AssertionError("the schema lets no event through without a target")


def _digest(event: Strict, *, without: set[str] | None = None) -> bytes:
    return hashlib.sha256(to_json(event, exclude=without, exclude_none=True)).digest()

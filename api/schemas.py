"""What clients send. Strict: no coercion, no unknown keys, no NaN, no NUL, times with a zone."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from api.settings import MOST_QUERY_CHARS


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    return value


def _near(value: datetime) -> datetime:
    if not _EARLIEST <= value <= datetime.now(UTC) + CLOCK_ERROR:
        raise ValueError("must lie between the year 2000 and tomorrow")
    return value


CLOCK_ERROR = timedelta(days=1)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_Clean = AfterValidator(_without_nul)
Moment = Annotated[AwareDatetime, AfterValidator(_near)]
Id = Annotated[str, Field(min_length=1, max_length=256), _Clean]  # trace_id and span_id must fit one index row
Name = Annotated[str, Field(min_length=1, max_length=200), _Clean]
Query = Annotated[str, Field(min_length=1, max_length=MOST_QUERY_CHARS), _Clean]
LongText = Annotated[str, Field(max_length=1_000_000), _Clean]
Comment = Annotated[str, Field(max_length=10_000), _Clean]
Count = Annotated[int, Field(ge=0, le=10**12)]
Amount = Annotated[float, Field(ge=0, le=1e12)]
Chance = Annotated[float, Field(ge=0, le=1)]
Index = Annotated[int, Field(ge=0, le=1_000)]
Offset = Annotated[int, Field(ge=0, le=1_000_000)]


class Strict(BaseModel):
    """What all requests have in common."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class RouteMetadata(Strict):
    """What may be known beside the query."""

    route: Name | None = Field(None, description="Pins this route; the router then chooses nothing.")
    client_request_id: Id | None = Field(None, description="Your own id; feedback may name it.")
    end_user: Id | None = Field(None, description="Who asks; kept as a keyed hash only.")


class RouteRequest(Strict):
    """A query to decide."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"query": "why was I charged twice?", "session_id": "s-1"}},
    )
    query: Query
    session_id: Id | None = None
    metadata: RouteMetadata = RouteMetadata()
    explore: bool = Field(True, description="False never tries another likely route.")
    log: bool = Field(True, description="False keeps no record of this decision: nothing is learned from it.")


class CandidateBody(Strict):
    """A route that was considered."""

    route: Name
    probability: Chance
    utility: Annotated[float, Field(ge=-1e6, le=1e6)]
    similarity: Annotated[float, Field(ge=-1.01, le=1.01)]


class SegmentBody(Strict):
    """One segment: its span, its route, and what came of it."""

    segment_index: Index
    start: Offset | None = None
    end: Offset | None = None
    text: Query | None = None
    route: Name | None = None
    model: Name | None = Field(None, description="The model that answered.")
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost: Amount | None = None
    duration_ms: Amount | None = None
    finish_reason: Name | None = None


class DecisionBody(Strict):
    """A decision that another router took, or that you got from /v1/route and want to be sure of."""

    route: Name
    router_version: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    policy: Name | None = None
    cause: Name | None = None
    score: Chance | None = None
    margin: Annotated[float, Field(ge=-1, le=1)] | None = None
    propensity: Chance | None = None
    explored: bool | None = None
    candidates: Annotated[list[CandidateBody], Field(max_length=100)] = Field(default_factory=list)


class InferenceEvent(Strict):
    """One decision carried out. With the id from /v1/route the decision itself is known already."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "inference_id": "01936f5e-7a3c-7d2e-8f10-3b8f0c9d1e2f",
                "response_model": "billing-slm-1.5b",
                "input_tokens": 21,
                "output_tokens": 140,
                "duration_ms": 830.5,
                "finish_reason": "stop",
            }
        }
    )
    inference_id: UUID | None = Field(None, description="As /v1/route gave it; made here when missing.")
    client_request_id: Id | None = None
    response_id: Id | None = None
    trace_id: Id | None = None
    span_id: Id | None = None
    external_call_id: Id | None = None
    session_id: Id | None = None
    end_user: Id | None = None
    query: Query | None = Field(None, description="Needed when the decision did not come from /v1/route.")
    answer: LongText | None = None
    decision: DecisionBody | None = None
    request_model: Name | None = None
    response_model: Name | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    reasoning_output_tokens: Count | None = None
    cost: Amount | None = Field(None, description="US dollars.")
    duration_ms: Amount | None = None
    ttft_ms: Amount | None = None
    finish_reason: Name | None = None
    error_type: Name | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    occurred_at: Moment | None = None
    client_sent_at: Moment | None = Field(None, description="Your clock now; repairs its error.")
    segments: Annotated[list[SegmentBody], Field(max_length=100)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _says_what_it_is_about(self) -> "InferenceEvent":
        if self.inference_id is None and self.query is None:
            raise ValueError("needs inference_id (from /v1/route) or query")
        if self.span_id is not None and self.trace_id is None:
            raise ValueError("span_id needs trace_id")
        if self.segments and len({s.segment_index for s in self.segments}) < len(self.segments):
            raise ValueError("segments name one segment_index twice")
        if self.occurred_at and self.client_sent_at and self.occurred_at - self.client_sent_at > CLOCK_ERROR:
            raise ValueError("occurred_at is more than a day after client_sent_at")
        return self


class Judgement(Strict):
    """What a judgement says; also the body of a revision."""

    model_config = ConfigDict(json_schema_extra={"example": {"value": "down", "correction": "refunds"}})
    value: Literal["up", "down"] | None = None
    correction: Name | None = Field(None, description="The route that would have been right; implies down.")
    comment: Comment | None = None
    segment_index: Index | None = Field(None, description="Which segment is meant; missing: the whole.")

    @model_validator(mode="after")
    def _says_something(self) -> "Judgement":
        if self.value is None and self.correction is None:
            raise ValueError("needs value (up or down) or correction (a route)")
        if self.value == "up" and self.correction is not None:
            raise ValueError("an up vote cannot carry a correction")
        return self


class FeedbackEvent(Judgement):
    """One judgement of an inference, named by exactly one of its ids; it may come before the inference."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"inference_id": "01936f5e-7a3c-7d2e-8f10-3b8f0c9d1e2f", "value": "up"}}
    )
    feedback_id: UUID | None = Field(None, description="Your own id makes repeating safe.")
    inference_id: UUID | None = None
    client_request_id: Id | None = None
    response_id: Id | None = None
    trace_id: Id | None = None
    span_id: Id | None = None
    external_call_id: Id | None = None
    annotator_kind: Literal["HUMAN", "LLM", "CODE"] = "HUMAN"
    submitter: Id | None = Field(None, description="Who judges; kept as a keyed hash only.")
    occurred_at: Moment | None = None

    @model_validator(mode="after")
    def _names_one_target(self) -> "FeedbackEvent":
        names = ("inference_id", "client_request_id", "response_id", "trace_id", "external_call_id")
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"needs exactly one of {', '.join(names)}")
        if self.span_id is not None and self.trace_id is None:
            raise ValueError("span_id needs trace_id")
        return self


class SwitchRequest(Strict):
    """Why the serving version changes."""

    model_config = ConfigDict(json_schema_extra={"example": {"reason": "travel questions go to billing since 9:00"}})
    reason: Annotated[str, Field(min_length=1, max_length=2_000), _Clean]
    actor: Name = "api"
    if_seq: Annotated[int, Field(ge=0, lt=2**62)] | None = Field(
        None, description="Only if this is still the newest activation."
    )


class RollbackRequest(SwitchRequest):
    """Go back; without ``to``, to the version that served before."""

    to: Annotated[int, Field(ge=0, lt=2**31)] | None = None


class TrialRequest(SwitchRequest):
    """Try a version beside the one that serves."""

    model_config = ConfigDict(json_schema_extra={"example": {"mode": "canary", "reason": "looks good in shadow"}})
    mode: Literal["shadow", "canary"] = Field("canary", description="Shadow decides for nobody, canary for a share.")
    share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Of the sessions, for a canary; the first stage's where it is missing."
    )


class PromoteRequest(Strict):
    """Let the version on trial serve all, or end its hold-out."""

    model_config = ConfigDict(json_schema_extra={"example": {"reason": "a day without complaints"}})
    reason: Annotated[str, Field(min_length=1, max_length=2_000), _Clean]
    actor: Name = "api"


class PinRequest(PromoteRequest):
    """Pin a version (the one that serves, when neither is named) or a route; or end that pin."""

    model_config = ConfigDict(json_schema_extra={"example": {"route": "travel", "reason": "audited, leave it"}})
    version: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    route: Name | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "PinRequest":
        if self.version is not None and self.route is not None:
            raise ValueError("names either a version or a route; pin one after the other")
        return self


class GoldenRequest(Strict):
    """A query with the routes that it must go to; or an inference whose thumbs-down becomes one."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"query": "why was I charged twice?", "routes": ["billing"]}}
    )
    query: Query | None = None
    routes: Annotated[list[Name], Field(max_length=20)] = Field(
        [], description="Of its segments, in order; of an inference: what the user's correction named, when missing."
    )
    inference_id: UUID | None = None
    actor: Name = "api"

    @model_validator(mode="after")
    def _says_which_query(self) -> "GoldenRequest":
        if (self.query is None) == (self.inference_id is None):
            raise ValueError("needs either query or inference_id")
        if self.query is not None and not self.routes:
            raise ValueError("a query needs routes")
        return self


class LearnRequest(Strict):
    """Start a night."""

    model_config = ConfigDict(json_schema_extra={"example": {"force": False}})
    force: bool = Field(False, description="Learn even when nothing new came in.")


class TokenRequest(Strict):
    """Which logged inference somebody shall be able to judge."""

    model_config = ConfigDict(json_schema_extra={"example": {"inference_id": "01936f5e-7a3c-7d2e-8f10-3b8f0c9d1e2f"}})
    inference_id: UUID


BODIES: tuple[type[Strict], ...] = (
    *(RouteRequest, InferenceEvent, Judgement, FeedbackEvent, TokenRequest),
    *(SwitchRequest, RollbackRequest, LearnRequest),
    *(TrialRequest, PromoteRequest, PinRequest, GoldenRequest),
)

"""All tables of Trimtab, in one place.

Columns carry our own stable names. All times are ``timestamptz``. Large vectors are little-endian float16 bytes.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _time(name: str, *, required: bool = False, now: bool = False) -> Column[object]:
    default = func.clock_timestamp() if now else None
    return Column(name, DateTime(timezone=True), nullable=not (required or now), server_default=default)


inference = Table(
    "inference",
    metadata,
    Column("inference_id", PG_UUID(as_uuid=True), primary_key=True),
    Column("client_request_id", Text),
    Column("response_id", Text, comment="as the upstream answered it; some senders repeat it"),
    Column("trace_id", Text),
    Column("span_id", Text),
    Column("external_call_id", Text, comment="LiteLLM's litellm_call_id"),
    Column("session_id", Text),
    Column("end_user", Text, comment="keyed hash"),
    Column("router_version", Integer),
    Column("policy", Text),
    Column("cause", Text),
    Column("route", Text),
    Column("score", Float),
    Column("margin", Float),
    Column("candidates", JSONB),
    Column("propensity", Float),
    Column("explored", Boolean),
    Column("split_reason", Text),
    Column("segment_count", SmallInteger),
    Column("shadow_version", Integer, comment="decided beside; with its route, and whether it would do the same"),
    Column("shadow_route", Text),
    Column("shadow_agrees", Boolean),
    Column("request_model", Text),
    Column("response_model", Text),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("reasoning_output_tokens", BigInteger),
    Column("cost", Float, comment="US dollars"),
    Column("duration_ms", Float),
    Column("ttft_ms", Float, comment="time to first token"),
    Column("finish_reason", Text),
    Column("error_type", Text),
    _time("started_at"),
    _time("ended_at"),
    _time("client_sent_at"),
    _time("occurred_at", now=True),
    _time("received_at", now=True),
    Column("sources", ARRAY(Text), nullable=False, comment="the roads it came by: route, inferences"),
    Column("payload_sha256", LargeBinary, comment="of the logged event; null while only the decision is known"),
    UniqueConstraint("trace_id", "span_id"),
    Index(None, "received_at"),
    Index(None, "session_id", "occurred_at"),
    Index(None, "end_user"),
)

segment = Table(
    "segment",
    metadata,
    Column(
        "inference_id", PG_UUID(as_uuid=True), ForeignKey("inference.inference_id", ondelete="CASCADE"), nullable=False
    ),
    Column("segment_index", SmallInteger, nullable=False),
    Column("start_offset", Integer, comment="characters from the start of the query"),
    Column("end_offset", Integer),
    Column("text", Text),
    Column("route", Text),
    Column("score", Float),
    Column("margin", Float),
    Column("cause", Text),
    Column("candidates", JSONB),
    Column("propensity", Float),
    Column("explored", Boolean),
    Column("embedding", LargeBinary, comment="float16, little-endian; null where the segment is the whole query"),
    Column("request_model", Text),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("cost", Float),
    Column("duration_ms", Float),
    Column("finish_reason", Text),
    PrimaryKeyConstraint("inference_id", "segment_index"),
)

inference_payload = Table(
    "inference_payload",
    metadata,
    Column(
        "inference_id",
        PG_UUID(as_uuid=True),
        ForeignKey("inference.inference_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("query", Text),
    Column("answer", Text),
    Column("embedding", LargeBinary, comment="of the whole query; float16, little-endian"),
    Column("encoder", Text, comment="fingerprint of the encoder that made the embeddings"),
    Column("redaction", Text, nullable=False, server_default="full", comment="full, redacted, none or erased"),
    CheckConstraint("redaction in ('full', 'redacted', 'none', 'erased')", name="redaction"),
)

inference_alias = Table(
    "inference_alias",
    metadata,
    Column("kind", Text, nullable=False, comment="client_request_id, response_id, trace, external_call_id"),
    Column("value", Text, nullable=False),
    Column(
        "inference_id", PG_UUID(as_uuid=True), ForeignKey("inference.inference_id", ondelete="CASCADE"), nullable=False
    ),
    PrimaryKeyConstraint("kind", "value", "inference_id"),
    Index(None, "inference_id"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("feedback_id", PG_UUID(as_uuid=True), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("op", Text, nullable=False),
    Column("target_kind", Text, nullable=False, comment="inference_id or a kind of inference_alias"),
    Column("target_value", Text, nullable=False),
    Column("segment_index", SmallInteger, comment="null: the whole inference"),
    Column("inference_id", PG_UUID(as_uuid=True), comment="null until resolved"),
    Column("resolution", Text, nullable=False),
    Column("name", Text, nullable=False, server_default="thumb"),
    Column("value", Text, comment="up or down; null when withdrawn"),
    Column("correction", Text, comment="the route that would have been right"),
    Column("comment", Text),
    Column("annotator_kind", Text, nullable=False, server_default="HUMAN"),
    Column("submitter", Text, comment="keyed hash of who voted"),
    Column("principal", Text, comment="the API key that brought it"),
    Column("payload_sha256", LargeBinary, nullable=False),
    _time("occurred_at", now=True),
    _time("received_at", now=True),
    PrimaryKeyConstraint("feedback_id", "revision"),
    CheckConstraint("op in ('create', 'revise', 'withdraw')", name="op"),
    CheckConstraint("resolution in ('resolved', 'pending', 'orphaned', 'ambiguous')", name="resolution"),
    CheckConstraint("value is null or value in ('up', 'down')", name="value"),
    CheckConstraint("annotator_kind in ('HUMAN', 'LLM', 'CODE')", name="annotator_kind"),
    Index(None, "inference_id"),
    Index(None, "received_at"),
    Index(
        "ix_feedback_unresolved",
        "target_kind",
        "target_value",
        postgresql_where=text("resolution <> 'resolved'"),
    ),
)

router_version = Table(
    "router_version",
    metadata,
    Column("number", Integer, Identity(), primary_key=True),
    Column("fingerprint", Text, nullable=False, comment="sha256 of the manifest, hexadecimal"),
    Column("manifest", JSONB, nullable=False),
    Column("parent", Integer, ForeignKey("router_version.number")),
    Column("encoder", Text, nullable=False),
    Column("fleet", Text, nullable=False),
    _time("window_start"),
    _time("window_end"),
    _time("watermark"),
    Column("report", JSONB),
    Column("status", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    _time("created_at", now=True),
    UniqueConstraint("fingerprint"),
    CheckConstraint(
        "status in ('candidate', 'shadow', 'canary', 'active', 'retired', 'rejected', 'quarantined')", name="status"
    ),
)

router_artifact = Table(
    "router_artifact",
    metadata,
    Column("version", Integer, ForeignKey("router_version.number"), nullable=False),
    Column("part", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("bytes", LargeBinary, nullable=False),
    PrimaryKeyConstraint("version", "part"),
)

router_activation = Table(
    "router_activation",
    metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("version", Integer, ForeignKey("router_version.number"), nullable=False),
    Column("share", Float, nullable=False, server_default="1", comment="of the sessions; 1 but for a second version"),
    Column("kind", Text, nullable=False),
    Column("route", Text, comment="that is pinned or unpinned; null: the version"),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("hash", Text, nullable=False, comment="sha256 over the previous row's hash and this row"),
    _time("activated_at", now=True),
    CheckConstraint(
        "kind in ('publish', 'shadow', 'canary', 'holdout', 'rollback', 'auto_rollback', 'pin', 'unpin')", name="kind"
    ),
    CheckConstraint("share >= 0 and share <= 1", name="share"),
)

learner_lease = Table(
    "learner_lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("fencing_token", BigInteger, nullable=False, comment="grows with every lease; publishing checks it"),
    Column("holder", Text),
    _time("expires_at"),
)

learner_run = Table(
    "learner_run",
    metadata,
    Column("run_id", PG_UUID(as_uuid=True), primary_key=True),
    Column("fencing_token", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("step", Text),
    _time("started_at", now=True),
    _time("heartbeat_at", now=True),
    _time("finished_at"),
    _time("window_start"),
    _time("watermark"),
    Column("counts", JSONB, comment="mined failures by kind, requests, votes"),
    Column("candidate", Integer, ForeignKey("router_version.number")),
    Column("verdict", Text),
    Column("reasons", JSONB),
    Column("report", JSONB),
    Column("error", Text),
    CheckConstraint("status in ('running', 'finished', 'failed', 'abandoned')", name="status"),
    CheckConstraint(
        "verdict is null or verdict in ('published', 'held', 'canary', 'shadow', 'nothing_to_learn')", name="verdict"
    ),
    Index(None, "started_at"),
)

mined_failure = Table(
    "mined_failure",
    metadata,
    Column("failure_id", BigInteger, Identity(), primary_key=True),
    Column("run_id", PG_UUID(as_uuid=True), ForeignKey("learner_run.run_id", ondelete="CASCADE"), nullable=False),
    Column("inference_id", PG_UUID(as_uuid=True), ForeignKey("inference.inference_id", ondelete="CASCADE")),
    Column("segment_index", SmallInteger),
    Column("kind", Text, nullable=False),
    Column("evidence", JSONB, nullable=False),
    Column("suggested_route", Text),
    Column("weight", Float, nullable=False),
    Index(None, "run_id", "kind"),
    Index(None, "inference_id"),
)

learner_consumption = Table(
    "learner_consumption",
    metadata,
    Column("feedback_id", PG_UUID(as_uuid=True), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("version", Integer, ForeignKey("router_version.number"), nullable=False),
    PrimaryKeyConstraint("feedback_id", "revision", "version"),
    ForeignKeyConstraint(
        ["feedback_id", "revision"], ["feedback.feedback_id", "feedback.revision"], ondelete="CASCADE"
    ),
    Index(None, "version"),
)

dead_letter = Table(
    "dead_letter",
    metadata,
    Column("dead_letter_id", BigInteger, Identity(), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("reason_code", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("replayed", Boolean, nullable=False, server_default=text("false")),
    _time("received_at", now=True),
)

_SAYS_WHERE = "the correction that says where it belongs; null: whoever added it says so"
golden_query = Table(
    "golden_query",
    metadata,
    Column("golden_id", Text, primary_key=True, comment="sha256 of the query, its first 16 digits"),
    Column("query", Text, nullable=False),
    Column("routes", ARRAY(Text), nullable=False, comment="of its segments, in order"),
    Column("inference_id", PG_UUID(as_uuid=True), comment="whose thumbs-down was promoted"),
    Column("feedback_id", PG_UUID(as_uuid=True), comment=_SAYS_WHERE),
    Column("people", ARRAY(Text), comment="keyed hashes of who asked and who corrected"),
    Column("added_by", Text, nullable=False),
    _time("added_at", now=True),
)

notification = Table(
    "notification",
    metadata,
    Column("notification_id", BigInteger, Identity(), primary_key=True),
    Column("body", JSONB, nullable=False, comment="as it is posted to the webhook"),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("problem", Text, comment="why the last attempt failed"),
    *(_time("created_at", now=True), _time("next_at", now=True), _time("delivered_at")),
)

api_key = Table(
    "api_key",
    metadata,
    Column("key_id", Text, primary_key=True, comment="the part of the key that is no secret"),
    Column("name", Text, nullable=False, comment="the principal of the feedback it brings"),
    Column("sha256", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("limits", JSONB, nullable=False, comment="rate, concurrency, body_bytes; what is missing is as set"),
    Column("created_by", Text, nullable=False),
    *(_time("created_at", now=True), _time("expires_at"), _time("revoked_at")),
    Index("uq_api_key_name", "name", unique=True, postgresql_where=text("revoked_at is null")),
)

_erasure_columns = (Column("erasure_id", BigInteger, Identity(), primary_key=True), _time("erased_at", now=True))
erasure = Table("erasure", metadata, *_erasure_columns, Column("counts", JSONB, nullable=False))

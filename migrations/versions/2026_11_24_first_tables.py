"""first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.create_table(
        "dead_letter",
        sa.Column("dead_letter_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("replayed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "received_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("dead_letter_id", name=op.f("pk_dead_letter")),
    )
    op.create_table(
        "feedback",
        sa.Column("feedback_id", sa.UUID(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("target_kind", sa.Text(), nullable=False, comment="inference_id or a kind of inference_alias"),
        sa.Column("target_value", sa.Text(), nullable=False),
        sa.Column("segment_index", sa.SmallInteger(), nullable=True, comment="null: the whole inference"),
        sa.Column("inference_id", sa.UUID(), nullable=True, comment="null until resolved"),
        sa.Column("resolution", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="thumb", nullable=False),
        sa.Column("value", sa.Text(), nullable=True, comment="up or down; null when withdrawn"),
        sa.Column("correction", sa.Text(), nullable=True, comment="the route that would have been right"),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("annotator_kind", sa.Text(), server_default="HUMAN", nullable=False),
        sa.Column("submitter", sa.Text(), nullable=True, comment="keyed hash of who voted"),
        sa.Column("principal", sa.Text(), nullable=True, comment="the API key that brought it"),
        sa.Column("payload_sha256", sa.LargeBinary(), nullable=False),
        sa.Column(
            "occurred_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "received_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint("annotator_kind in ('HUMAN', 'LLM', 'CODE')", name=op.f("ck_feedback_annotator_kind")),
        sa.CheckConstraint("op in ('create', 'revise', 'withdraw')", name=op.f("ck_feedback_op")),
        sa.CheckConstraint(
            "resolution in ('resolved', 'pending', 'orphaned', 'ambiguous')", name=op.f("ck_feedback_resolution")
        ),
        sa.CheckConstraint("value is null or value in ('up', 'down')", name=op.f("ck_feedback_value")),
        sa.PrimaryKeyConstraint("feedback_id", "revision", name=op.f("pk_feedback")),
    )
    op.create_index(op.f("ix_feedback_inference_id"), "feedback", ["inference_id"], unique=False)
    op.create_index(op.f("ix_feedback_received_at"), "feedback", ["received_at"], unique=False)
    op.create_index(
        "ix_feedback_unresolved",
        "feedback",
        ["target_kind", "target_value"],
        unique=False,
        postgresql_where=sa.text("resolution <> 'resolved'"),
    )
    op.create_table(
        "inference",
        sa.Column("inference_id", sa.UUID(), nullable=False),
        sa.Column("client_request_id", sa.Text(), nullable=True),
        sa.Column(
            "response_id", sa.Text(), nullable=True, comment="as the upstream answered it; some senders repeat it"
        ),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("span_id", sa.Text(), nullable=True),
        sa.Column("external_call_id", sa.Text(), nullable=True, comment="LiteLLM's litellm_call_id"),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("end_user", sa.Text(), nullable=True, comment="keyed hash"),
        sa.Column("router_version", sa.Integer(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("route", sa.Text(), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("margin", sa.Float(), nullable=True),
        sa.Column("candidates", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("propensity", sa.Float(), nullable=True),
        sa.Column("explored", sa.Boolean(), nullable=True),
        sa.Column("split_reason", sa.Text(), nullable=True),
        sa.Column("segment_count", sa.SmallInteger(), nullable=True),
        sa.Column("request_model", sa.Text(), nullable=True),
        sa.Column("response_model", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost", sa.Float(), nullable=True, comment="US dollars"),
        sa.Column("duration_ms", sa.Float(), nullable=True),
        sa.Column("ttft_ms", sa.Float(), nullable=True, comment="time to first token"),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.Column("error_type", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("client_sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "occurred_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "received_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "sources", postgresql.ARRAY(sa.Text()), nullable=False, comment="the roads it came by: route, inferences"
        ),
        sa.Column(
            "payload_sha256",
            sa.LargeBinary(),
            nullable=True,
            comment="of the logged event; null while only the decision is known",
        ),
        sa.PrimaryKeyConstraint("inference_id", name=op.f("pk_inference")),
        sa.UniqueConstraint("trace_id", "span_id", name=op.f("uq_inference_trace_id_span_id")),
    )
    op.create_index(op.f("ix_inference_end_user"), "inference", ["end_user"], unique=False)
    op.create_index(op.f("ix_inference_received_at"), "inference", ["received_at"], unique=False)
    op.create_index(
        op.f("ix_inference_session_id_occurred_at"), "inference", ["session_id", "occurred_at"], unique=False
    )
    op.create_table(
        "learner_lease",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "fencing_token", sa.BigInteger(), nullable=False, comment="grows with every lease; publishing checks it"
        ),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_learner_lease")),
    )
    op.create_table(
        "router_version",
        sa.Column("number", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False, comment="sha256 of the manifest, hexadecimal"),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("encoder", sa.Text(), nullable=False),
        sa.Column("fleet", sa.Text(), nullable=False),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("window_end", sa.DateTime(timezone=True), nullable=True),
        sa.Column("watermark", sa.DateTime(timezone=True), nullable=True),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "status in ('candidate', 'shadow', 'canary', 'active', 'retired', 'rejected', 'quarantined')",
            name=op.f("ck_router_version_status"),
        ),
        sa.ForeignKeyConstraint(
            ["parent"], ["router_version.number"], name=op.f("fk_router_version_parent_router_version")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_router_version")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_router_version_fingerprint")),
    )
    op.create_table(
        "inference_alias",
        sa.Column("kind", sa.Text(), nullable=False, comment="client_request_id, response_id, trace, external_call_id"),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("inference_id", sa.UUID(), nullable=False),
        sa.ForeignKeyConstraint(
            ["inference_id"],
            ["inference.inference_id"],
            name=op.f("fk_inference_alias_inference_id_inference"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("kind", "value", "inference_id", name=op.f("pk_inference_alias")),
    )
    op.create_index(op.f("ix_inference_alias_inference_id"), "inference_alias", ["inference_id"], unique=False)
    op.create_table(
        "inference_payload",
        sa.Column("inference_id", sa.UUID(), nullable=False),
        sa.Column("query", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("embedding", sa.LargeBinary(), nullable=True, comment="of the whole query; float16, little-endian"),
        sa.Column("encoder", sa.Text(), nullable=True, comment="fingerprint of the encoder that made the embeddings"),
        sa.Column(
            "redaction", sa.Text(), server_default="full", nullable=False, comment="full, redacted, none or erased"
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "redaction in ('full', 'redacted', 'none', 'erased')", name=op.f("ck_inference_payload_redaction")
        ),
        sa.ForeignKeyConstraint(
            ["inference_id"],
            ["inference.inference_id"],
            name=op.f("fk_inference_payload_inference_id_inference"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("inference_id", name=op.f("pk_inference_payload")),
    )
    op.create_table(
        "learner_consumption",
        sa.Column("feedback_id", sa.UUID(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["feedback_id", "revision"],
            ["feedback.feedback_id", "feedback.revision"],
            name=op.f("fk_learner_consumption_feedback_id_feedback"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["version"], ["router_version.number"], name=op.f("fk_learner_consumption_version_router_version")
        ),
        sa.PrimaryKeyConstraint("feedback_id", "revision", "version", name=op.f("pk_learner_consumption")),
    )
    op.create_index(op.f("ix_learner_consumption_version"), "learner_consumption", ["version"], unique=False)
    op.create_table(
        "learner_run",
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("fencing_token", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=True),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column(
            "heartbeat_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("window_start", sa.DateTime(timezone=True), nullable=True),
        sa.Column("watermark", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "counts",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="mined failures by kind, requests, votes",
        ),
        sa.Column("candidate", sa.Integer(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("reasons", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("report", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status in ('running', 'finished', 'failed', 'abandoned')", name=op.f("ck_learner_run_status")
        ),
        sa.CheckConstraint(
            "verdict is null or verdict in ('published', 'held', 'canary', 'nothing_to_learn')",
            name=op.f("ck_learner_run_verdict"),
        ),
        sa.ForeignKeyConstraint(
            ["candidate"], ["router_version.number"], name=op.f("fk_learner_run_candidate_router_version")
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_learner_run")),
    )
    op.create_index(op.f("ix_learner_run_started_at"), "learner_run", ["started_at"], unique=False)
    op.create_table(
        "router_activation",
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "share", sa.Float(), server_default="1", nullable=False, comment="of the sessions; 1 but for a canary"
        ),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False, comment="sha256 over the previous row's hash and this row"),
        sa.Column(
            "activated_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.CheckConstraint(
            "kind in ('publish', 'canary', 'rollback', 'auto_rollback')", name=op.f("ck_router_activation_kind")
        ),
        sa.CheckConstraint("share > 0 and share <= 1", name=op.f("ck_router_activation_share")),
        sa.ForeignKeyConstraint(
            ["version"], ["router_version.number"], name=op.f("fk_router_activation_version_router_version")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_router_activation")),
    )
    op.create_table(
        "router_artifact",
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("bytes", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version"], ["router_version.number"], name=op.f("fk_router_artifact_version_router_version")
        ),
        sa.PrimaryKeyConstraint("version", "part", name=op.f("pk_router_artifact")),
    )
    op.create_table(
        "segment",
        sa.Column("inference_id", sa.UUID(), nullable=False),
        sa.Column("segment_index", sa.SmallInteger(), nullable=False),
        sa.Column("start_offset", sa.Integer(), nullable=True, comment="characters from the start of the query"),
        sa.Column("end_offset", sa.Integer(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("route", sa.Text(), nullable=True),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("margin", sa.Float(), nullable=True),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("candidates", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("propensity", sa.Float(), nullable=True),
        sa.Column("explored", sa.Boolean(), nullable=True),
        sa.Column(
            "embedding",
            sa.LargeBinary(),
            nullable=True,
            comment="float16, little-endian; null where the segment is the whole query",
        ),
        sa.Column("request_model", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost", sa.Float(), nullable=True),
        sa.Column("duration_ms", sa.Float(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["inference_id"],
            ["inference.inference_id"],
            name=op.f("fk_segment_inference_id_inference"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("inference_id", "segment_index", name=op.f("pk_segment")),
    )
    op.create_table(
        "mined_failure",
        sa.Column("failure_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("run_id", sa.UUID(), nullable=False),
        sa.Column("inference_id", sa.UUID(), nullable=True),
        sa.Column("segment_index", sa.SmallInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("evidence", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("suggested_route", sa.Text(), nullable=True),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["inference_id"],
            ["inference.inference_id"],
            name=op.f("fk_mined_failure_inference_id_inference"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["learner_run.run_id"], name=op.f("fk_mined_failure_run_id_learner_run"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("failure_id", name=op.f("pk_mined_failure")),
    )
    op.create_index(op.f("ix_mined_failure_inference_id"), "mined_failure", ["inference_id"], unique=False)
    op.create_index(op.f("ix_mined_failure_run_id_kind"), "mined_failure", ["run_id", "kind"], unique=False)


def downgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.drop_index(op.f("ix_mined_failure_run_id_kind"), table_name="mined_failure")
    op.drop_index(op.f("ix_mined_failure_inference_id"), table_name="mined_failure")
    op.drop_table("mined_failure")
    op.drop_table("segment")
    op.drop_table("router_artifact")
    op.drop_table("router_activation")
    op.drop_index(op.f("ix_learner_run_started_at"), table_name="learner_run")
    op.drop_table("learner_run")
    op.drop_index(op.f("ix_learner_consumption_version"), table_name="learner_consumption")
    op.drop_table("learner_consumption")
    op.drop_table("inference_payload")
    op.drop_index(op.f("ix_inference_alias_inference_id"), table_name="inference_alias")
    op.drop_table("inference_alias")
    op.drop_table("router_version")
    op.drop_table("learner_lease")
    op.drop_index(op.f("ix_inference_session_id_occurred_at"), table_name="inference")
    op.drop_index(op.f("ix_inference_received_at"), table_name="inference")
    op.drop_index(op.f("ix_inference_end_user"), table_name="inference")
    op.drop_table("inference")
    op.drop_index("ix_feedback_unresolved", table_name="feedback", postgresql_where=sa.text("resolution <> 'resolved'"))
    op.drop_index(op.f("ix_feedback_received_at"), table_name="feedback")
    op.drop_index(op.f("ix_feedback_inference_id"), table_name="feedback")
    op.drop_table("feedback")
    op.drop_table("dead_letter")

"""shadow, canary and hold-out; pins; golden queries; notifications."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_25_rollouts"
down_revision = "0001"
branch_labels = None
depends_on = None

_KINDS = "kind in ('publish', {}'rollback', 'auto_rollback'{})"
_VERDICTS = "verdict is null or verdict in ('published', 'held', 'canary', {}'nothing_to_learn')"


def _check(table: str, name: str, condition: str, *, not_valid: bool = False) -> None:
    """Replace a check; on the way down, rows of newer code stay as they are: the history is never changed."""
    op.drop_constraint(op.f(f"ck_{table}_{name}"), table)
    op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition, postgresql_not_valid=not_valid)


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    about = "decided beside; with its route, and whether it would do the same"
    op.add_column("inference", sa.Column("shadow_version", sa.Integer(), nullable=True, comment=about))
    op.add_column("inference", sa.Column("shadow_route", sa.Text(), nullable=True))
    op.add_column("inference", sa.Column("shadow_agrees", sa.Boolean(), nullable=True))
    pinned = "that is pinned or unpinned; null: the version"
    op.add_column("router_activation", sa.Column("route", sa.Text(), nullable=True, comment=pinned))
    op.alter_column("router_activation", "share", comment="of the sessions; 1 but for a second version")
    _check("router_activation", "kind", _KINDS.format("'shadow', 'canary', 'holdout', ", ", 'pin', 'unpin'"))
    _check("router_activation", "share", "share >= 0 and share <= 1")
    _check("learner_run", "verdict", _VERDICTS.format("'shadow', "))
    now = sa.text("clock_timestamp()")
    op.create_table(
        "golden_query",
        sa.Column("golden_id", sa.Text(), nullable=False, comment="sha256 of the query, its first 16 digits"),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("routes", postgresql.ARRAY(sa.Text()), nullable=False, comment="of its segments, in order"),
        sa.Column("inference_id", sa.UUID(), nullable=True, comment="whose thumbs-down was promoted"),
        sa.Column("added_by", sa.Text(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("golden_id", name=op.f("pk_golden_query")),
    )
    op.create_table(
        "notification",
        sa.Column("notification_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("body", postgresql.JSONB(), nullable=False, comment="as it is posted to the webhook"),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("problem", sa.Text(), nullable=True, comment="why the last attempt failed"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=now, nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("notification_id", name=op.f("pk_notification")),
    )


def downgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.drop_table("notification")
    op.drop_table("golden_query")
    _check("learner_run", "verdict", _VERDICTS.format(""), not_valid=True)
    _check("router_activation", "share", "share > 0 and share <= 1", not_valid=True)
    _check("router_activation", "kind", _KINDS.format("'canary', ", ""), not_valid=True)
    op.alter_column("router_activation", "share", comment="of the sessions; 1 but for a canary")
    op.drop_column("router_activation", "route")
    for name in ("shadow_agrees", "shadow_route", "shadow_version"):
        op.drop_column("inference", name)

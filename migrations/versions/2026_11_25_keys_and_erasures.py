"""API keys, and when people were erased."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_25_keys"
down_revision = "2026_11_25_rollouts"
branch_labels = None
depends_on = None


def _time(name: str, *, now: bool = False) -> sa.Column[object]:
    default = sa.text("clock_timestamp()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=not now)


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.create_table(
        "api_key",
        sa.Column("key_id", sa.Text(), nullable=False, comment="the part of the key that is no secret"),
        sa.Column("name", sa.Text(), nullable=False, comment="the principal of the feedback it brings"),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column(
            "limits",
            postgresql.JSONB(),
            nullable=False,
            comment="rate, concurrency, body_bytes; what is missing is as set",
        ),
        sa.Column("created_by", sa.Text(), nullable=False),
        _time("created_at", now=True),
        _time("expires_at"),
        _time("revoked_at"),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_api_key")),
    )
    op.create_index("uq_api_key_name", "api_key", ["name"], unique=True, postgresql_where=sa.text("revoked_at is null"))
    op.create_table(
        "erasure",
        sa.Column("erasure_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        _time("erased_at", now=True),
        sa.Column("counts", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("erasure_id", name=op.f("pk_erasure")),
    )


def downgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.drop_table("erasure")
    op.drop_table("api_key")

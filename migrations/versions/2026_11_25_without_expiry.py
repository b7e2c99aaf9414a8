"""Payloads have no time of their own at which they expire: what goes when is a setting, told by when it came."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_25_without_expiry"
down_revision = "2026_11_25_keys"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    # No code that reads it was ever released, so nobody is broken by this.
    op.execute("-- squawk-ignore ban-drop-column\nalter table inference_payload drop column expires_at")


def downgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column("inference_payload", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))

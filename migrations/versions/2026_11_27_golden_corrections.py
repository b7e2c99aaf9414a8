"""Golden queries know which correction they follow and whose words they are."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "2026_11_27_golden"
down_revision = "2026_11_25_without_expiry"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    said = "the correction that says where it belongs; null: whoever added it says so"
    op.add_column("golden_query", sa.Column("feedback_id", sa.UUID(), nullable=True, comment=said))
    whose = "keyed hashes of who asked and who corrected"
    op.add_column("golden_query", sa.Column("people", postgresql.ARRAY(sa.Text()), nullable=True, comment=whose))


def downgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.drop_column("golden_query", "people")
    op.drop_column("golden_query", "feedback_id")

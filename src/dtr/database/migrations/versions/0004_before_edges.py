"""which manifests have an edge to everything that they refer to

Revision: 0004, after 0003.

The edges themselves are made by collection before it looks at anything, a few manifests in a
transaction, also for what an older program stores while this one runs.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "manifests",
        sa.Column("edge_rules", sa.SmallInteger(), server_default="0", nullable=False),
    )
    op.create_index(
        "ix_manifests_edges",
        "manifests",
        ["id"],
        sqlite_where=sa.text("edge_rules = 0"),
        postgresql_where=sa.text("edge_rules = 0"),
    )

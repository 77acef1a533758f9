"""an index that knows how large the referrers of a manifest are

Revision: 0005, after 0004.

It takes the place of one with fewer columns, so that the older program is served as well.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_manifests_referrers",
        "manifests",
        ["repository_id", "subject", "digest", "artifact_type", "size"],
        sqlite_where=sa.text("subject IS NOT NULL"),
        postgresql_where=sa.text("subject IS NOT NULL"),
    )
    op.drop_index("ix_manifests_subject", table_name="manifests")

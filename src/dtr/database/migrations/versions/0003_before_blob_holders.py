"""which replicas hold which blob on their own disks

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blob_holders",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("storage_key", sa.String(length=255), nullable=False),
        sa.Column("replica_id", sa.String(length=12), nullable=False),
        sa.Column("verified_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blob_holders")),
        sa.UniqueConstraint(
            "storage_key", "replica_id", name=op.f("uq_blob_holders_storage_key_replica_id")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_blob_holders_replica_id_verified_at", "blob_holders", ["replica_id", "verified_at"]
    )

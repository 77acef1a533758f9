"""which repositories a push has made that has not brought a manifest yet

Revision: 0006, after 0005.

An older program makes repositories that are not provisional, and those stay, as they did.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "repositories",
        sa.Column("is_provisional", sa.Boolean(), server_default=sa.false(), nullable=False),
    )

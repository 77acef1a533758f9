"""${message}

Revision: ${up_revision}, after ${down_revision | comma,n}.
"""

# The file's name says when the step may run: NNNN_before_slug.py while the old program still
# serves, NNNN_after_slug.py once it does not. Programs of the release before must work on every
# *before* step: add tables, nullable columns or columns with a default, and indexes; drop, rename
# and tighten in *after* steps. Numbers only grow: programs compare them with those of later
# releases, which they do not have.
#
# On PostgreSQL a step is one transaction that waits two seconds for a lock and is then begun again,
# so that traffic never queues behind it: no rewriting of a table, and an index of a large one so
# (it ends the transaction before it, and must stand being begun again):
#
#     context = op.get_context()
#     if context.dialect.name == "postgresql":
#         with context.autocommit_block():
#             op.execute("SET lock_timeout = 0")
#             op.execute("DROP INDEX CONCURRENTLY IF EXISTS name")
#             op.create_index("name", "table", ["column"], postgresql_concurrently=True)
#     else:
#         op.create_index("name", "table", ["column"])

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}

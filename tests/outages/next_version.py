"""The next version of the program, as far as its schema goes: made from this one.

It has stopped to use a column. Its *before* step makes the column optional, adds a table, and
builds an index while others write; its *after* step drops the column, which this version needs.
The numbers follow those of this version: a new migration changes nothing here.
"""

import shutil
from pathlib import Path

from tests.support.processes import ROOT

from dtr.database import migrations

NEEDED = f"{int(migrations.HEAD) + 1:04}"
HEAD = f"{int(migrations.HEAD) + 2:04}"

BEFORE = f'''"""a column that may be left out, a table, an index

Revision: {NEEDED}, after {migrations.HEAD}.
"""

import sqlalchemy as sa
from alembic import op

revision = "{NEEDED}"
down_revision = "{migrations.HEAD}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE uploads ALTER COLUMN created_at SET DEFAULT 0")
    op.create_table("novelties", sa.Column("id", sa.BigInteger(), primary_key=True))
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = 0")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_tags_updated_at")
        op.create_index("ix_tags_updated_at", "tags", ["updated_at"], postgresql_concurrently=True)
'''
AFTER = f'''"""the column goes

Revision: {HEAD}, after {NEEDED}.
"""

from alembic import op

revision = "{HEAD}"
down_revision = "{NEEDED}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_column("uploads", "created_at")
'''
COLUMN = '    Column("created_at", Double, nullable=False),\n'
NEXT_COLUMN = '    Column("expires_at", Double, nullable=False),\n    Index(None, "expires_at"),'
CHANGES = {
    "database/schema.py": (COLUMN + NEXT_COLUMN, NEXT_COLUMN),
    "registry/records/uploads.py": ('            "created_at": now,\n', ""),
}


def make_next_version(directory: Path) -> Path:
    """Write the package below `directory`, which then goes into PYTHONPATH."""
    package = directory / "dtr"
    shutil.copytree(ROOT / "src" / "dtr", package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in CHANGES.items():
        replace(package / name, old, new)
    constants = package / "database" / "migrations" / "__init__.py"
    replace(constants, f'\nHEAD = "{migrations.HEAD}"', f'\nHEAD = "{HEAD}"')
    replace(constants, f'\nNEEDED = "{migrations.NEEDED}"', f'\nNEEDED = "{NEEDED}"')
    versions = package / "database" / "migrations" / "versions"
    (versions / f"{NEEDED}_before_next.py").write_text(BEFORE)
    (versions / f"{HEAD}_after_next.py").write_text(AFTER)
    return directory


def replace(path: Path, old: str, new: str) -> None:
    """Change one place of a file, which must be there."""
    content = path.read_text()
    assert content.count(old) == 1, (path, old)
    path.write_text(content.replace(old, new))

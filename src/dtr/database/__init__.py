"""Engine, schema, migrations, units of work. See `docs/adr/0001-units-of-work.md`."""

from dtr.database.engine import Database, open_database
from dtr.database.units import Change, Lookup, Reader, Writer

__all__ = ["Change", "Database", "Lookup", "Reader", "Writer", "open_database"]

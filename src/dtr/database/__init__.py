"""Engine, schema, migrations, units of work. See `docs/adr/0001-units-of-work.md`."""

from dtr.database.engine import Database, Lookup, open_database
from dtr.database.units import Reader, Writer

__all__ = ["Database", "Lookup", "Reader", "Writer", "open_database"]

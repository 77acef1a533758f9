"""The schema's history, applied by `dtr.database.migrate`."""

HEAD = "0006"
"""The newest revision; a test compares it with the files in `versions`."""

NEEDED = "0006"
"""The newest *before* revision: without it this program cannot work. Tested likewise."""

APPLICATION_NAME = f"dtr schema {HEAD}"
"""How every connection to PostgreSQL calls itself, so that `dtr migrate --after` sees who serves.

An *after* step is safe once no connection names an older revision than the step's own.
"""

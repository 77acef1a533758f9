"""The schema's history, applied by `dtr.database.migrate`."""

HEAD = "0002"
"""The newest revision; a test compares it with the files in `versions`."""

"""The schema's history, applied by `dtr.database.migrate`."""

HEAD = "0001"
"""The newest revision; a test compares it with the files in `versions`."""

"""The schema's history, applied by `dtr.database.migrate`."""

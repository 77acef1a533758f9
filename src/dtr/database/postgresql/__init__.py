"""PostgreSQL: the metadata of a registry of several processes on several machines."""

from dtr.database.postgresql.database import PostgresqlDatabase

__all__ = ["PostgresqlDatabase"]

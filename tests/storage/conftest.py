"""One S3 server for all tests of storage; each test has a prefix of its own."""

import uuid
from collections.abc import Iterator

import pytest
from tests.support.seaweed import RunningS3, requires_weed


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningS3]:
    """Run an S3 server; its credentials are in the environment."""
    requires_weed()
    with pytest.MonkeyPatch.context() as patch:
        server = RunningS3(tmp_path_factory.mktemp("s3"))
        for name, value in server.environment.items():
            patch.setenv(name, value)
        with server:
            yield server


@pytest.fixture
def s3_url(s3_server: RunningS3) -> str:
    """Name a place on the server that nobody has used."""
    return s3_server.url_of(f"test/{uuid.uuid4().hex}")

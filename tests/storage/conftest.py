"""Each test of an object store has a prefix of its own on the one S3 server."""

import uuid

import pytest
from tests.support.seaweed import RunningS3


@pytest.fixture
def s3_url(s3: RunningS3) -> str:
    """Name a place on the server that nobody has used."""
    return s3.url_of(f"test/{uuid.uuid4().hex}")

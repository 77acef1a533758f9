"""The S3 server that tests start keeps its address and its data."""

from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store
from tests.support.seaweed import ACCESS_KEY, BUCKET, REGION, SECRET_KEY, RunningS3

pytestmark = pytest.mark.s3


def _store(s3: RunningS3) -> S3Store:
    return S3Store(
        BUCKET,
        endpoint=s3.endpoint,
        region=REGION,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True, "timeout": timedelta(seconds=5)},
    )


def test_objects_outlive_a_restart_at_the_same_address(tmp_path: Path) -> None:
    """What was stored before the kill is there after it, and nothing is left running."""
    with RunningS3(tmp_path) as s3:
        url = s3.url
        obstore.put(_store(s3), "kept", b"content")
        s3.restart()
        assert s3.url == url
        assert bytes(obstore.get(_store(s3), "kept").bytes()) == b"content"
    assert not s3.is_running

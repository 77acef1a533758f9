"""What a storage URL may say, and what is said of one that is wrong."""

import pytest

from dtr.storage import StorageLocation, open_blob_store


@pytest.mark.parametrize(
    "url",
    [
        "file:///srv/blobs",
        "s3://bucket",
        "s3://bucket/a/b?endpoint=https://s3.example.com:9000&region=eu-west-1",
        "azure://container/prefix?account=name",
        "gs://bucket/prefix",
    ],
)
def test_a_location_is_shown_as_it_was_written(url: str) -> None:
    """Reading what is shown gives the same place."""
    location = StorageLocation.parse(url)
    assert str(location) == url
    assert StorageLocation.parse(str(location)) == location


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "begin with file:///"),
        ("/srv/blobs", "begin with file:///"),
        ("ftp://host/x", "ftp: is no storage"),
        ("file://host/x", "from the root on"),
        ("file:relative", "from the root on"),
        ("s3:///prefix", "must name a bucket"),
        ("s3://b", "names a bucket that cannot be one"),
        ("s3://bucket/../x", "prefix"),
        ("s3://bucket/a b", "prefix"),
        ("s3://bucket?endpoint=ftp://x", "endpoint"),
        ("s3://bucket?endpoint=https://x:port", "its endpoint must be"),
        ("s3://bucket?region=eu west", "region"),
        ("s3://bucket?region=a&region=b", "twice"),
        ("s3://bucket#part", "after '#'"),
        ("s3://bucket?tier=cold", "does not take the parameter tier"),
        ("gs://bucket?account=x", "does not take the parameter account"),
        ("azure://container", "storage account"),
        ("s3://[bad", "is not a URL"),
    ],
)
def test_a_wrong_url_is_explained(url: str, said: str) -> None:
    """One sentence says what is wrong with it."""
    with pytest.raises(ValueError, match=said) as error:
        StorageLocation.parse(url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAKEY:sekrit@bucket/prefix",
        "s3://sekrit@bucket",
        "s3://bucket?secret_access_key=sekrit",
        "s3://bucket?AKIAsekrit1234=x",
        "s3://bucket?endpoint=https://key:sekrit@host",
        "azure://container?account=name&sas=sekrit",
        "file://sekrit@/srv",
    ],
)
def test_credentials_are_refused_and_not_repeated(url: str) -> None:
    """They would end up in logs and process lists."""
    with pytest.raises(ValueError, match="credentials") as error:
        StorageLocation.parse(url)
    assert "sekrit" not in str(error.value)


def test_a_directory_that_is_not_there_is_not_made(tmp_path: object) -> None:
    """It may be below a mount point whose mount is missing."""
    with pytest.raises(Exception, match="make it, or mount it"):
        open_blob_store(f"file://{tmp_path}/missing", tmp_path)  # type: ignore[arg-type]

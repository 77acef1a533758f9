"""Parts of blobs (RFC 9110 section 14)."""

import pytest
from tests.http.client import Repository, assert_error
from tests.http.conftest import PARSING

CONTENT = bytes(range(256)) * 8192  # two mebibytes: more than one piece of a stream
SIZE = len(CONTENT)


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-1048576", 0, 1048577),
        ("bytes=10-19", 10, 20),
        ("bytes=1048575-1048576", 1048575, 1048577),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=5-", 5, SIZE),
        (f"bytes=5-{SIZE * 2}", 5, SIZE),
        ("bytes=5-99999999999999999999999", 5, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        (f"bytes=-{SIZE * 3}", 0, SIZE),
    ],
)
async def test_one_range_answers_that_part(
    repository: Repository, header: str, start: int, stop: int
) -> None:
    """A closed, open or suffix range answers 206 with its bytes and where they are."""
    digest = await repository.push_blob(CONTENT)
    answer = await repository.client.get(repository.blob(digest), headers={"Range": header})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:stop]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(stop - start)
    assert answer.headers["Docker-Content-Digest"] == digest


@pytest.mark.parametrize(
    "header", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=20-10", "bytes=-0"]
)
async def test_a_range_outside_of_the_content_is_416_with_the_size(
    repository: Repository, header: str
) -> None:
    """Past the end, reversed and empty ranges cannot be satisfied."""
    digest = await repository.push_blob(CONTENT)
    answer = await repository.client.get(repository.blob(digest), headers={"Range": header})
    assert_error(answer, 416, "SIZE_INVALID")
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"


@PARSING
@pytest.mark.parametrize(
    "header",
    [
        "bytes=0-0,2-2",
        "bytes=0-,0-,0-,0-,0-,0-",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-2-3",
        "bytes = 0-1",
        "items=0-1",
        "0-1",
        "bytes=٣-٤".encode().decode("latin-1"),
        "bytes=" + "1" * 80 + "-",
    ],
)
async def test_several_ranges_and_nonsense_answer_the_whole(
    repository: Repository, header: str
) -> None:
    """A Range that is not one plain range of bytes is ignored, as RFC 9110 14.2 allows."""
    digest = await repository.push_blob(b"0123456789")
    answer = await repository.client.get(
        repository.blob(digest), headers={"Range": header.encode("latin-1")}
    )
    assert answer.status_code == 200
    assert answer.content == b"0123456789"


async def test_a_range_of_an_empty_blob_is_416(repository: Repository) -> None:
    """There is no first byte to begin at."""
    digest = await repository.push_blob(b"")
    answer = await repository.client.get(repository.blob(digest), headers={"Range": "bytes=0-"})
    assert_error(answer, 416, "SIZE_INVALID")
    assert answer.headers["Content-Range"] == "bytes */0"


async def test_if_range_with_this_content_answers_the_part(repository: Repository) -> None:
    """A client that resumes with the ETag it had gets the rest."""
    digest = await repository.push_blob(b"0123456789")
    answer = await repository.client.get(
        repository.blob(digest), headers={"Range": "bytes=6-", "If-Range": f'"{digest}"'}
    )
    assert answer.status_code == 206
    assert answer.content == b"6789"


@pytest.mark.parametrize("condition", ['"other"', "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_if_range_with_other_content_answers_the_whole(
    repository: Repository, condition: str
) -> None:
    """A part of other content would not fit what the client has."""
    digest = await repository.push_blob(b"0123456789")
    answer = await repository.client.get(
        repository.blob(digest), headers={"Range": "bytes=6-", "If-Range": condition}
    )
    assert answer.status_code == 200
    assert answer.content == b"0123456789"


async def test_head_with_a_range_describes_the_part(repository: Repository) -> None:
    """HEAD answers what GET would, without the body."""
    digest = await repository.push_blob(b"0123456789")
    answer = await repository.client.head(repository.blob(digest), headers={"Range": "bytes=6-"})
    assert answer.status_code == 206
    assert answer.headers["Content-Length"] == "4"
    assert answer.content == b""

"""Parts of blobs (RFC 9110 section 14)."""

from collections.abc import AsyncIterator
from email.parser import BytesParser
from email.policy import HTTP

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.http.client import Repository, assert_error
from tests.http.conftest import PARSING

from dtr.model.errors import ContentDamagedError, RangeNotSatisfiableError
from dtr.registry.ranges import MOST_RANGES, SKIPPED_SHARE, Multipart, requested_spans

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
        "bytes=0-0,2-2",  # with their heads they would be more than the whole
        "bytes=0-,0-,0-,0-,0-,0-",
        "bytes=",
        "bytes=-",
        "bytes=,",
        "bytes=a-b",
        "bytes=0-1,a-b",
        "bytes=1-2-3",
        "bytes = 0-1",
        "items=0-1",
        "0-1",
        "bytes=٣-٤".encode().decode("latin-1"),
        "bytes=" + "1" * 80 + "-",
        "bytes=" + ",".join(["0-0"] * 1025),
    ],
)
async def test_nonsense_and_too_much_answer_the_whole(repository: Repository, header: str) -> None:
    """A Range that is none of bytes, or costs more than it saves, is ignored (RFC 9110 14.2)."""
    digest = await repository.push_blob(b"0123456789")
    answer = await repository.client.get(
        repository.blob(digest), headers={"Range": header.encode("latin-1")}
    )
    assert answer.status_code in {200, 206}
    assert answer.content == b"0123456789"


def parts_of(answer: httpx.Response) -> list[tuple[str, bytes]]:
    """Return the Content-Range and the content of each part of a multipart answer."""
    assert answer.status_code == 206, answer.text[:200]
    assert "Content-Range" not in answer.headers, "it belongs to the parts (RFC 9110 15.3.7.2)"
    assert len(answer.content) == int(answer.headers["Content-Length"])
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + answer.content)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    parts = list(message.iter_parts())
    assert {part["Content-Type"] for part in parts} == {"application/octet-stream"}
    contents = [part.get_payload(decode=True) for part in parts]
    ranges = [str(part["Content-Range"]) for part in parts]
    return [
        (where, found)
        for where, found in zip(ranges, contents, strict=True)
        if isinstance(found, bytes)
    ]


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-99,200-299", [(0, 100), (200, 300)]),
        ("bytes=0-99, 100-199", [(0, 100), (100, 200)]),
        ("Bytes=0-0,-1", [(0, 1), (SIZE - 1, SIZE)]),
        ("bytes=5000-5999,0-9", [(5000, 6000), (0, 10)]),
        (f"bytes=0-9,{SIZE - 5}-{SIZE * 2}", [(0, 10), (SIZE - 5, SIZE)]),
        ("bytes=0-9,,\t1000-1009,", [(0, 10), (1000, 1010)]),
        ("bytes=900-999,0-99,50-149", [(0, 150), (900, 1000)]),
        ("bytes=0-9,0-9,0-9,900-999", [(0, 10), (900, 1000)]),
        ("bytes=10-1048580,1048600-1048610", [(10, 1048581), (1048600, 1048611)]),
        (f"bytes=0-1,{SIZE}-,20-29", [(0, 2), (20, 30)]),
    ],
)
async def test_several_ranges_answer_each_part(
    repository: Repository, header: str, spans: list[tuple[int, int]]
) -> None:
    """206 with a part for each; what overlaps is one, what cannot be satisfied is left out."""
    digest = await repository.push_blob(CONTENT)
    answer = await repository.client.get(repository.blob(digest), headers={"Range": header})
    assert parts_of(answer) == [
        (f"bytes {start}-{stop - 1}/{SIZE}", CONTENT[start:stop]) for start, stop in spans
    ]
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["ETag"] == f'"{digest}"'


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [(f"bytes=3-7,{SIZE}-", 3, 8), ("bytes=0-9,5-14", 0, 15), ("bytes=0-9,", 0, 10)],
)
async def test_several_ranges_of_which_one_is_left_answer_that_part(
    repository: Repository, header: str, start: int, stop: int
) -> None:
    """One part needs no multipart (RFC 9110 15.3.7.2)."""
    digest = await repository.push_blob(CONTENT)
    answer = await repository.client.get(repository.blob(digest), headers={"Range": header})
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.content == CONTENT[start:stop]


async def test_as_many_ranges_as_podman_asks_for_are_answered(repository: Repository) -> None:
    """1024 in one request, and what comes is less than the blob."""
    digest = await repository.push_blob(CONTENT)
    spans = [(start, start + 100) for start in range(0, SIZE, SIZE // 1024)]
    header = "bytes=" + ",".join(f"{start}-{stop - 1}" for start, stop in spans)
    answer = await repository.client.get(repository.blob(digest), headers={"Range": header})
    assert [content for _, content in parts_of(answer)] == [CONTENT[a:b] for a, b in spans]
    assert len(answer.content) < SIZE


@given(
    spans=st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 1100)), min_size=1, max_size=20)
)
def test_all_parts_together_are_no_more_than_the_blob(spans: list[tuple[int, int]]) -> None:
    """Whatever is asked for: each byte that is wanted and there comes once, and no other."""
    size = 1000
    wanted = {at for first, last in spans for at in range(first, min(last + 1, size))}
    header = "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)
    try:
        found = requested_spans(header, size)
    except RangeNotSatisfiableError:
        found = []
    assert found is not None
    assert sorted(at for start, stop in found for at in range(start, stop)) == sorted(wanted)


async def test_parts_end_where_the_content_does() -> None:
    """Content that is shorter than its blob should be is an error, never a short part."""

    async def read(start: int, stop: int) -> AsyncIterator[bytes]:
        yield bytes(min(stop, 150) - start)

    parts = Multipart([(0, 100), (120, 200)], 1000, b"text/plain")
    with pytest.raises(ContentDamagedError):
        b"".join([piece async for piece in parts.stream(read)])


@pytest.mark.parametrize("gap", [1, 500, 1000, 64 << 10, (64 << 10) + 1])
@pytest.mark.parametrize("length", [1, 100, 5000])
async def test_what_is_read_is_bounded_by_what_is_answered(gap: int, length: int) -> None:
    """Also where parts of a byte lie so far apart that it would pay to read what is between."""
    read: list[tuple[int, int]] = []

    async def zeros(start: int, stop: int) -> AsyncIterator[bytes]:
        read.append((start, stop))
        yield bytes(stop - start)

    size = MOST_RANGES * (length + gap)
    spans = [(start, start + length) for start in range(0, size, length + gap)]
    parts = Multipart(spans, size, b"text/plain")
    body = b"".join([piece async for piece in parts.stream(zeros)])
    assert len(body) == parts.length
    assert body.count(b"Content-Range") == MOST_RANGES
    assert sum(stop - start for start, stop in read) <= (1 + SKIPPED_SHARE) * len(body)
    is_cheap = gap * MOST_RANGES <= SKIPPED_SHARE * len(body) and gap <= 64 << 10
    assert (len(read) == 1) == is_cheap


async def test_the_smallest_gaps_are_read_over_first() -> None:
    """They save as many requests to storage, for fewer bytes; an order of the client's is kept."""
    read: list[tuple[int, int]] = []

    async def zeros(start: int, stop: int) -> AsyncIterator[bytes]:
        read.append((start, stop))
        yield bytes(stop - start)

    spans = [(60_000, 60_001), (0, 1), (2500, 2501), (2502, 2503)]
    parts = Multipart(spans, 100_000, b"text/plain")
    assert parts.length < 700
    b"".join([piece async for piece in parts.stream(zeros)])
    assert read == [(60_000, 60_001), (0, 1), (2500, 2503)]


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


async def test_head_ignores_a_range(repository: Repository) -> None:
    """Range is defined for GET alone (RFC 9110 14.2): HEAD describes the whole."""
    digest = await repository.push_blob(b"0123456789")
    for header in ("bytes=6-", "bytes=0-1,4-5", "bytes=20-"):
        answer = await repository.client.head(repository.blob(digest), headers={"Range": header})
        assert answer.status_code == 200
        assert answer.headers["Content-Length"] == "10"
        assert "Content-Range" not in answer.headers
        assert answer.content == b""


@pytest.mark.parametrize("condition", ["W/{tag}", "{tag}x", "W/{tag}, {tag}"])
async def test_if_range_takes_only_the_very_tag(repository: Repository, condition: str) -> None:
    """Compared strongly, and one tag, not a list (RFC 9110 13.1.5)."""
    digest = await repository.push_blob(b"0123456789")
    answer = await repository.client.get(
        repository.blob(digest),
        headers={"Range": "bytes=6-", "If-Range": condition.format(tag=f'"{digest}"')},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("If-None-Match", '"{digest}"', 304),
        ("If-None-Match", 'W/"{digest}"', 304),
        ("If-None-Match", '"x" , , "{digest}"', 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", "{digest}", 304),
        ("If-None-Match", '"x{digest}"', 200),
        ("If-None-Match", '"x"', 200),
        ("If-Match", '"{digest}"', 200),
        ("If-Match", '"x", "{digest}"', 200),
        ("If-Match", "*", 200),
        ("If-Match", 'W/"{digest}"', 412),
        ("If-Match", '"x"', 412),
        ("If-Modified-Since", "Wed, 21 Oct 2099 07:28:00 GMT", 200),
        ("If-Unmodified-Since", "Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ],
)
async def test_conditions_are_heeded(
    repository: Repository, name: str, value: str, status: int
) -> None:
    """RFC 9110 13.1 and 13.2, for blobs and manifests; without dates, those about dates are not."""
    pushed = await repository.push_image("latest")
    for path, digest in (
        (repository.blob(pushed.config), pushed.config),
        (repository.manifest("latest"), pushed.digest),
    ):
        for ask in (repository.client.get, repository.client.head):
            answer = await ask(path, headers={name: value.format(digest=digest)})
            assert answer.status_code == status
            if status == 304:
                assert answer.headers["ETag"] == f'"{digest}"'
                assert "Cache-Control" in answer.headers
                assert answer.content == b""

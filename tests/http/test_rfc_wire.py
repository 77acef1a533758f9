"""What RFC 9110 and 9112 demand of a server, byte by byte on a real connection.

Each row names its clause. What the library under the server decides is here, too, so that another
version of it that decides otherwise is noticed.
"""

import re

import pytest
from tests.http.client import basic
from tests.http.targets import Node
from tests.http.wire import Heard, say

from dtr.model.digest import Digest
from dtr.testing.registry import ALICE

pytestmark = pytest.mark.server

AUTH = f"Authorization: {basic(*ALICE)}\r\n".encode()
CONTENT = b"hello"
PUSH = b"POST /v2/alice/rfc/blobs/uploads/?digest=%b HTTP/1.1\r\nHost: a\r\n%b" % (
    Digest.of(CONTENT).encode(),
    AUTH,
)
CHUNKED = PUSH + b"Transfer-Encoding: chunked\r\n"
FIVE = PUSH + b"Content-Length: 5\r\n\r\nhello"
GET = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n" + AUTH
PING = b"GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def ask(node: Node, *pieces: bytes, seconds: float = 10, until: bytes = b"\r\n\r\n") -> Heard:
    """Send bytes, and listen until the head of an answer is there."""
    return say(node.url, *pieces, seconds=seconds, until=until)


@pytest.mark.parametrize(
    ("clause", "request_bytes", "status"),
    [
        ("9112 2.2: empty lines before the request line are skipped", b"\r\n\r\n" + GET, 200),
        ("9112 2.2: no white space before the first header", GET.replace(b"Host", b" Host"), 400),
        ("9112 2.2: no CR without LF", GET + b"X: a\rb\r\n", 400),
        # A bare LF may be taken for a line's end, and the library does; in chunks it does not.
        ("9112 2.2: LF alone may end a line", GET.replace(b"\r\n", b"\n"), 200),
        ("9112 2.3: the version has this case", GET.replace(b"HTTP/1", b"http/1"), 400),
        ("9112 2.3: HTTP/2 is not spoken this way", GET.replace(b"HTTP/1.1", b"HTTP/2.0"), 400),
        ("9112 3: one space after the method", GET.replace(b"GET ", b"GET  "), 400),
        ("9112 3: no white space in the target", GET.replace(b"/v2/", b"/v2/ x"), 400),
        ("9112 3: nothing behind the version", GET.replace(b"1.1\r", b"1.1 \r", 1), 400),
        ("9112 3: a method is a token", GET.replace(b"GET", b"G(T"), 400),
        ("9112 3: a target that is too long", GET.replace(b"/v2/", b"/v2/" + b"x" * 9000), 414),
        ("9112 3.1: methods have a case", GET.replace(b"GET", b"get"), 405),
        ("9112 3.2: no Host", GET.replace(b"Host: a\r\n", b""), 400),
        ("9112 3.2: two Hosts", GET + b"Host: b\r\n", 400),
        ("9112 3.2: twice the same Host", GET + b"Host: a\r\n", 400),
        ("9112 3.2: a Host that is none", GET.replace(b"Host: a", b"Host: a/b"), 400),
        ("9112 3.2: a Host with a user", GET.replace(b"Host: a", b"Host: u@a"), 400),
        ("9112 3.2: a list of Hosts", GET.replace(b"Host: a", b"Host: a, b"), 400),
        ("9110 4.2.1: http has no empty host", GET.replace(b"Host: a", b"Host:"), 400),
        ("9112 3.2: HTTP/1.0 needs none", b"GET /_ping HTTP/1.0\r\n", 200),
        ("9112 3.2.1: a path begins with a slash", GET.replace(b"/v2/", b"a:80"), 400),
        ("9112 3.2.2: absolute targets are taken", GET.replace(b"/v2/", b"http://b/v2/"), 200),
        ("9110 4.2.1: http without a host", GET.replace(b"/v2/", b"http:///v2/"), 400),
        ("9112 3.2.4: the asterisk is for OPTIONS", GET.replace(b"/v2/", b"*"), 400),
        ("9110 9.3.6: CONNECT is for proxies", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n", 400),
        ("9110 9.3.8: TRACE repeats nothing", GET.replace(b"GET", b"TRACE"), 405),
        ("9110 9.1: an unknown method", GET.replace(b"GET", b"BREW"), 405),
        ("9112 5.1: no white space before the colon", GET + b"X : b\r\n", 400),
        ("9112 5: a header has a name", GET + b": b\r\n", 400),
        ("9110 5.1: a name is a token", GET + b"X(y): b\r\n", 400),
        ("9112 5.2: no folded lines", GET + b"X: b\r\n c\r\n", 400),
        ("9110 5.5: no NUL in a value", GET + b"X: a\0b\r\n", 400),
        ("9110 5.5: other octets are opaque", GET + b"X: \xff\xfe\t\xe9\r\n", 200),
        ("9110 5.4: too many headers", GET + b"".join(b"X-%d: y\r\n" % i for i in range(300)), 431),
        ("9110 11.6.2: two credentials", GET + AUTH, 400),
        (
            "9110 7.8: an upgrade may be ignored",
            GET + b"Connection: Upgrade\r\nUpgrade: x\r\n",
            200,
        ),
        ("9110 8.3: one Content-Type", GET + b"Content-Type: a/b\r\nContent-Type: c/d\r\n", 400),
        ("9110 12.1: what nobody can make is no error", GET + b"Accept: image/png\r\n", 200),
    ],
)
def test_the_head_of_a_request(node: Node, clause: str, request_bytes: bytes, status: int) -> None:
    """It is answered as its clause says, and never with 500."""
    heard = ask(node, request_bytes + b"\r\n")
    assert heard.status == status, (clause, heard.content[:300])


@pytest.mark.parametrize(
    ("clause", "request_bytes", "status"),
    [
        ("9112 7.1: chunks", CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n", 201),
        ("9112 7.1: more than one", CHUNKED + b"\r\n2\r\nhe\r\n03\r\nllo\r\n0\r\n\r\n", 201),
        ("9112 7.1.1: extensions are ignored", CHUNKED + b"\r\n5;a=b\r\nhello\r\n0\r\n\r\n", 201),
        ("9112 7.1.2: trailers", CHUNKED + b"\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", 201),
        ("9112 7: codings have no case", CHUNKED.replace(b"chunked", b"CHUNKED"), 0),
        ("9112 7.1: no number", CHUNKED + b"\r\nzz\r\nhello\r\n0\r\n\r\n", 400),
        ("9112 7.1: a sign", CHUNKED + b"\r\n-5\r\nhello\r\n0\r\n\r\n", 400),
        ("9112 7.1: a prefix", CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
        ("9112 7.1: no overflow", CHUNKED + b"\r\n" + b"f" * 20 + b"\r\nhello\r\n0\r\n\r\n", 400),
        ("9112 7.1: no end", CHUNKED + b"\r\n5\r\nhelloXX0\r\n\r\n", 400),
        ("9112 7.1: LF alone", CHUNKED + b"\r\n5\nhello\n0\n\n", 400),
        ("9112 7.1: LF alone behind the data", CHUNKED + b"\r\n5\r\nhello\n0\r\n\r\n", 400),
        ("9112 7.1.1: LF in extensions", CHUNKED + b"\r\n5;a\nb\r\nhello\r\n0\r\n\r\n", 400),
        ("9112 7.1.1: bounded", CHUNKED + b"\r\n5;" + b"a" * 99999 + b"\r\nhello\r\n", 400),
        ("9112 7.1.2: bounded", CHUNKED + b"\r\n5\r\nhello\r\n0\r\nX: " + b"a" * 99999, 400),
        ("9112 6.1: an unknown coding", PUSH + b"Transfer-Encoding: x, chunked\r\n\r\n", 501),
        ("9112 6.1: gzip is not decoded", PUSH + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("9112 7: chunked once", PUSH + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
        ("9112 7: chunked once in two lines", CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n", 400),
        ("9112 6.3: chunked is the last", PUSH + b"Transfer-Encoding: chunked, x\r\n\r\n", 400),
        ("9112 6.1: not in HTTP/1.0", CHUNKED.replace(b"1.1", b"1.0") + b"\r\n", 400),
        ("9112 6.3: one length", FIVE, 201),
        ("9112 6.3: two lengths", FIVE.replace(b"\r\n\r\n", b"\r\nContent-Length: 6\r\n\r\n"), 400),
        ("9112 6.3: a list of lengths", PUSH + b"Content-Length: 5, 6\r\n\r\nhello", 400),
        ("9110 8.6: a sign", PUSH + b"Content-Length: +5\r\n\r\nhello", 400),
        ("9110 8.6: no number", PUSH + b"Content-Length: \r\n\r\nhello", 400),
        ("9110 8.6: no overflow", PUSH + b"Content-Length: " + b"9" * 40 + b"\r\n\r\nhello", 400),
        ("9110 10.1.1: other expectations", FIVE.replace(b"Host", b"Expect: x\r\nHost"), 201),
    ],
)
def test_the_body_of_a_request(node: Node, clause: str, request_bytes: bytes, status: int) -> None:
    """Its length is beyond doubt, or it is refused; nothing malformed is the server's fault."""
    if status == 0:
        request_bytes, status = request_bytes + b"\r\n5\r\nhello\r\n0\r\n\r\n", 201
    heard = ask(node, request_bytes)
    assert heard.status == status, (clause, heard.content[:300])


@pytest.mark.parametrize("status", [400, 501])
def test_behind_a_body_of_doubtful_length_nothing_is_read(node: Node, status: int) -> None:
    """RFC 9112 6.3 and 11.2: the connection is closed, and a hidden request is not answered."""
    body = b"Transfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n" if status == 501 else b"\r\nzz\r\n"
    heard = say(node.url, (PUSH if status == 501 else CHUNKED) + body + PING, seconds=10)
    assert heard.is_closed
    assert heard.statuses == [status]
    assert re.search(rb"(?i)\r\nconnection: close\r\n", heard.content)


def test_two_lengths_of_different_kinds_end_the_connection(node: Node) -> None:
    """RFC 9112 6.1: the chunks count, and the connection is closed whatever comes behind them."""
    for lengths in (
        b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    ):
        heard = say(node.url, PUSH + lengths + b"\r\n5\r\nhello\r\n0\r\n\r\n" + PING, seconds=10)
        assert heard.is_closed
        assert heard.statuses == [201]


def test_a_trailer_is_no_header(node: Node) -> None:
    """RFC 9110 6.5.1: what comes behind the body signs nobody in."""
    body = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + AUTH + b"\r\n"
    assert ask(node, PUSH.replace(AUTH, b"") + body).status == 401


@pytest.mark.parametrize(
    "framing",
    [b"Content-Length: 5\r\n\r\nhel", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel"],
)
def test_a_body_that_breaks_off_is_not_taken_for_whole(node: Node, framing: bytes) -> None:
    """RFC 9112 8: nothing of it is there, and who only closed its own half hears 400."""
    digest = Digest.of(b"hel").encode()
    request = PUSH.replace(Digest.of(CONTENT).encode(), digest).replace(b"/rfc/", b"/cut/")
    heard = say(node.url, request + framing, seconds=10, closes=True)
    assert heard.status == 400
    target = b"/v2/alice/cut/blobs/" + digest
    assert ask(node, GET.replace(b"/v2/", target) + b"\r\n").status == 404


def test_connections_persist_and_end_as_agreed(node: Node) -> None:
    """RFC 9112 9.3, 9.3.2, 9.6: in order, until Connection: close; with HTTP/1.0 after one."""
    heard = say(node.url, (GET + b"\r\n") * 3 + PING + GET + b"\r\n", seconds=10)
    assert heard.is_closed
    assert heard.statuses == [200, 200, 200, 200]
    assert heard.content.endswith(b"}"), "nothing is answered behind Connection: close"
    heard = say(node.url, b"GET /_ping HTTP/1.0\r\n\r\n", seconds=10)
    assert heard.is_closed
    assert b" 200 OK" in heard.content


def test_an_unread_body_is_not_taken_for_the_next_request(node: Node) -> None:
    """RFC 9112 9.3: a body that nobody needs is read, or the connection ends."""
    body = b"GET /v2/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    request = GET + b"Content-Length: %d\r\n\r\n" % len(body) + body + PING
    heard = say(node.url, request, seconds=10)
    assert heard.statuses in ([200, 200], [200])
    assert b"hidden" not in heard.content


def test_expectations_of_old_clients_are_ignored(node: Node) -> None:
    """RFC 9110 10.1.1: HTTP/1.0 knows no 100."""
    request = PUSH.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\n"
    heard = say(node.url, request + b"Content-Length: 5\r\n\r\nhello", seconds=10)
    assert b" 201 " in heard.content
    assert b" 100 " not in heard.content


@pytest.mark.parametrize(
    ("request_bytes", "status", "headers"),
    [
        (GET, 200, [b"content-length", b"date"]),
        (GET.replace(AUTH, b""), 401, [b"www-authenticate", b"date"]),
        (GET.replace(b"GET", b"PUT"), 405, [b"allow", b"date"]),
        (GET.replace(b"/v2/", b"/nothing"), 404, [b"date"]),
    ],
)
def test_answers_have_the_headers_that_they_must(
    node: Node, request_bytes: bytes, status: int, headers: list[bytes]
) -> None:
    """RFC 9110 6.6.1 (Date), 15.5.2 (WWW-Authenticate), 15.5.6 (Allow), 8.6 (Content-Length)."""
    heard = ask(node, request_bytes + b"\r\n")
    assert heard.status == status
    for name in headers:
        assert b"\r\n" + name + b":" in heard.content.lower()


def test_head_says_what_get_would_without_content(node: Node) -> None:
    """RFC 9110 9.3.2 and 8.6."""
    got = say(node.url, GET + b"Connection: close\r\n\r\n", seconds=10)
    headed = say(node.url, GET.replace(b"GET", b"HEAD") + b"Connection: close\r\n\r\n", seconds=10)
    assert got.status == headed.status == 200
    assert headed.content.endswith(b"\r\n\r\n")
    for name in (b"content-length", b"content-type"):
        pattern = rb"(?i)\r\n" + name + rb": ([^\r]*)"
        assert re.findall(pattern, got.content) == re.findall(pattern, headed.content)


def test_answers_without_content_have_no_length(node: Node) -> None:
    """RFC 9110 8.6: none with 204; with 304, none or that of the content, and no content."""
    assert ask(node, CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n").status == 201
    digest = Digest.of(CONTENT).encode()
    request = b"GET /v2/alice/rfc/blobs/%b HTTP/1.1\r\nHost: a\r\n%b" % (digest, AUTH)
    heard = say(
        node.url,
        request + b'If-None-Match: "%b"\r\nConnection: close\r\n\r\n' % digest,
        seconds=10,
    )
    assert heard.status == 304
    assert heard.content.endswith(b"\r\n\r\n")
    assert re.findall(rb"(?i)\r\ncontent-length: (\d+)", heard.content) in ([], [b"5"])
    for name in (b"etag", b"cache-control", b"date"):  # 15.4.5
        assert b"\r\n" + name + b":" in heard.content.lower()

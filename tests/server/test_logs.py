"""Logging: what a line holds, and what must never be in one."""

import io
import json
import logging
import logging.config
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import structlog
from granian.log import LogLevels
from granian.log import configure_logging as configure_granian

from dtr.server.logs import GRANIAN_LOGGING, AccessLog, LogFormat, configure_logging

Configure = Callable[[LogFormat, str], None]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
REQUEST = ("GET", "/v2/a/b/manifests/latest", 200, 1234, 0.0034567, "r-1", "192.0.2.1", "alice")


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Configure logging for one test, then put everything back."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield configure_logging
    root.setLevel(level)
    root.handlers = handlers
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """Parse what was written to standard error, and see that standard output stayed empty."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_a_json_line_starts_with_time_level_and_event(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line is one object whose first keys are those that people look for."""
    configure("json", "info")
    structlog.get_logger("dtr.here").info("blob committed", size=3, digests=["sha256:a"])
    (line,) = json_lines(capsys)
    assert list(line)[:3] == ["time", "level", "event"]
    assert TIME.fullmatch(str(line.pop("time")))
    assert line == {
        "level": "info",
        "event": "blob committed",
        "logger": "dtr.here",
        "size": 3,
        "digests": ["sha256:a"],
    }


def test_a_text_line_has_no_colours_where_nobody_sees_them(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard error that is not a terminal gets plain text."""
    configure("text", "info")
    structlog.get_logger().warning("disk is filling", free_bytes=5)
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert TIME.match(text)
    assert re.search(r"\[warning *\] disk is filling +.*free_bytes=5", text)


def test_a_terminal_gets_colours(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real pseudo-terminal as standard error turns them on."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        configure("text", "info")
        structlog.get_logger().info("started")
        terminal.flush()
        assert b"\x1b[" in os.read(ours, 1000)
    os.close(ours)


@pytest.mark.parametrize("through", ["structlog", "logging"])
def test_lines_below_the_level_are_not_written(
    configure: Configure, capsys: pytest.CaptureFixture[str], through: str
) -> None:
    """The level holds for our own lines and for those of libraries."""
    configure("json", "warning")
    logger = structlog.get_logger() if through == "structlog" else logging.getLogger("alembic")
    logger.info("quiet")
    logger.warning("loud")
    assert [line["event"] for line in json_lines(capsys)] == ["loud"]


def test_configuring_again_replaces_and_does_not_repeat(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last configuration holds, for loggers made before it too."""
    logger = structlog.get_logger()
    configure("text", "error")
    logger.error("first")
    capsys.readouterr()
    configure("json", "debug")
    logger.debug("second")
    assert [line["event"] for line in json_lines(capsys)] == ["second"]


def test_libraries_go_through_the_same_pipeline(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of the standard library has the same keys, arguments and redaction."""
    configure("json", "info")
    structlog.contextvars.bind_contextvars(request_id="r-1")
    logging.getLogger("some.library").info("sent %s to %d", "Bearer abc.def", 7)
    (line,) = json_lines(capsys)
    assert line["event"] == "sent Bearer *** to 7"
    assert (line["logger"], line["level"]) == ("some.library", "info")
    assert line["request_id"] == "r-1"


def test_granian_goes_through_the_same_pipeline(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """With our dictionary Granian adds no handler of its own."""
    loggers = [logging.getLogger(name) for name in GRANIAN_LOGGING["loggers"]]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    configure("json", "info")
    configure_granian(LogLevels.info, GRANIAN_LOGGING)
    logging.getLogger("_granian").info("Listening at: http://127.0.0.1:5000")
    lines = json_lines(capsys)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    assert [line["event"] for line in lines] == ["Listening at: http://127.0.0.1:5000"]


SECRETS = {
    "authorization": "Digest hunter2",
    "Authorization": b"hunter2",
    "password": "hunter2",
    "new_password": 12345678,
    "password_hash": "$argon2id$hunter2",
    "refresh_token": "hunter2",
    "refreshToken": "hunter2",
    "client_secret": {"deep": "hunter2"},
    "set-cookie": ["hunter2"],
    "headers": {"Cookie": "hunter2", "x": [{"X-Api-Key": "hunter2"}]},
    "header": "bearer hunter2.hunter2",
    "raw": b"Basic aHVudGVyMg==",
    "argument": "--with dtr_hunter2hunter2hunter2",
    "jwt": "eyJhbGciOiJF.eyJodW50ZXIy.hunter2",
    "database": "postgresql://dtr:hunter2@db.example.com/dtr",
    "error": ValueError("Bearer hunter2"),
}


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("key", sorted(SECRETS))
def test_secrets_are_masked_by_key_and_by_looks(
    configure: Configure, capsys: pytest.CaptureFixture[str], log_format: LogFormat, key: str
) -> None:
    """Nothing of a secret reaches the line, whatever it is wrapped in."""
    configure(log_format, "info")
    structlog.get_logger().info("signed in", **{key: SECRETS[key]})
    text = capsys.readouterr().err
    assert "***" in text
    assert not re.search("hunter2|aHVudGVyMg|12345678|ZXIy", text)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_is_written_without_the_secrets_in_it(
    configure: Configure, capsys: pytest.CaptureFixture[str], log_format: LogFormat
) -> None:
    """Exceptions keep their traceback, and lose what looks like a token."""
    configure(log_format, "info")
    for logger in (structlog.get_logger(), logging.getLogger("library")):
        try:
            int("Bearer hunter" + "2")
        except ValueError:
            logger.exception("it failed")
        text = capsys.readouterr().err
        assert "Traceback (most recent call last)" in text
        assert "ValueError" in text
        assert "hunter2" not in text


def test_what_only_sounds_like_a_secret_is_written(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings, counts and names of variables about tokens stay readable."""
    harmless = {
        "token_seconds": 300,
        "password_file": "/run/first",
        "has_password": None,
        "variable": "DTR_SERVER__LISTEN",
        "account": "alice",
    }
    configure("json", "info")
    structlog.get_logger().info("checked", **harmless)
    (line,) = json_lines(capsys)
    assert {key: line[key] for key in harmless} == harmless


def test_a_text_line_stays_one_line(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line breaks and escape sequences of a terminal are shown, not sent."""
    configure("text", "info")
    structlog.get_logger().info("name was a\nb", name="\x1b[2J", other="\x9b\u2028")
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "a\\nb" in text
    assert not re.search("[\x1b\x9b\u2028]", text)


@pytest.mark.parametrize("value", ["\udc80", 2**70, object(), {1: {2: 3}}, float("nan")])
def test_no_value_keeps_a_line_from_being_written(
    configure: Configure, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    """What JSON or the fast encoder lacks is written in another way."""
    configure("json", "info")
    structlog.get_logger().info("odd", value=value)
    (line,) = json_lines(capsys)
    assert line["event"] == "odd"


def test_a_value_that_contains_itself_is_cut(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cycle ends at a fixed depth."""
    cycle: list[object] = []
    cycle.append(cycle)
    configure("json", "info")
    structlog.get_logger().info("odd", value=cycle)
    assert len(json_lines(capsys)) == 1


def test_an_access_line_in_json_has_every_fact_of_the_request() -> None:
    """Names are spelled out, times are UTC, seconds end at microseconds."""
    stream = io.BytesIO()
    log = AccessLog("json", stream, clock=lambda: 1_700_000_000.1234)
    log.write(*REQUEST)
    log.flush()
    assert stream.getvalue().count(b"\n") == 1
    assert json.loads(stream.getvalue()) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "info",
        "event": "request",
        "method": "GET",
        "path": "/v2/a/b/manifests/latest",
        "status": 200,
        "bytes": 1234,
        "seconds": 0.003457,
        "request_id": "r-1",
        "client": "192.0.2.1",
        "account": "alice",
    }


def test_an_access_line_in_text_has_nine_columns() -> None:
    """Nothing is left out, and what is absent is a dash."""
    stream = io.BytesIO()
    log = AccessLog("text", stream, clock=lambda: 1_700_000_000.9999)
    log.write(*REQUEST)
    log.write("GET", "/v2/", 401, 0, 0.5, "", "::1")
    log.flush()
    assert stream.getvalue().decode() == (
        "2023-11-14T22:13:20.999Z 192.0.2.1 alice GET /v2/a/b/manifests/latest"
        " 200 1234 0.003457 r-1\n"
        "2023-11-14T22:13:20.999Z ::1 - GET /v2/ 401 0 0.500000 -\n"
    )


def test_the_time_of_access_lines_moves_on() -> None:
    """The part of the time that is kept between lines is that of the line's own second."""
    times = iter([1_700_000_000.5, 1_700_000_000.75, 1_700_000_060.0])
    stream = io.BytesIO()
    log = AccessLog("text", stream, clock=lambda: next(times))
    for _ in range(3):
        log.write(*REQUEST)
    log.flush()
    stamps = [line.split()[0].decode() for line in stream.getvalue().splitlines()]
    moments = [datetime.fromisoformat(stamp) for stamp in stamps]
    start = datetime.fromtimestamp(1_700_000_000, UTC)
    assert [(moment - start).total_seconds() for moment in moments] == [0.5, 0.75, 60]


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("field", [0, 1, 5, 6, 7])
@pytest.mark.parametrize(
    "hostile", ["a\nb", "a\r\nb", "a b", "\x1b[2J", "\x7f\x9b\u2028\u202e", "\udc80", "\0"]
)
def test_nobody_forges_an_access_line(log_format: LogFormat, field: int, hostile: str) -> None:
    """Line breaks, spaces, controls and broken text in any text of the client are escaped."""
    request: list[object] = list(REQUEST)
    request[field] = f"/{hostile}"
    stream = io.BytesIO()
    log = AccessLog(log_format, stream)
    log.write(*request)  # type: ignore[arg-type]
    log.flush()
    (line,) = stream.getvalue().splitlines(keepends=True)
    assert re.fullmatch(rb"[!-~ ]+\n", line)
    if log_format == "text":
        assert len(line.split(b" ")) == 9


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("field", [0, 1, 6, 7])
@pytest.mark.parametrize("piece", ["a", "é", "\n"])
def test_nobody_writes_long_access_lines(log_format: LogFormat, field: int, piece: str) -> None:
    """Of an address of 64 KiB, or a method, only the beginning is kept."""
    request: list[object] = list(REQUEST)
    request[field] = piece * 65_000
    stream = io.BytesIO()
    log = AccessLog(log_format, stream)
    log.write(*request)  # type: ignore[arg-type]
    log.flush()
    assert len(stream.getvalue()) < 6_000
    assert b"..." in stream.getvalue()


def test_the_query_never_reaches_the_access_log() -> None:
    """What follows a question mark may hold what nobody else should see."""
    stream = io.BytesIO()
    log = AccessLog("text", stream)
    log.write("GET", "/auth/token?account=alice", *REQUEST[2:])
    log.flush()
    assert b"/auth/token 200" in stream.getvalue()
    assert b"account" not in stream.getvalue()


def test_access_lines_wait_for_flush_but_not_without_bound() -> None:
    """Nothing is written before `flush`, except when the buffer is full."""
    stream = io.BytesIO()
    log = AccessLog("text", stream)
    for _ in range(AccessLog.BUFFERED_LINES - 1):
        log.write(*REQUEST)
    assert stream.getvalue() == b""
    log.write(*REQUEST)
    assert stream.getvalue().count(b"\n") == AccessLog.BUFFERED_LINES
    log.flush()
    assert stream.getvalue().count(b"\n") == AccessLog.BUFFERED_LINES


def test_a_broken_stream_loses_lines_and_fails_no_request() -> None:
    """Nobody reads the pipe any more: the lines are counted, the requests go on."""
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "wb", buffering=0)
    log = AccessLog("text", stream)
    log.write(*REQUEST)
    log.flush()
    stream.close()
    log.write(*REQUEST)
    log.flush()
    assert log.lost == 2


MEASURE = """
import io, sys, time
from dtr.server.logs import AccessLog
log, request = AccessLog(sys.argv[1], io.BytesIO()), eval(sys.argv[2])
rounds = []
for _ in range(100):
    start = time.process_time()
    for _ in range(200):
        log.write(*request)
    rounds.append((time.process_time() - start) / 200)
print(min(rounds))
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_an_access_line_costs_less_than_five_microseconds(log_format: LogFormat) -> None:
    """Processor time of the best of many rounds, in a process that nothing traces or disturbs."""
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, log_format, repr(REQUEST)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds = float(measured.stdout)
    print(f"{log_format}: {seconds * 1e6:.2f} us a line")
    assert seconds < 5e-6


def test_the_requests_that_a_client_makes_are_no_lines(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    """An agent asks several times a second; what goes wrong is still told."""
    configure("json", "info")
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).info("HTTP Request: GET https://10.0.0.1:8008/liveness")
        logging.getLogger(name).warning("odd")
    assert [line["event"] for line in json_lines(capsys)] == ["odd", "odd"]

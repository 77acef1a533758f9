"""What the server writes: log lines through one pipeline without secrets, and access lines."""

import json
import logging
import re
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor

LogFormat = Literal["text", "json"]

# Granian configures loggers of its own, with handlers on standard output. Given as its
# `log_dictconfig`, this sends its lines to the root logger, and so through our pipeline.
GRANIAN_LOGGING: Final[dict[str, Any]] = {
    "handlers": {},
    "formatters": {},
    "loggers": {
        "_granian": {"handlers": [], "propagate": True},
        "granian.access": {"handlers": [], "propagate": True},
    },
}

_HANDLER: Final = "dtr"
_MASK: Final = "***"
_MAX_DEPTH: Final = 8
_SECRET_KEY: Final = re.compile(
    r"(?:authorization|passw(?:or)?d|passphrase|token|secret|cookie|credential|api[_-]?key"
    r"|private[_-]?key)s?(?:[_-]?(?:hash|digest))?\Z",
    re.IGNORECASE,
)
_SECRET_TEXT: Final = re.compile(
    r"(?P<kept>\b(?i:bearer|basic)\s+)[A-Za-z0-9._~+/=-]+"
    r"|(?<![A-Za-z0-9])dtr_[A-Za-z0-9_-]{12,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JSON web token
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user and password in a URL
)
_MOST_METHOD: Final = 20
_MOST_PATH: Final = 800
_MOST_NAME: Final = 100
_MOST_CHOSEN: Final = 800
"""Whatever a request of ours has is shorter together, so that nothing is looked at twice."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Mask what is secret by its key or by its looks, at any depth.

    >>> redact(None, "info", {"event": "sent Bearer abc.def", "password": "hunter2"})
    {'event': 'sent Bearer ***', 'password': '***'}
    """
    return {key: _redacted(value, key) for key, value in event.items()}


def _redacted(value: object, key: str = "", depth: int = 0) -> object:
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_KEY.search(key):
        return _MASK
    if isinstance(value, int | float):
        return value
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(k): _redacted(item, str(k), depth + 1) for k, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_redacted(item, "", depth + 1) for item in value]
    text = repr(value) if isinstance(value, BaseException | bytes) else str(value)
    return _SECRET_TEXT.sub(lambda match: (match["kept"] or "") + _MASK, text)


def _escape_controls(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Keep a text line one line, and a terminal's escape sequences out; tracebacks stay."""
    return {
        key: _CONTROL.sub(lambda match: ascii(match[0])[1:-1], value)
        if isinstance(value, str) and key not in ("exception", "stack")
        else value
        for key, value in event.items()
    }


def _render_json(_logger: object, _method: str, event: EventDict) -> str:
    line: dict[str, Any] = {key: event.pop(key, None) for key in ("time", "level", "event")}
    line |= event
    try:
        return orjson.dumps(line).decode()
    except TypeError:  # surrogates and integers past 64 bits, which orjson refuses
        return json.dumps(line)


def configure_logging(log_format: LogFormat, level: str) -> None:
    """Send every log line of this process, structlog's and the standard library's, to stderr.

    Lines are text for people (coloured on a terminal only) or one JSON object each; all carry the
    time (UTC, ISO 8601), the level and the event, and pass through `redact`. Each worker process
    calls this once; calling it again replaces what was configured before.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # A cached logger would keep the level and processors of an earlier configuration.
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(_HANDLER)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=_final_processors(log_format), foreign_pre_chain=shared
        )
    )
    # Their steps mean nothing to operators, and would bury what does: agents ask all the time.
    for chatty in ("alembic", "httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)


def _final_processors(log_format: LogFormat) -> list[Processor]:
    # The exception becomes text before redaction, so that a traceback gives no secret away.
    clean: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact,
    ]
    if log_format == "json":
        return [*clean, _render_json]
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        exception_formatter=structlog.dev.plain_traceback,
        timestamp_key="time",
    )
    return [*clean, _escape_controls, renderer]


class AccessLog:
    """One line a request, written cheaply: buffered, and given to the stream by `flush`.

    A line is one JSON object, or columns with one space between them: time, client, account,
    method, path, status, bytes, seconds, request id; `-` where there is none. Whatever a client
    chose is percent-encoded where it is not visible ASCII, so nobody can forge a line or a column,
    and cut where it is longer than any of ours, so that nobody fills the disk with a few requests.
    It never raises because of the stream: lines that cannot be written are counted in `lost`.
    One event loop owns it.
    """

    __slots__ = ("_clock", "_is_json", "_lines", "_prefix", "_second", "_stream", "lost")

    BUFFERED_LINES: Final = 1024

    def __init__(
        self, log_format: LogFormat, stream: BinaryIO, clock: Callable[[], float] = time.time
    ) -> None:
        self._is_json = log_format == "json"
        self._stream = stream
        self._clock = clock
        self._lines: list[bytes] = []
        self._second = -1
        self._prefix = ""
        self.lost = 0

    def write(
        self,
        method: str,
        path: str,
        status: int,
        sent_bytes: int,
        seconds: float,
        request_id: str,
        client: str,
        account: str = "",
    ) -> None:
        """Add the line of one request; what follows a `?` in the path is left out."""
        if "?" in path:
            path = path.partition("?")[0]
        chosen = f"{method}{path}{request_id}{client}{account}"
        if len(chosen) > _MOST_CHOSEN:
            method, path = _cut(method, _MOST_METHOD), _cut(path, _MOST_PATH)
            client, account = _cut(client, _MOST_NAME), _cut(account, _MOST_NAME)
            chosen = f"{method}{path}{request_id}{client}{account}"
        if " " in chosen or not (chosen.isascii() and chosen.isprintable()):
            method, path, request_id, client, account = map(
                _visible, (method, path, request_id, client, account)
            )
        if self._is_json:
            line = _json_line(
                self._time(), method, path, status, sent_bytes, seconds, request_id, client, account
            )
        else:
            line = (
                f"{self._time()} {client or '-'} {account or '-'} {method or '-'} {path or '-'}"
                f" {status} {sent_bytes} {seconds:.6f} {request_id or '-'}\n"
            ).encode()
        self._lines.append(line)
        if len(self._lines) >= self.BUFFERED_LINES:
            self.flush()

    def flush(self) -> None:
        """Give the buffered lines to the stream; a full buffer does so by itself."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            self._stream.write(b"".join(lines))
            self._stream.flush()
        except (OSError, ValueError):  # full disk, closed pipe, closed stream
            self.lost += len(lines)

    def _time(self) -> str:
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._prefix}.{int((now - second) * 1000):03d}Z"


def _json_line(  # noqa: PLR0917 (the facts of one line, passed the cheapest way)
    moment: str,
    method: str,
    path: str,
    status: int,
    sent_bytes: int,
    seconds: float,
    request_id: str,
    client: str,
    account: str,
) -> bytes:
    line = {
        "time": moment,
        "level": "info",
        "event": "request",
        "method": method,
        "path": path,
        "status": status,
        "bytes": sent_bytes,
        "seconds": round(seconds, 6),
        "request_id": request_id,
        "client": client,
        "account": account or None,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _cut(text: str, most: int) -> str:
    """Return the beginning of a text that is too long.

    >>> _cut("/v2/a/b", 5)
    '/v2/a...'
    """
    return text if len(text) <= most else f"{text[:most]}..."


def _visible(text: str) -> str:
    r"""Percent-encode everything but visible ASCII.

    >>> _visible("/v2/a\nb/é")
    '/v2/a%0Ab/%C3%A9'
    """
    return urllib.parse.quote(text, safe="/:;,@!$&'()*+=~[]", errors="backslashreplace")

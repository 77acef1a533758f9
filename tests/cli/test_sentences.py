"""What goes wrong is said in sentences of ours: what happened, and what to do about it."""

import ast
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.command import QuickCommandLine
from tests.support.processes import ROOT, free_port
from typer.testing import CliRunner

from dtr.cli.context import failures_as_sentences
from dtr.database.sqlite.connections import translated
from dtr.model import errors
from dtr.storage.bucket import _translated

LIBRARY = re.compile(
    r"codec|unable to|Input should|Generic|max_retries|invalid literal|not enough values|Errno|"
    r"sqlalchemy|psycopg|sqlite3|alembic|object at|<class|Traceback|ssl:|errno|NoneType|%s"
)
ACTION = re.compile(
    r"(?i)\b(pass|choose|name|write|give|make|see|check|run|start|restore|use|stop|set|shows?|must|"
    r"remove|free|did you mean|add|takes|create|disable|needs|correct|look)\b"
)
Prepare = Callable[[Path], object]


def file(name: str, content: bytes) -> Prepare:
    """Have a file in the directory where the command is typed."""
    return lambda place: (place / name).write_bytes(content)


def nothing(_: Path) -> None:
    """Prepare nothing."""


def metadata_is_a_directory(place: Path) -> None:
    """Have SQLite fail to open its file."""
    for each in (place / "data").glob("dtr.db*"):
        each.unlink()
    (place / "data" / "dtr.db").mkdir()


def metadata_is_text(place: Path) -> None:
    """Have SQLite find another file."""
    for each in (place / "data").glob("dtr.db*"):
        each.unlink()
    (place / "data" / "dtr.db").write_bytes(b"no database" * 500)


UNDECODABLE = file("f", b"\xff\xfe\n")
CASES: list[tuple[str, dict[str, str], Prepare]] = [
    ("user list --config f", {}, UNDECODABLE),
    ("user list --config f", {}, file("f", b"[server\n")),
    ("user list --config f", {}, file("f", b"[server]\nworkers = 'x'\n")),
    ("user list --config none", {}, nothing),
    ("user list", {"DTR_SERVER__WORKERS": "x"}, nothing),
    ("user list", {"DTR_COLLECT__SCHEDULE": "x y"}, nothing),
    ("user list", {"DTR_SERVER__TRUSTED_PROXIES": "x"}, nothing),
    ("user list", {"DTR_SERVER__TRUSTED_PROXIES": "10.0.0.1/8"}, nothing),
    ("user list", {"DTR_STORAGE__URL": "ftp://x"}, nothing),
    ("user list", {"DTR_STORAGE__URL": "s3://b"}, nothing),
    ("user list", {"DTR_STORAGE__URL": "s3://[x"}, nothing),
    ("user list", {"DTR_STORAGE__URL": "s3://bucket?endpoint=http://x:y"}, nothing),
    ("user list", {"DTR_DATABASE__URL": "mysql://x"}, nothing),
    ("user list", {"DTR_DATABASE__URL": "postgresql://h:x/d"}, nothing),
    (
        "user list",
        {
            "DTR_DATABASE__URL": f"postgresql://u@127.0.0.1:{free_port()}/d",
            "DTR_DATABASE__FAILOVER_WAIT_SECONDS": "1",
        },
        nothing,
    ),
    ("user list", {}, metadata_is_a_directory),
    ("user list", {}, metadata_is_text),
    ("user add alice --password-file f", {}, UNDECODABLE),
    ("user add alice --password-file f", {}, file("f", b"")),
    ("user add alice --password-file f", {}, file("f", b"short\n")),
    ("user add Alice --password-file f", {}, file("f", b"a long enough password\n")),
    ("user passwd nobody --password-file f", {}, file("f", b"a long enough password\n")),
    ("token revoke admin 1", {}, nothing),
    ("token create admin --expires x", {}, nothing),
    ("token create admin --level x", {}, nothing),
    ("repo rm a/b --yes", {}, nothing),
    ("repo create A/b", {}, nothing),
    ("repo create no-slash", {}, nothing),
    ("jobs show 7", {}, nothing),
    ("jobs run nothing", {}, nothing),
    ("config check", {"DTR_SERVER__LISTEN": "192.0.2.1:5000"}, nothing),
    ("config check", {"DTR_SERVER__TLS_CERT": "f", "DTR_SERVER__TLS_KEY": "f"}, UNDECODABLE),
    ("config check", {"DTR_STORAGE__URL": "file:///nowhere/at/all"}, nothing),
    ("storage copy --to x", {}, nothing),
]


@pytest.mark.parametrize(("line", "environment", "prepare"), CASES)
def test_what_goes_wrong_is_said_in_a_sentence_of_ours(
    quick: QuickCommandLine,
    line: str,
    environment: dict[str, str],
    prepare: Prepare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It begins with a capital, ends as a sentence does, and says what to do."""
    prepare(quick.place)
    monkeypatch.chdir(quick.place)
    message = quick.run(*line.split(), environment=environment).message
    assert not LIBRARY.search(message), message
    assert message[0].isupper(), message
    assert message.rstrip()[-1] in ".)?", message
    assert ACTION.search(message), message


def test_read_only_metadata_are_said_with_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite says neither which file nor why."""
    path = tmp_path / "dtr.db"
    sqlite3.connect(path).close()
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    with pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(Exception) as ended, failures_as_sentences(tmp_path):  # noqa: PT011
        raise translated(caught.value)
    assert getattr(ended.value, "exit_code", None) == 1
    message = capsys.readouterr().err
    assert "cannot be written: file or disk is read-only." in message
    assert f"the disk in {tmp_path} is mounted for writing" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Generic S3 error: Error performing PUT http://x/b, max_retries: 2: Connection refused",
            "no connection to it could be made: connection refused",
        ),
        ("Generic S3 error: HTTP error: operation timed out", "it did not answer in time"),
        ("Generic S3 error: dns error: failed to lookup", "its name is not known"),
        ("Generic GCS error: something new", "no connection to it could be made"),
    ],
)
def test_an_object_store_that_does_not_answer_is_said_in_our_words(text: str, said: str) -> None:
    """Whatever its library says."""
    message = str(_translated("write", OSError(text)))
    assert said in message
    assert not LIBRARY.search(message)


def test_no_error_of_the_registry_begins_with_a_name() -> None:
    """A name would get a capital at the command line: there is no user "Alice"."""
    ours = {name for name, each in vars(errors).items() if isinstance(each, type)}
    ours |= {"AccountConflictError", "AccountUnknownError", "SourceError", "MetadataCopyError"}
    rooms = ("accounts", "registry", "transfer", "storage", "database", "jobs", "collect")
    found = [
        f"{path.name}:{call.lineno}"
        for room in rooms
        for path in (ROOT / "src" / "dtr" / room).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ours
        and call.args
        and begins_with_a_value(call.args[0])
    ]
    assert found == []


NUMBERS = {"count", "strange", "path"}
"""What a message may begin with: a number, or a path from the root on."""


def begins_with_a_value(message: ast.expr) -> bool:
    """Tell whether a message's first word is known at run time only."""
    if not isinstance(message, ast.JoinedStr) or not message.values:
        return False
    first = message.values[0]
    if not isinstance(first, ast.FormattedValue):
        return False
    return not (isinstance(first.value, ast.Name) and first.value.id in NUMBERS)


def test_a_wrong_call_names_the_help() -> None:
    """Exit status 2, and how to see what is right."""
    from dtr.cli.application import application  # noqa: PLC0415 - only here

    done = CliRunner().invoke(application, ["user", "lst"], prog_name="dtr")
    assert done.exit_code == 2
    assert "Try 'dtr user -h' for help." in done.stderr

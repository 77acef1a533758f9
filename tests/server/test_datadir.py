"""The data directory: what is made, what is refused, and who has it."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtr.server.datadir import DataDirectory, DataDirectoryError, write_atomically

HOLDER = """
import sys, time
from pathlib import Path
from dtr.server.datadir import DataDirectory
DataDirectory.open(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def mode(path: Path) -> int:
    """Return the permissions of a path."""
    return stat.S_IMODE(path.stat().st_mode)


def refusal(path: Path, *, shared: bool = False, minimum_free_bytes: int = 0) -> str:
    """Open a directory that must be refused, and return what is said."""
    with pytest.raises(DataDirectoryError) as caught:  # noqa: PT012 (one of two statements)
        if shared:
            DataDirectory.open_shared(path)
        else:
            DataDirectory.open(path, minimum_free_bytes=minimum_free_bytes)
    assert caught.value.what.endswith(".")
    assert caught.value.remedy.endswith(".")
    assert str(caught.value) == f"{caught.value.what} {caught.value.remedy}"
    return str(caught.value)


@pytest.fixture
def ours() -> Iterator[Path]:
    """Give a directory of an ordinary user, and be that user: root may write anywhere."""
    root = os.geteuid() == 0
    base = Path(tempfile.mkdtemp(prefix="dtr-datadir-"))
    if root:
        os.chown(base, 65534, 65534)
        os.seteuid(65534)
    yield base
    if root:
        os.seteuid(0)
    for path in sorted(base.rglob("*"), reverse=True):
        path.chmod(0o700)
        path.rmdir() if path.is_dir() else path.unlink()
    base.rmdir()


def test_a_missing_directory_is_made_for_its_user_only(tmp_path: Path) -> None:
    """Directory and parents appear, readable for nobody else, with a place for everything."""
    path = tmp_path / "a" / "data"
    with DataDirectory.open(path) as opened:
        assert mode(path) == 0o700
        assert opened.path == path
        assert (path / "FORMAT").read_text() == "dtr-data 1\n"
        for directory in (opened.blobs, opened.tls, opened.metrics):
            assert mode(directory) == 0o700
        assert opened.database == path / "dtr.db"
        assert opened.blobs == path / "blobs"
        assert opened.tls == path / "tls"
        assert opened.metrics == path / "run" / "metrics"
        assert opened.initial_admin_password == path / "initial_admin_password"
        assert not opened.database.exists()


def test_a_directory_is_opened_again_with_what_it_holds(tmp_path: Path) -> None:
    """Closing and opening keeps everything but the metrics of the processes that are gone."""
    with DataDirectory.open(tmp_path / "data") as opened:
        (opened.blobs / "blob").write_bytes(b"bytes")
        (opened.metrics / "counter_1.db").write_bytes(b"stale")
        (opened.metrics / "deeper").mkdir()
    with DataDirectory.open(tmp_path / "data") as opened:
        assert (opened.blobs / "blob").read_bytes() == b"bytes"
        assert list(opened.metrics.iterdir()) == []


def test_the_paths_do_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is made absolute once."""
    monkeypatch.chdir(tmp_path)
    with DataDirectory.open(Path("data")) as opened:
        assert opened.database == tmp_path / "data" / "dtr.db"


def test_what_an_interrupted_first_start_leaves_is_taken_over(tmp_path: Path) -> None:
    """A lock file and half a FORMAT file are no reason to refuse, nor is lost+found."""
    (tmp_path / "dtr.lock").write_text("1")
    (tmp_path / "FORMAT.tmp").write_text("dtr-")
    (tmp_path / "lost+found").mkdir()
    DataDirectory.open(tmp_path).close()
    assert (tmp_path / "FORMAT").read_text() == "dtr-data 1\n"


def test_a_directory_with_other_things_in_it_is_refused_and_untouched(tmp_path: Path) -> None:
    """Somebody's home directory does not become a data directory by a slip."""
    (tmp_path / "thesis.txt").write_text("dear")
    assert "is not empty and has no FORMAT file" in refusal(tmp_path)
    assert "is not empty and has no FORMAT file" in refusal(tmp_path, shared=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dtr-data 2\n", "written by a newer DTR (format 2, and this one reads format 1)"),
        ("dtr-data 0\n", "written by an older DTR"),
        ("dtr-data\n", "was not written by DTR"),
        ("something 1\n", "was not written by DTR"),
        ("", "was not written by DTR"),
        ("\ufffd" * 9000, "was not written by DTR"),
    ],
)
def test_another_format_is_refused(
    tmp_path: Path,
    content: str,
    message: str,
    shared: bool,  # noqa: FBT001
) -> None:
    """Data of another version is never read as if it were of this one."""
    (tmp_path / "FORMAT").write_text(content, encoding="utf-8")
    assert message in refusal(tmp_path, shared=shared)


@pytest.mark.parametrize("shared", [False, True])
def test_a_directory_of_another_user_is_refused(tmp_path: Path, shared: bool) -> None:  # noqa: FBT001
    """Also to root, who would leave files that the owner cannot read."""
    path = Path("/usr")
    if os.geteuid() == 0:
        path = tmp_path / "data"
        DataDirectory.open(path).close()
        os.chown(path, 65534, 65534)
    owner = path.stat().st_uid
    message = refusal(path, shared=shared)
    assert f"belongs to user {owner}, and this is user {os.geteuid()}" in message
    assert f"Run DTR as user {owner}" in message


def test_a_directory_that_cannot_be_written_is_refused(ours: Path) -> None:
    """Both before the first start and later."""
    path = ours / "data"
    path.mkdir(mode=0o500)
    assert "cannot be written: Permission denied" in refusal(path)
    path.chmod(0o700)
    DataDirectory.open(path).close()
    path.chmod(0o500)
    (path / "run").chmod(0o500)
    assert "cannot be written: Permission denied" in refusal(path)
    (path / "run").chmod(0o700)


def test_a_directory_that_cannot_be_read_is_refused(ours: Path) -> None:
    """The reason is the system's own."""
    path = ours / "data"
    path.mkdir(mode=0o000)
    assert "cannot be read: Permission denied" in refusal(path)
    path.chmod(0o300)
    assert "cannot be read: Permission denied" in refusal(path)
    path.chmod(0o700)


def test_a_directory_that_cannot_be_made_is_refused(ours: Path) -> None:
    """A parent that may not be written is named as the reason."""
    ours.chmod(0o500)
    assert "cannot be made: Permission denied" in refusal(ours / "data")
    ours.chmod(0o700)


def test_a_file_is_no_data_directory(tmp_path: Path) -> None:
    """The path of a file, or below one, is refused."""
    file = tmp_path / "file"
    file.write_text("")
    assert "is not a directory" in refusal(file)
    assert "Not a directory" in refusal(file, shared=True)
    assert "is not a directory" in refusal(file / "data")


def test_a_full_disk_is_refused(tmp_path: Path) -> None:
    """A server that cannot store anything does not start; no disk has so much free."""
    message = refusal(tmp_path / "data", minimum_free_bytes=2**62)
    assert "MiB free" in message
    assert "Free some space" in message


def test_a_second_server_is_refused_and_told_who_holds_the_directory(tmp_path: Path) -> None:
    """A real second process holds it; when that is killed the directory is free again."""
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        message = refusal(tmp_path / "data")
        assert f"in use by another DTR server (process {process.pid})" in message
        process.send_signal(signal.SIGKILL)
    DataDirectory.open(tmp_path / "data").close()


def test_a_refused_server_leaves_the_holders_metrics_alone(tmp_path: Path) -> None:
    """Only who has the lock may empty anything; the holder stays named."""
    with DataDirectory.open(tmp_path) as opened:
        (opened.metrics / "counter_1.db").write_bytes(b"live")
        refusal(tmp_path)
        assert (opened.metrics / "counter_1.db").exists()
        assert (tmp_path / "dtr.lock").read_text() == f"{os.getpid()}\n"


def test_a_failed_open_does_not_keep_the_lock(tmp_path: Path) -> None:
    """What went wrong after locking can be repaired and tried again."""
    DataDirectory.open(tmp_path).close()
    (tmp_path / "tls").rmdir()
    (tmp_path / "tls").write_text("in the way")
    assert "cannot be written: File exists" in refusal(tmp_path)
    (tmp_path / "tls").unlink()
    DataDirectory.open(tmp_path).close()


def test_closing_twice_does_no_harm(tmp_path: Path) -> None:
    """The second close touches no descriptor that meanwhile belongs to somebody else."""
    opened = DataDirectory.open(tmp_path)
    opened.close()
    with DataDirectory.open(tmp_path):
        opened.close()
        assert "in use" in refusal(tmp_path)


def test_the_command_line_may_look_beside_a_running_server(tmp_path: Path) -> None:
    """`open_shared` needs no lock and changes nothing."""
    with DataDirectory.open(tmp_path) as opened:
        (opened.metrics / "counter_1.db").write_bytes(b"live")
        with DataDirectory.open_shared(tmp_path) as shared:
            assert shared.database == opened.database
        assert (opened.metrics / "counter_1.db").exists()
        assert "in use" in refusal(tmp_path)


def test_the_command_line_makes_no_directory(tmp_path: Path) -> None:
    """A wrong path is a mistake there, not a wish."""
    assert "does not exist" in refusal(tmp_path / "data", shared=True)
    assert "is empty" in refusal(tmp_path, shared=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_as_a_whole_and_private_from_the_start(tmp_path: Path) -> None:
    """Neither a file left by a crash nor the old file's permissions decide about the new one."""
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "key.tmp").write_text("half")
    (tmp_path / "key.tmp").chmod(0o666)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]

"""What the agent leaves on the disk for an operator whom no controller answers."""

import os
import stat
import time
from pathlib import Path

import pytest

from dtr.ucp.agent.last_known import LastKnown, recall


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give where it is kept."""
    return tmp_path / "last.json"


def test_it_is_kept_for_its_owner_only_and_recalled(path: Path) -> None:
    """With its age."""
    LastKnown(path).keep({"state": "ready", "at": 1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    recalled = recall(path)
    assert recalled is not None
    assert recalled.document == {"state": "ready", "at": 1}
    assert recalled.age_seconds < 60


def test_it_is_written_only_when_there_is_news(path: Path) -> None:
    """Numbers that always move are none, for a minute; the file is only given the time."""
    now = 0.0
    kept = LastKnown(path, lambda: now)
    kept.keep({"each": [{"state": "ready", "at": 1}]})
    first = path.stat().st_ino
    os.utime(path, (0, 0))
    kept.keep({"each": [{"state": "ready", "at": 2}]})
    assert path.stat().st_ino == first
    assert path.stat().st_mtime > time.time() - 60
    now = 60.0
    kept.keep({"each": [{"state": "ready", "at": 3}]})
    recalled = recall(path)
    assert recalled is not None
    assert recalled.document["each"][0]["at"] == 3
    kept.keep({"each": [{"state": "stopped", "at": 3}]})
    recalled = recall(path)
    assert recalled is not None
    assert recalled.document["each"][0]["state"] == "stopped"


def test_what_was_deleted_is_written_again(path: Path) -> None:
    """Even where nothing has changed."""
    kept = LastKnown(path)
    kept.keep({"state": "ready"})
    path.unlink()
    kept.keep({"state": "ready"})
    assert recall(path) is not None


def test_a_disk_that_takes_nothing_hinders_nobody(tmp_path: Path) -> None:
    """Nor does a document that is too large; what was there stays."""
    LastKnown(tmp_path / "no directory" / "last.json").keep({})
    kept = LastKnown(tmp_path / "last.json")
    kept.keep({"state": "ready"})
    kept.keep({"state": "x" * (5 << 20)})
    recalled = recall(tmp_path / "last.json")
    assert recalled is not None
    assert recalled.document == {"state": "ready"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"null"])
def test_a_damaged_file_recalls_nothing(path: Path, content: bytes) -> None:
    """And is no error: there is less to show."""
    assert recall(path) is None
    path.write_bytes(content)
    assert recall(path) is None

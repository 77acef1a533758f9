"""The cluster's status: what the agent wrote and how old it is, or the one server itself."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dtr.model.errors import UnavailableError
from dtr.server.cluster_status import ClusterStatus
from dtr.server.health import Health
from dtr.server.settings import ListenAddress

NOW = 1_000_000.0


def status_of(file: Path | None, check: Callable[[], Any] | None = None) -> ClusterStatus:
    """Give the status of a server whose storage answers so."""

    async def well() -> str:
        return ""

    health = Health({"storage": check or well})
    return ClusterStatus(file, health, ListenAddress("10.0.0.1", 443), clock=lambda: NOW)


async def test_the_agents_document_is_answered_with_its_age(tmp_path: Path) -> None:
    """By the file's time, or by what the document says itself."""
    file = tmp_path / "status.json"
    document = {"replica_health": {"1" * 12: "OK"}, "own": [1, {"more": None}]}
    file.write_text(json.dumps(document))
    os.utime(file, (NOW - 7, NOW - 7))
    expected = {**document, "reported_at": NOW - 7, "age_seconds": 7.0}
    assert await status_of(file).document() == expected
    file.write_text(json.dumps({"reported_at": NOW - 60}))
    assert await status_of(file).document() == {"reported_at": NOW - 60, "age_seconds": 60.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "was not written on this node yet"),
        (b"{", "is damaged"),
        (b"[]", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b" " * (16 * 2**20 + 1), "is damaged"),
    ],
)
async def test_a_file_that_is_missing_or_damaged_is_said(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    """In a sentence with what to do."""
    file = tmp_path / "status.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UnavailableError, match=f"{message}.*agent's log"):
        await status_of(file).document()


async def test_a_server_without_a_cluster_is_the_only_replica() -> None:
    """In the shape that the original's scripts read."""
    status = await status_of(None).document()
    [(replica, health)] = status["replica_health"].items()
    assert (len(replica), health) == (12, "OK")
    assert status["replica_readonly"] == {replica: False}
    assert status["replica_timestamp"] == {replica: "1970-01-12T13:46:40Z"}
    assert status["gc_lock_holder"] == ""
    tables = status["rethink_system_tables"]
    assert tables["current_issues"] == []
    [server] = tables["server_status"]
    assert server["id"] == replica
    assert server["network"]["canonical_addresses"] == [{"host": "10.0.0.1", "port": 443}]
    assert (status["reported_at"], status["age_seconds"]) == (NOW, 0.0)


async def test_a_server_that_is_not_well_says_so_in_its_status() -> None:
    """As an issue, and as its replica's health."""

    async def failing() -> str:
        raise UnavailableError("the disk is on fire")

    status = await status_of(None, failing).document()
    [health] = status["replica_health"].values()
    assert health == "storage: the disk is on fire"
    [issue] = status["rethink_system_tables"]["current_issues"]
    assert issue["critical"]
    assert issue["description"] == "storage: the disk is on fire"


async def test_a_server_that_can_only_be_pulled_from_is_read_only_and_well() -> None:
    """An issue, but not a critical one."""

    async def stale() -> str:
        return "pulls only"

    status = await status_of(None, stale).document()
    assert list(status["replica_health"].values()) == ["OK"]
    assert list(status["replica_readonly"].values()) == [True]
    [issue] = status["rethink_system_tables"]["current_issues"]
    assert not issue["critical"]

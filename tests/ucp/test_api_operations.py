"""Operations: one change at a time, followed by whoever asked for it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ucp.plane import ControlPlane

from dtr.ucp import keys
from dtr.ucp.client import UcpError
from dtr.ucp.controller.operations import MAX_KEPT
from dtr.ucp.model import Operation, OperationState


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane of one manager."""
    with ControlPlane(tmp_path) as running:
        yield running


def end(plane: ControlPlane, operation: Operation, later: float = 1) -> None:
    """End an operation as the loop does."""
    ended: Operation = operation.changed(
        state=OperationState.SUCCEEDED, updated_at=plane.now + later, result={"id": "0123"}
    )
    plane.put(keys.operation(operation.id), ended.encoded())


def test_an_operation_is_followed_to_its_end(plane: ControlPlane) -> None:
    """Whoever follows hears of a change when it is made."""
    with plane.client() as client:
        begun = client.start_operation("join", {"node": "node2"})
        assert (begun.created_by, begun.arguments) == ("admin", {"node": "node2"})
        ending = threading.Timer(0.5, end, (plane, begun))
        ending.start()
        seen = list(client.follow(begun.id))
        ending.join()
    assert [each.state for each in seen] == [OperationState.RUNNING, OperationState.SUCCEEDED]
    assert seen[-1].result == {"id": "0123"}


def test_only_one_change_runs_at_a_time(plane: ControlPlane) -> None:
    """The second is told which is the first; what changes nothing runs beside it."""
    with plane.client() as client:
        first = client.start_operation("join", {})
        with pytest.raises(UcpError, match=f"A join is running .operation {first.id}") as error:
            client.start_operation("join", {})
        assert (error.value.status, error.value.code) == (409, "OPERATION_RUNNING")
        client.start_operation("look", {})
        end(plane, first)
        assert client.start_operation("join", {}).id != first.id


def test_a_lock_whose_operation_is_gone_is_free(plane: ControlPlane) -> None:
    """A controller may die between the end of an operation and taking away its lock."""
    plane.put(keys.OPERATION_LOCK, b"gone")
    with plane.client() as client:
        begun = client.start_operation("join", {})
    lock = plane.entry(keys.OPERATION_LOCK)
    assert lock is not None
    assert lock.value == begun.id.encode()


def test_unknown_kinds_and_operations_are_refused(plane: ControlPlane) -> None:
    """With those that there are."""
    with plane.client() as client:
        with pytest.raises(UcpError, match="There are: join, look"):
            client.start_operation("explode", {})
        with pytest.raises(UcpError, match="no operation 'x'"):
            list(client.follow("x"))
        operation = client.start_operation("look", {})
        with pytest.raises(UcpError, match="after is a time"):
            client.call("GET", f"/operations/{operation.id}", params={"after": "soon"})


def test_cancelling_is_a_wish_that_is_written_down_once(plane: ControlPlane) -> None:
    """One that has ended cannot be cancelled."""
    with plane.client() as client:
        begun = client.start_operation("join", {})
        plane.now += 1
        assert client.cancel(begun.id).is_cancelled
        assert client.cancel(begun.id).is_cancelled
        end(plane, begun, later=2)
        with pytest.raises(UcpError, match="ended already"):
            client.cancel(begun.id)


def test_old_operations_are_forgotten(plane: ControlPlane) -> None:
    """Those that run never are."""
    with plane.client() as client:
        running = client.start_operation("join", {})
        for number in range(MAX_KEPT + 5):
            old = running.changed(
                id=f"old{number:03}", state=OperationState.FAILED, updated_at=float(number)
            )
            plane.put(keys.operation(old.id), old.encoded())
        client.start_operation("look", {})
        kept = client.call("GET", "/operations")["operations"]
        ended = client.call("GET", "/operations", params={"state": "failed"})["operations"]
    assert len(ended) == MAX_KEPT
    assert "old004" not in {each["id"] for each in ended}
    assert running.id in {each["id"] for each in kept}

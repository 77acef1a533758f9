"""How a command asks for an operation, shows its phases while it runs, and tells its end.

The operation runs in the control plane. Whoever presses Ctrl-C, or loses the connection, ends the
showing only; the same command again shows the rest.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import typer
from pydantic import JsonValue
from rich.status import Status

from dtr.cli.output import Text, echo, one_line
from dtr.cli.terminal import drawing, fail, new_console, show_json, warn
from dtr.cluster import operations
from dtr.ucp.api import ApiError
from dtr.ucp.client import UcpClient, UcpError
from dtr.ucp.model import Operation, OperationState, Phase

_JUST_NOW_SECONDS: Final = 300.0
_INTERRUPTED: Final = 130
_CHOSEN_FOR_THE_USER: Final = frozenset({"replica_id", "existing_replica_id", "certificate_id"})
"""Arguments that a second run of the same command need not have in common with the first."""

_OPTIONS: Final = {
    "existing_replica_id": "--existing-replica-id",
    "external_url": "--dtr-external-url",
    "http_port": "--replica-http-port",
    "https_port": "--replica-https-port",
    "node": "--ucp-node",
    "replica_id": "--replica-id",
    "replica_ids": "--replica-ids",
    "settings": "--setting",
    "storage": "--storage",
}
_ARGUMENT: Final = re.compile(rf"(^|; )({'|'.join(_OPTIONS)})(?:\.\d+)?: ")

Arguments = Mapping[str, JsonValue]


def carry_out(
    client: UcpClient,
    kind: str,
    arguments: Arguments,
    *,
    as_json: bool,
    prepare: Callable[[], Arguments] | None = None,
) -> Operation:
    """Have an operation done and return it at its end; one that runs already is gone on with.

    `prepare` is called before a new one is asked for, and returns more arguments. A failure ends
    the command with exit status 1.
    """
    _check(kind, arguments)
    operation = _same(client, kind, arguments)
    if operation is None:
        more = prepare() if prepare is not None else {}
        operation = client.start_operation(kind, {**arguments, **more})
    elif not as_json:
        begun = "is running already" if _is_running(operation) else "has just been done"
        echo(f"This {kind} {begun} (operation {operation.id}).", err=True)
    if _is_running(operation):
        operation = _follow(client, operation.id, as_json=as_json)
    if operation.state is OperationState.FAILED:
        if as_json:
            show_json(operation.model_dump(mode="json"))
        fail(one_line(operation.error), is_sentence=True)
    if not as_json:
        for warning in warnings_of(operation):
            warn("Warning: ", "yellow")
            echo(one_line(warning), err=True)
    return operation


def show_plan(client: UcpClient, kind: str, arguments: Arguments, *, as_json: bool) -> NoReturn:
    """Print what an operation would do, and end: with exit status 1 where it would be refused."""
    _check(kind, arguments)
    asked = {"kind": kind, "arguments": json.dumps(dict(arguments))}
    found: dict[str, Any] = client.call("GET", "/dtr/plan", params=asked)
    if as_json:
        show_json(found)
    else:
        echo(f"{kind} would go through these phases:")
        for number, name in enumerate(found["phases"], 1):
            echo(f"  {number}. {name}")
    if found["problem"]:
        fail(f"It would be refused: {one_line(found['problem'])}")
    raise typer.Exit(0)


def warnings_of(operation: Operation) -> list[str]:
    """Return what whoever asked for the operation should know."""
    found = operation.result.get(operations.WARNINGS)
    return [str(each) for each in found] if isinstance(found, list) else []


class PhaseView:
    """Shows phases as they come: at a terminal with the current one moving, else a line each."""

    def __init__(self) -> None:
        self._console = new_console(stderr=True)
        self._status: Status | None = None
        self._shown = 0
        self._begun = 0

    @drawing()
    def show(self, operation: Operation) -> None:
        """Show what is new in an operation."""
        ended = [phase for phase in operation.phases if phase.ended_at is not None]
        for phase in ended[self._shown :]:
            self._line(phase)
        self._shown = len(ended)
        last = operation.phases[-1] if operation.phases else None
        if last is None or last.ended_at is not None:
            self.end()
        elif self._console.is_terminal:
            self._move(last)
        elif len(operation.phases) > self._begun:
            self._begun = len(operation.phases)
            self._print(f"{last.name} …")

    @drawing()
    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _move(self, phase: Phase) -> None:
        waiting = f": waiting {phase.message}" if phase.message.startswith("for ") else ""
        text = Text(one_line(f"{phase.name}{waiting}"))
        if self._status is None:
            self._status = Status(text, console=self._console)
            self._status.start()
        else:
            self._status.update(text)

    def _line(self, phase: Phase) -> None:
        self.end()
        seconds = (phase.ended_at or phase.started_at) - phase.started_at
        mark = "done" if phase.state is OperationState.SUCCEEDED else "failed"
        self._print(f"{phase.name}: {mark} ({seconds:.1f} s)")

    def _print(self, text: str) -> None:
        self._console.print(Text(one_line(text)), soft_wrap=True)


def _follow(client: UcpClient, operation_id: str, *, as_json: bool) -> Operation:
    view = PhaseView()
    last: Operation | None = None
    try:
        for last in client.follow(operation_id):
            if not as_json:
                view.show(last)
    except KeyboardInterrupt:
        view.end()
        echo(
            f"\nThe operation {operation_id} continues without this command. Run the same command "
            "again to follow it, or see dtr status.",
            err=True,
        )
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        view.end()
    if last is None:
        raise UcpError(f"The operation {operation_id} is not kept any more.", "See dtr status.")
    return last


def _check(kind: str, arguments: Arguments) -> None:
    """Fail at once for what the control plane would refuse without a look at the cluster."""
    try:
        operations.checked(kind, arguments)
    except ApiError as error:
        fail(f"{_as_typed(str(error))}.".replace("..", "."))


def _as_typed(problems: str) -> str:
    """Return what is wrong with arguments, which are called as the options that were typed."""
    return _ARGUMENT.sub(lambda found: f"{found[1]}{_OPTIONS[found[2]]}: ", problems)


def _same(client: UcpClient, kind: str, arguments: Arguments) -> Operation | None:
    """Return the operation that this command has asked for before: running, or just done."""
    found: dict[str, Any] = client.call("GET", "/operations")
    wanted = _comparable(operations.checked(kind, arguments), arguments)
    for document in found["operations"]:
        operation = Operation.model_validate(document)
        if operation.kind != kind or _comparable(operation.arguments, arguments) != wanted:
            continue
        is_recent = time.time() - operation.updated_at < _JUST_NOW_SECONDS
        is_done = operation.state is OperationState.SUCCEEDED
        if _is_running(operation) or (is_done and is_recent and _still_holds(client, operation)):
            return operation
    return None


def _comparable(kept: Arguments, given: Arguments) -> dict[str, JsonValue]:
    """Return what two runs of one command have in common."""
    ignored = {name for name in _CHOSEN_FOR_THE_USER if not given.get(name)}
    ignored |= {"existing_replica_id", "certificate_id"}
    return {name: value for name, value in kept.items() if name not in ignored}


def _still_holds(client: UcpClient, operation: Operation) -> bool:
    """Return whether what an operation did has not been changed since."""
    shown: dict[str, Any] = client.call("GET", "/dtr/replicas")
    ids = {each["id"] for each in shown["replicas"]}
    if operation.kind in {operations.INSTALL, operations.JOIN}:
        return operation.result.get("replica_id") in ids
    if operation.kind == operations.REMOVE:
        removed = operation.arguments.get("replica_ids")
        return isinstance(removed, list) and not ids & {str(each) for each in removed}
    return operation.kind == operations.DESTROY and not shown["is_installed"]


def _is_running(operation: Operation) -> bool:
    return operation.state is OperationState.RUNNING

"""What may be asked for, and how an operation's document changes while it goes on."""

import re
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

from dtr.cluster.model import HTTP_PORT, HTTPS_PORT
from dtr.model.location import StorageLocation
from dtr.server.settings_sources import SettingsError, load_settings
from dtr.ucp.api import ApiError, OperationKind
from dtr.ucp.invalid import problems_of
from dtr.ucp.model import Operation, OperationState, Phase

INSTALL: Final = "install"
JOIN: Final = "join"
REMOVE: Final = "remove"
DESTROY: Final = "destroy"
RECONFIGURE: Final = "reconfigure"
EMERGENCY_REPAIR: Final = "emergency-repair"
INSTALL_BALANCER: Final = "load-balancer-install"
REMOVE_BALANCER: Final = "load-balancer-remove"

REPLICATED: Final = "replicated"

WARNINGS: Final = "warnings"
_MOST_WARNINGS: Final = 20
_MOST_REPLICAS: Final = 64
_MOST_TEXT: Final = 1024
_REPLICA_ID = re.compile(r"[0-9a-f]{12}\Z")
_UCP_WRITES: Final = {
    "cluster": "UCP writes this section",
    "database": "UCP runs the database",
    "data": "UCP chooses the directory",
    "storage.url": "it is the option --storage of dtr install",
    "server.listen": "it is the option --replica-https-port",
    "server.http_listen": "it is the option --replica-http-port",
    "server.proxy_listen": "replicas take the connections of balancers at port 8446",
    "server.tls_cert": "it is the option --dtr-cert",
    "server.tls_key": "it is the option --dtr-key",
    "server.tls_ca": "it is the option --dtr-ca",
    "server.insecure_http": "replicas always speak TLS",
    "server.public_url": "it is the option --dtr-external-url",
}
"""Settings that no operation may carry, and why."""


def check_replica_id(value: str) -> str:
    """Return a replica id that has its form, or nothing.

    >>> check_replica_id("00000000000a")
    '00000000000a'
    """
    if value and not _REPLICA_ID.match(value):
        raise ValueError("must be 12 lower-case hexadecimal digits")
    return value


def check_settings(value: dict[str, dict[str, JsonValue]]) -> dict[str, dict[str, JsonValue]]:
    """Return settings that every replica could take; all that is wrong is said at once."""
    problems = [
        f"{name}: {why}"
        for section, values in value.items()
        for name in (
            (section,) if section in _UCP_WRITES else (f"{section}.{key}" for key in values)
        )
        if (why := _UCP_WRITES.get(name))
    ]
    if problems:
        raise ValueError("cannot be set: " + "; ".join(problems))
    try:
        load_settings(None, value, {})
    except SettingsError as error:
        raise ValueError(str(error)) from None
    return value


def check_storage(value: str) -> str:
    """Return `replicated`, or a storage URL in its own form."""
    if ":" not in value and value != REPLICATED:
        raise ValueError(
            "must be 'replicated', or a storage URL: file:///…, s3://…, azure://… or gs://…"
        )
    return value if value == REPLICATED else str(StorageLocation.parse(value))


_ReplicaId = Annotated[str, AfterValidator(check_replica_id)]
_Name = Annotated[str, Field(min_length=1, max_length=_MOST_TEXT)]
_Text = Annotated[str, Field(max_length=_MOST_TEXT)]
_Port = Annotated[int, Field(ge=1, le=65_535)]
_Settings = Annotated[dict[str, dict[str, JsonValue]], AfterValidator(check_settings)]


class _Arguments(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _Ports(_Arguments):
    https_port: _Port = HTTPS_PORT
    http_port: _Port = HTTP_PORT

    @model_validator(mode="after")
    def _differ(self) -> "_Ports":
        if self.https_port == self.http_port:
            raise ValueError("the ports for HTTPS and HTTP must differ")
        return self


class _NewReplica(_Ports):
    node: _Name
    replica_id: _ReplicaId = ""


class InstallArguments(_NewReplica):
    """What `dtr install` asks for."""

    external_url: _Text = ""
    storage: Annotated[_Text, AfterValidator(check_storage)] = REPLICATED
    is_storage_shared: bool = False
    settings: _Settings = Field(default_factory=dict)
    certificate_id: _Text = ""


class JoinArguments(_NewReplica):
    """What `dtr join` asks for."""

    existing_replica_id: _ReplicaId = ""
    unsafe_join: bool = False
    skip_network_test: bool = False


class RemoveArguments(_Arguments):
    """What `dtr remove` asks for."""

    replica_ids: Annotated[tuple[_ReplicaId, ...], Field(min_length=1, max_length=_MOST_REPLICAS)]
    existing_replica_id: _ReplicaId = ""
    force: bool = False

    @model_validator(mode="after")
    def _name_each_once(self) -> "RemoveArguments":
        if len(set(self.replica_ids)) != len(self.replica_ids) or "" in self.replica_ids:
            raise ValueError("replica_ids must name each replica once")
        if self.existing_replica_id in self.replica_ids:
            raise ValueError(
                "the existing replica must be one that stays; the last replica of a cluster is "
                "removed with dtr destroy"
            )
        return self


class DestroyArguments(_Arguments):
    """What `dtr destroy` asks for."""

    replica_id: _ReplicaId = ""


class ReconfigureArguments(_Arguments):
    """What `dtr reconfigure` asks for; what is not named stays."""

    settings: _Settings = Field(default_factory=dict)
    external_url: _Text | None = None
    certificate_id: _Text = ""
    is_certificate_generated: bool = False
    """Whether replicas give up the user's certificate, and show one of UCP's authority again."""

    @model_validator(mode="after")
    def _have_one_certificate(self) -> "ReconfigureArguments":
        if self.certificate_id and self.is_certificate_generated:
            raise ValueError("name a certificate, or ask for a generated one, not both")
        return self


class EmergencyRepairArguments(_Arguments):
    """What `dtr emergency-repair` asks for."""

    existing_replica_id: Annotated[str, Field(min_length=1), AfterValidator(check_replica_id)]


class InstallBalancerArguments(_Ports):
    """What `dtr load-balancer install` asks for."""

    node: _Name


class RemoveBalancerArguments(_Arguments):
    """What `dtr load-balancer remove` asks for."""

    node: _Name


_KINDS: Final[dict[str, type[_Arguments]]] = {
    INSTALL: InstallArguments,
    JOIN: JoinArguments,
    REMOVE: RemoveArguments,
    DESTROY: DestroyArguments,
    RECONFIGURE: ReconfigureArguments,
    EMERGENCY_REPAIR: EmergencyRepairArguments,
    INSTALL_BALANCER: InstallBalancerArguments,
    REMOVE_BALANCER: RemoveBalancerArguments,
}


def kinds() -> list[OperationKind]:
    """Return what `POST /operations` can be asked of this room.

    Emergency repair takes no lock: an operation that cannot go on since a majority is lost must not
    stand in its way; it ends that one first.
    """
    return [
        OperationKind(
            name=name,
            check=lambda values, name=name: checked(name, values),  # type: ignore[misc]
            is_exclusive=name != EMERGENCY_REPAIR,
        )
        for name in _KINDS
    ]


def is_ours(kind: str) -> bool:
    """Return whether this room carries out operations of a kind."""
    return kind in _KINDS


def checked(kind: str, values: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Return an operation's arguments as they are kept; a new replica gets its id here.

    Raises:
        ApiError: they are not such arguments; the message says what is wrong with which.

    """
    try:
        arguments = _KINDS[kind].model_validate(values)
    except ValidationError as error:
        raise ApiError(400, "BAD_ARGUMENTS", "; ".join(problems_of(error))) from None
    kept = arguments.model_dump(mode="json", exclude_none=True)
    if isinstance(arguments, _NewReplica) and not arguments.replica_id:
        kept["replica_id"] = secrets.token_hex(6)
    return kept


def entered(operation: Operation, name: str, now: float) -> Operation:
    """Return the operation in a new phase; the one before has succeeded."""
    phase = Phase(name=name, state=OperationState.RUNNING, started_at=now)
    return _with_phases(operation, (*_closed(operation, OperationState.SUCCEEDED, now), phase), now)


def waiting(operation: Operation, message: str, now: float) -> Operation:
    """Return the operation with another message of the phase that runs; the same if it has it."""
    last = running_phase(operation)
    if last is None or not message or last.message == message:
        return operation
    return _with_phases(operation, (*operation.phases[:-1], last.changed(message=message)), now)


def warned(operation: Operation, warning: str) -> Operation:
    """Return the operation with a warning for its end; each is kept once."""
    known = operation.result.get(WARNINGS)
    warnings = list(known) if isinstance(known, list) else []
    if not warning or warning in warnings or len(warnings) >= _MOST_WARNINGS:
        return operation
    changed: Operation = operation.changed(
        result={**operation.result, WARNINGS: [*warnings, warning]}
    )
    return changed


def noted(operation: Operation, now: float, **values: JsonValue) -> Operation:
    """Return the operation with something that a later step needs."""
    changed: Operation = operation.changed(result={**operation.result, **values}, updated_at=now)
    return changed


def failing(operation: Operation, error: str, now: float) -> Operation:
    """Return the operation with its error; it runs on until all is undone."""
    phases = _closed(operation, OperationState.FAILED, now, error)
    changed: Operation = _with_phases(operation, phases, now).changed(error=error)
    return changed


def ended(operation: Operation, now: float, result: Mapping[str, JsonValue]) -> Operation:
    """Return the operation at its end: failed where it has an error."""
    state = OperationState.FAILED if operation.error else OperationState.SUCCEEDED
    changed: Operation = _with_phases(
        operation, _closed(operation, OperationState.SUCCEEDED, now), now
    ).changed(state=state, result=dict(result))
    return changed


def running_phase(operation: Operation) -> Phase | None:
    """Return the phase that an operation is in."""
    last = operation.phases[-1] if operation.phases else None
    return last if last is not None and last.state is OperationState.RUNNING else None


def _closed(
    operation: Operation, state: OperationState, now: float, message: str = ""
) -> tuple[Phase, ...]:
    last = running_phase(operation)
    if last is None:
        return operation.phases
    closed = last.changed(state=state, ended_at=now, message=message or last.message)
    return (*operation.phases[:-1], closed)


def _with_phases(operation: Operation, phases: tuple[Phase, ...], now: float) -> Operation:
    changed: Operation = operation.changed(
        phases=phases, updated_at=max(now, operation.updated_at + 0.001)
    )
    return changed

"""Looks at the store, decides, and carries out: the cluster's part of the leading controller."""

import asyncio
import json
import secrets as randomness
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pydantic import ValidationError

from dtr.cluster import model
from dtr.cluster.model import DtrSecrets
from dtr.cluster.plan import decide
from dtr.cluster.plan_actions import (
    Action,
    AddEtcdUser,
    AskSwitchover,
    ClearProbe,
    Decision,
    DeleteBalancer,
    DeleteCertificate,
    DeleteCluster,
    DeletePatroniMember,
    DeleteReplica,
    DeleteService,
    ForgetLeader,
    MakeSecrets,
    PatchPatroni,
    PutBalancer,
    PutCertificate,
    PutCluster,
    PutOperation,
    PutReplica,
    PutService,
    PutWebKey,
    RemoveEtcdUser,
    SetProbe,
)
from dtr.cluster.view import PREFIXES, ClusterView, build
from dtr.ucp import keys
from dtr.ucp.model import Administrator, Document, OperationState, Service
from dtr.ucp.store import Change, Condition, Delete, Entry, FencedStore, IsUnchanged, Put, Store

_DECISIONS_A_CYCLE: Final = 10
_PAUSE_SECONDS: Final = 10.0
"""After a longer one, the silence of nodes says nothing: nobody listened."""
_PASSWORD_BYTES: Final = 24
_RECORDS: Final = (model.CLUSTER, model.SECRETS, keys.OPERATION_LOCK)


class EtcdUsers(Protocol):
    """What the loop needs of etcd's users; `ucp.etcd.users` has it. Both may be repeated."""

    async def add_patroni_user(self, replica_id: str, password: str) -> None:
        """Let a replica's Patroni in, with this password and no other."""
        ...

    async def remove_patroni_user(self, replica_id: str) -> None:
        """Let a replica's Patroni in no more."""
        ...


class ClusterLoop:
    """The loop that runs all operations on replicas, and keeps the cluster right between them."""

    name = "cluster"

    def __init__(self, users: EtcdUsers, *, version: str) -> None:
        self._users = users
        self._version = version
        self._store: FencedStore | None = None
        self._watched_since = 0.0
        self._looked_at = 0.0

    async def cycle(self, store: FencedStore, now: float) -> str:
        """Do everything that can be done now, and return the last reason.

        Raises:
            UnavailableError: the store or etcd's users did not answer; the next cycle looks again.

        """
        if self._store is not store or not 0 <= now - self._looked_at <= _PAUSE_SECONDS:
            self._store, self._watched_since = store, now
        self._looked_at = now
        reason = ""
        for _ in range(_DECISIONS_A_CYCLE):
            try:
                view = await read_view(store, self._version, self._watched_since)
            except ValidationError as error:
                return (
                    "a record of the cluster cannot be read by this version "
                    f"({error.title}: {error.error_count()} problems); nothing is changed"
                )
            decision = decide(view, now)
            reason = decision.reason
            if not decision.actions:
                break
            if not await self._carry_out(store, view, decision):
                return f"{reason}: something changed meanwhile, or another controller leads"
        return reason

    async def _carry_out(self, store: FencedStore, view: ClusterView, decision: Decision) -> bool:
        """Do all of a decision; return whether it was still the right one."""
        for action in decision.actions:
            if isinstance(action, AddEtcdUser):
                password = (
                    view.secrets.etcd_passwords.get(action.replica_id) if view.secrets else ""
                )
                if not password:
                    return False
                await self._users.add_patroni_user(action.replica_id, password)
            elif isinstance(action, RemoveEtcdUser):
                await self._users.remove_patroni_user(action.replica_id)
        transaction = _Transaction(view)
        for action in decision.actions:
            if isinstance(action, MakeSecrets):
                transaction.secrets = await _made_secrets(store, view, action)
            else:
                transaction.add(action)
        return await store.commit(transaction.finished(), transaction.conditions)


async def read_view(store: Store | FencedStore, version: str, watched_since: float) -> ClusterView:
    """Return the view of what a store holds now.

    Raises:
        UnavailableError: the store did not answer.
        pydantic.ValidationError: a record is not readable by this version.

    """
    lists = await asyncio.gather(*(store.list(prefix) for prefix in PREFIXES))
    lock = await store.get(keys.OPERATION_LOCK)
    entries: list[Entry] = [entry for found, _ in lists for entry in found]
    if lock is not None:
        entries.append(lock)
    return build(entries, version=version, watched_since=watched_since)


@dataclass(slots=True)
class _Transaction:
    """The changes of one decision, and the conditions under which it is still right."""

    view: ClusterView
    changes: list[Change] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    secrets: DtrSecrets | None = None

    def __post_init__(self) -> None:
        self.secrets = self.view.secrets
        records = (
            *_RECORDS,
            *(f"{model.REPLICAS}{each.id}" for each in self.view.replicas),
            *(f"{model.BALANCERS}{each.node_id}" for each in self.view.balancers),
        )
        self._require(records)

    def add(self, action: Action) -> None:  # noqa: C901, PLR0912 - one case for each action
        """Add what an action changes."""
        match action:
            case PutReplica(replica):
                self._put(f"{model.REPLICAS}{replica.id}", replica)
            case DeleteReplica(replica_id):
                self.changes.append(Delete(f"{model.REPLICAS}{replica_id}"))
                self._drop_password(replica_id)
            case PutCluster(cluster):
                self._put(model.CLUSTER, cluster)
            case DeleteCluster():
                self.secrets = None
                self.changes += [
                    Delete(model.CLUSTER),
                    Delete(model.SECRETS),
                    Delete(keys.PATRONI, is_prefix=True),
                ]
            case PutWebKey(key):
                self.secrets = self.secrets.changed(web_key=key) if self.secrets else None
            case PutCertificate(certificate):
                self._put(f"{model.WEB_CERTIFICATES}{certificate.id}", certificate)
            case DeleteCertificate(certificate_id):
                self.changes.append(Delete(f"{model.WEB_CERTIFICATES}{certificate_id}"))
            case SetProbe(node_id, probe):
                self._put(keys.probe(node_id), probe)
            case ClearProbe(node_id):
                self.changes.append(Delete(keys.probe(node_id)))
            case PutBalancer(balancer):
                self._put(f"{model.BALANCERS}{balancer.node_id}", balancer)
            case DeleteBalancer(node_id):
                self.changes.append(Delete(f"{model.BALANCERS}{node_id}"))
            case PutService(node_id, name, specification):
                service = Service(name=name, node_id=node_id, specification=specification)
                self.changes.append(Put(keys.service(node_id, name), service.encoded()))
            case DeleteService(node_id, name):
                self.changes.append(Delete(keys.service(node_id, name)))
            case PutOperation(operation):
                self._put(keys.operation(operation.id), operation)
                is_over = operation.state is not OperationState.RUNNING
                if is_over and self.view.lock == operation.id:
                    self.changes.append(Delete(keys.OPERATION_LOCK))
            case _:
                self._add_to_patroni(action)

    def _add_to_patroni(self, action: Action) -> None:
        match action:
            case PatchPatroni(values):
                config = {**(self.view.patroni.config or {}), **values}
                self._put_json("config", config)
            case AskSwitchover(leader, candidate):
                asked = {"member": candidate, **({"leader": leader} if leader else {})}
                self._put_json("failover", asked)
                if leader:
                    self._require([f"{keys.PATRONI}leader"])
            case DeletePatroniMember(name):
                self.changes.append(Delete(f"{keys.PATRONI}members/{name}"))
            case ForgetLeader():
                self.changes += [
                    Delete(f"{keys.PATRONI}{name}") for name in ("leader", "sync", "failsafe")
                ]
            case _:  # users of etcd were added or removed before
                pass

    def finished(self) -> list[Change]:
        """Return all changes, the secrets' last."""
        if self.secrets is not None and self.secrets != self.view.secrets:
            return [*self.changes, Put(model.SECRETS, self.secrets.encoded())]
        return self.changes

    def _put(self, key: str, document: Document) -> None:
        self._require([key])
        self.changes.append(Put(key, document.encoded()))

    def _put_json(self, name: str, value: Any) -> None:
        key = f"{keys.PATRONI}{name}"
        self._require([key])
        self.changes.append(Put(key, json.dumps(value, separators=(",", ":")).encode()))

    def _require(self, names: Iterable[str]) -> None:
        """Have nothing done where one of these keys has changed."""
        for key in names:
            condition = IsUnchanged(key, self.view.revisions.get(key, 0))
            if condition not in self.conditions:
                self.conditions.append(condition)

    def _drop_password(self, replica_id: str) -> None:
        if self.secrets is not None:
            kept = {
                key: value
                for key, value in self.secrets.etcd_passwords.items()
                if key != replica_id
            }
            self.secrets = self.secrets.changed(etcd_passwords=kept)


async def _made_secrets(store: FencedStore, view: ClusterView, action: MakeSecrets) -> DtrSecrets:
    """Return the secrets with all that were missing; those that are there stay."""
    found = view.secrets
    if found is None:
        entry = await store.get(keys.administrator(action.administrator))
        found = DtrSecrets(
            superuser_password=_password(),
            replication_password=_password(),
            rewind_password=_password(),
            database_password=_password(),
            patroni_password=_password(),
            administrator_hash=entry.document(Administrator).password_hash if entry else "",
        )
    passwords = {action.replica_id: _password(), **found.etcd_passwords}
    made: DtrSecrets = found.changed(etcd_passwords=passwords)
    return made


def _password() -> str:
    return randomness.token_urlsafe(_PASSWORD_BYTES)

"""Keys of engines: an authority for each realm, and one key for each engine of each node.

A realm is a set of connections that trust the same authority, and no other realm trusts it. What
opens which door, and to whom, is the table of ADR 15.

All authorities of one moment are a generation. Whenever somebody leaves who held a key, the next
generation takes its place, in steps that no connection notices (`Stage`): everybody trusts both,
then everybody shows what the new one signed, then nobody trusts the old one any more.

Generation 0 is how it was before there were keys of engines: every engine showed the node's own
certificate. A control plane that ran then moves to generation 1 by the same steps.

The leading controller makes keys and certificates and keeps them in etcd, where the authorities'
keys are, too; each agent is sent those of its own node. So one place sees who holds what.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final

from dtr.ucp.authority import (
    NODE_LIFETIME,
    Authority,
    Purpose,
    expires_at,
    make_request,
    node_names,
)
from dtr.ucp.model import Document, KeyPair, Node, NodeKeys

OLDEST: Final = 0
"""The generation in which engines show their node's own certificate."""
_RENEWED_PART: Final = 1 / 3
_AUTHORITY_RENEWED: Final = timedelta(days=365)


class Realm(StrEnum):
    """Connections that trust the same authority, and no other."""

    ETCD_PEERS = "etcd-peers"
    """Among etcd's members: port 2380. Whoever is let in there can write anything."""
    ETCD_CLIENTS = "etcd-clients"
    """To etcd: port 2379."""
    DATABASE = "database"
    """To and among Patroni and PostgreSQL: ports 8008 and 5432."""
    REGISTRY = "registry"
    """Among replicas, for blobs: port 8445."""


@dataclass(frozen=True, slots=True)
class KeyKind:
    """One key of a node."""

    name: str
    realm: Realm
    purpose: Purpose = Purpose.ENGINE


ETCD_PEER: Final = KeyKind("etcd-peer", Realm.ETCD_PEERS)
ETCD_SERVER: Final = KeyKind("etcd-server", Realm.ETCD_CLIENTS)
"""Its JSON gateway is a client of the server in the same process, with the same certificate."""
CONTROLLER: Final = KeyKind("controller", Realm.ETCD_CLIENTS, Purpose.CLIENT)
PATRONI: Final = KeyKind("patroni", Realm.ETCD_CLIENTS, Purpose.CLIENT)
DATABASE: Final = KeyKind("database", Realm.DATABASE)
REGISTRY: Final = KeyKind("registry", Realm.REGISTRY)

KINDS: Final[Mapping[str, KeyKind]] = {
    kind.name: kind for kind in (ETCD_PEER, ETCD_SERVER, CONTROLLER, PATRONI, DATABASE, REGISTRY)
}
OF_MANAGERS: Final = frozenset({ETCD_PEER.name, ETCD_SERVER.name, CONTROLLER.name})
OF_SERVICES: Final[Mapping[str, frozenset[str]]] = {
    "replica": frozenset({PATRONI.name, DATABASE.name, REGISTRY.name})
}
"""What the services of the room above hold; one that is not listed, such as a balancer, nothing."""


class Stage(StrEnum):
    """How far the keyring is on its way to its last generation."""

    SETTLED = "settled"
    TRUST = "trust"
    """Everybody learns to trust both generations, and shows the old one's certificates."""
    USE = "use"
    """Everybody gets certificates of the new one."""
    DROP = "drop"
    """Everybody forgets the old one."""


class Generation(Document):
    """The authorities of all realms."""

    number: int
    authorities: dict[str, KeyPair]


class Keyring(Document):
    """All authorities of engines: `/ucp/secrets/keyring`; holds their keys."""

    generations: tuple[Generation, ...]
    """The last is the one that is to be used; before it at most one other."""
    stage: Stage = Stage.SETTLED
    stage_since: float = 0
    is_due: bool = False
    """Whether somebody left who held a key of the last generation."""

    @property
    def newest(self) -> Generation:
        """The one that is to be used."""
        return self.generations[-1]

    @property
    def signing(self) -> Generation:
        """The one that signs now."""
        return self.generations[0] if self.stage is Stage.TRUST else self.newest

    @property
    def trusted(self) -> tuple[Generation, ...]:
        """Those that are to be trusted now."""
        return (self.newest,) if self.stage is Stage.DROP else self.generations

    def is_worn(self, now: float) -> bool:
        """Whether an authority ends within a year: what it signs would end with it."""
        ends = min(expires_at(each.certificate) for each in self.newest.authorities.values())
        return ends - now < _AUTHORITY_RENEWED.total_seconds()


def first_keyring(cluster_id: str, now: float) -> Keyring:
    """Return the keyring of a control plane that begins."""
    return Keyring(generations=(_generation(1, cluster_id, now),), stage_since=now)


def keyring_after(ca_certificate: str, cluster_id: str, now: float) -> Keyring:
    """Return the keyring of a control plane whose engines show their nodes' certificates."""
    oldest = Generation(
        number=OLDEST,
        authorities={realm: KeyPair(certificate=ca_certificate, key="") for realm in Realm},
    )
    return Keyring(
        generations=(oldest, _generation(1, cluster_id, now)), stage=Stage.TRUST, stage_since=now
    )


def begun_again(keyring: Keyring, cluster_id: str, now: float) -> Keyring:
    """Return a settled keyring that has begun to move to authorities that are new."""
    old = keyring.newest
    return Keyring(
        generations=(old, _generation(old.number + 1, cluster_id, now)),
        stage=Stage.TRUST,
        stage_since=now,
    )


def issue(keyring: Keyring, node: Node, kinds: Iterable[str], now: float) -> NodeKeys:
    """Return what a node's engines hold at this stage, all of it made anew."""
    return _issued(keyring.signing, keyring.trusted, node, kinds, now)


def issue_again(
    keyring: Keyring, node: Node, kinds: Iterable[str], now: float, before: NodeKeys
) -> NodeKeys:
    """Return other keys of the authorities that a node has, which restarts nothing."""
    known = {each.number: each for each in keyring.generations}
    trusted = [known[number] for number in before.trusted if number in known]
    signing = known.get(before.generation)
    if signing is None or not trusted:
        return issue(keyring, node, kinds, now)
    return _issued(signing, trusted, node, kinds, now)


def reduced(keys: NodeKeys, kinds: Iterable[str]) -> NodeKeys:
    """Return what is left of a node's keys when it is to have these only."""
    left = {name: pair for name, pair in keys.pairs.items() if name in set(kinds)}
    realms = realms_of(kinds)
    kept: NodeKeys = keys.changed(
        pairs=left,
        authorities={realm: pem for realm, pem in keys.authorities.items() if realm in realms},
    )
    return kept


def realms_of(kinds: Iterable[str]) -> frozenset[str]:
    """Return the realms that keys belong to."""
    return frozenset(KINDS[name].realm for name in kinds)


def is_worn(keys: NodeKeys, now: float) -> bool:
    """Tell whether less than a third of the life of one of the certificates is left."""
    ends = [expires_at(pair.certificate) for pair in keys.pairs.values()]
    return bool(ends) and min(ends) - now < NODE_LIFETIME.total_seconds() * _RENEWED_PART


def etcd_trust(authorities: Mapping[str, str]) -> str:
    """Return the digest of what an etcd member trusts; it reads that when it starts only."""
    trusted = (authorities.get(Realm.ETCD_PEERS, ""), authorities.get(Realm.ETCD_CLIENTS, ""))
    return sha256("\n".join(trusted).encode()).hexdigest()


def _issued(
    signing: Generation,
    trusted: Iterable[Generation],
    node: Node,
    kinds: Iterable[str],
    now: float,
) -> NodeKeys:
    chosen, trusted = sorted(kinds), tuple(trusted)
    pairs = {}
    if signing.number != OLDEST:
        pairs = {name: _signed(signing, node, KINDS[name], now) for name in chosen}
    return NodeKeys(
        node_id=node.id,
        generation=signing.number,
        trusted=tuple(each.number for each in trusted),
        authorities={
            realm: "".join(each.authorities[realm].certificate for each in trusted)
            for realm in sorted(realms_of(chosen))
        },
        pairs=pairs,
    )


def _generation(number: int, cluster_id: str, now: float) -> Generation:
    at = datetime.fromtimestamp(now, UTC)
    made = {
        realm: Authority.create(f"{cluster_id[:8]} {number}", at, realm=realm) for realm in Realm
    }
    return Generation(
        number=number,
        authorities={
            realm: KeyPair(certificate=each.certificate_pem, key=each.key_pem)
            for realm, each in made.items()
        },
    )


def _signed(generation: Generation, node: Node, kind: KeyKind, now: float) -> KeyPair:
    kept = generation.authorities[kind.realm]
    request = make_request()
    certificate = Authority.load(kept.certificate, kept.key).sign(
        request.request_pem,
        common_name=node.id,
        names=node_names(node.name, node.host_address),
        now=datetime.fromtimestamp(now, UTC),
        purpose=kind.purpose,
    )
    return KeyPair(certificate=certificate, key=request.key_pem)

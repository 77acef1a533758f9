"""Which keys engines hold: the plan, carried out by machines that are slow, away or begin anew."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtr.ucp.authority import load_certificate
from dtr.ucp.keyring import (
    KINDS,
    OF_MANAGERS,
    OF_SERVICES,
    OLDEST,
    Keyring,
    Stage,
    begun_again,
    etcd_trust,
    first_keyring,
    issue,
    issue_again,
    keyring_after,
    reduced,
)
from dtr.ucp.model import Node, NodeKeys
from dtr.ucp.plan_keys import (
    PATIENCE_SECONDS,
    Advance,
    Begin,
    HandOn,
    Holder,
    Issue,
    IssueAgain,
    KeysView,
    Renew,
    Voter,
    Withdraw,
    decide_keys,
)

NOW = 1_700_000_000.0
CA = first_keyring("nodes", NOW).newest.authorities["registry"].certificate
REPLICA = OF_SERVICES["replica"]


@dataclass(repr=False)
class Machine:
    """A node, and what its agent carried out last."""

    id: str
    kinds: frozenset[str]
    is_member: bool = False
    is_on: bool = True
    takes_keys: bool = True
    told: NodeKeys | None = None
    modified: int = 0
    done: NodeKeys | None = None
    revision: int = 0
    is_restarting: bool = False

    @property
    def node(self) -> Node:
        """Its record."""
        return Node(id=self.id, name=self.id, host_address="10.0.0.1", fingerprint="", joined_at=0)

    def __repr__(self) -> str:
        return f"{self.id}: shows {self.signed_by}, trusts {self.trusts}, on={self.is_on}"

    @property
    def speaks(self) -> bool:
        """Whether its engines run: one that waits for its keys is not there."""
        return self.is_on and bool(self.kinds) and self.signed_by >= OLDEST

    def turn(self, revision: int, keyring: Keyring | None) -> None:
        """Carry out what it was told; a member restarts where whom it trusts has changed."""
        if not self.is_on:
            return
        if self.told is None and keyring is not None and keyring.signing.number != OLDEST:
            self.done, self.revision = NodeKeys(node_id=self.id), revision
            return
        before = self.done.authorities if self.done else {}
        after = self.told.authorities if self.told else {}
        self.is_restarting = self.is_member and etcd_trust(before) != etcd_trust(after)
        self.done, self.revision = self.told, revision

    @property
    def signed_by(self) -> int:
        """The generation that signed what it shows."""
        return self.done.generation if self.done else OLDEST

    @property
    def trusts(self) -> tuple[int, ...]:
        """The generations that it trusts."""
        return self.done.trusted if self.done else (OLDEST,)


@dataclass
class Plane:
    """A control plane of such machines."""

    machines: list[Machine]
    keyring: Keyring | None = None
    revision: int = 1
    leader: str = ""
    now: float = NOW
    reasons: list[str] = field(default_factory=list)

    def view(self) -> KeysView:
        """Return what the leading controller sees."""
        holders = tuple(
            Holder(
                id=each.id,
                name=each.id,
                kinds=each.kinds,
                takes_keys=each.takes_keys,
                revision=each.revision,
                etcd_trust=""
                if each.is_restarting or each.done is None
                else etcd_trust(each.done.authorities),
                keys=each.told,
                modified=each.modified,
            )
            for each in self.machines
        )
        members = tuple(
            Voter(
                id=f"member-{each.id}",
                node_id=each.id,
                is_live=each.is_on and not each.is_restarting,
                is_leading=each.id == self.leader,
            )
            for each in self.machines
            if each.is_member
        )
        return KeysView(self.keyring, holders, members)

    def step(self) -> bool:
        """Do what is decided; False where that is nothing."""
        decision = decide_keys(self.view(), self.now)
        self.reasons.append(decision.reason)
        for action in decision.actions:
            self.revision += 1
            match action:
                case Begin():
                    self.keyring = keyring_after(CA, "c", self.now)
                case Renew():
                    assert self.keyring is not None
                    self.keyring = begun_again(self.keyring, "c", self.now)
                case Advance(stage):
                    self._advance(stage)
                case HandOn(_, member_id):
                    self.leader = member_id.removeprefix("member-")
                case Issue(holder) | IssueAgain(holder) | Withdraw(holder):
                    self._tell(action, self.machine(holder.id))
        return bool(decision.actions)

    def machine(self, node_id: str) -> Machine:
        """Return one."""
        return next(each for each in self.machines if each.id == node_id)

    def _advance(self, stage: Stage) -> None:
        assert self.keyring is not None
        generations = self.keyring.generations
        if stage is Stage.SETTLED:
            generations = generations[-1:]
        self.keyring = self.keyring.changed(
            stage=stage, stage_since=self.now, generations=generations
        )

    def _tell(self, action: Issue | IssueAgain | Withdraw, machine: Machine) -> None:
        assert self.keyring is not None
        machine.modified = self.revision
        if isinstance(action, Issue):
            machine.told = issue(self.keyring, machine.node, machine.kinds, self.now)
            return
        assert machine.told is not None
        if isinstance(action, IssueAgain):
            machine.told = issue_again(
                self.keyring, machine.node, machine.kinds, self.now, machine.told
            )
            return
        if machine.told.generation != OLDEST:
            self.keyring = self.keyring.changed(is_due=True)
        machine.told = reduced(machine.told, machine.kinds) if machine.kinds else None

    def add_manager(self, name: str) -> None:
        """Have a node become a manager, and its member be promoted."""
        self.machines.append(Machine(name, OF_MANAGERS))
        while self.machines[-1].told is None:
            self.step()
        self.machines[-1].turn(self.revision, self.keyring)
        self.machines[-1].is_member, self.machines[-1].is_restarting = True, False

    def check(self) -> None:
        """Hold the plan to what it promises."""
        there = [each for each in self.machines if each.speaks]
        for one in there:
            for other in there:
                assert one.signed_by in other.trusts, (one, other, self.reasons[-3:])
        members = [each for each in self.machines if each.is_member]
        live = [each for each in members if each.is_on and not each.is_restarting]
        if len(members) > 1:
            assert 2 * len(live) > len(members), self.reasons[-3:]
            assert not any(each.is_restarting and each.id == self.leader for each in members)

    def go_on(self, steps: int = 80) -> None:
        """Let all do their part until nothing is left to do."""
        for _ in range(steps):
            self.now += 4
            is_busy = self.step()
            for each in self.machines:
                each.turn(self.revision, self.keyring)
                self.check()
            if not is_busy and self.is_settled and self.reasons[-1].startswith("every"):
                return
        raise AssertionError(self.reasons[-5:])

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is on its way."""
        keyring = self.keyring
        return keyring is not None and keyring.stage is Stage.SETTLED and not keyring.is_due


def plane(keyring: Keyring | None = None) -> Plane:
    """Give three managers that host replicas, a replica, and a worker."""
    machines = [
        Machine(f"m{number}", OF_MANAGERS | REPLICA, is_member=True) for number in (1, 2, 3)
    ]
    machines += [Machine("r", REPLICA), Machine("w", frozenset())]
    made = Plane(machines, keyring, leader="m2")
    if keyring is not None:
        for each in machines:
            if each.kinds:
                each.told = each.done = issue(keyring, each.node, each.kinds, NOW)
    return made


def test_a_control_plane_without_keys_moves_to_the_first_generation() -> None:
    """By steps of which each leaves everybody able to speak to everybody."""
    found = plane()
    found.go_on()
    assert found.keyring is not None
    assert found.keyring.newest.number == 1
    for each in found.machines:
        assert set(each.done.pairs if each.done else ()) == each.kinds
        assert each.trusts == ((1,) if each.kinds else ())


def test_nothing_is_begun_while_somebody_runs_a_version_without_keys() -> None:
    """Such an agent would show a certificate that nobody trusts."""
    found = plane()
    found.machine("r").takes_keys = False
    assert not found.step()
    assert "once r run this version" in found.reasons[-1]
    found.machine("r").takes_keys = True
    found.go_on()


@pytest.mark.parametrize("leaver", ["m3", "r"])
def test_whoever_leaves_is_trusted_by_nobody_in_the_end(leaver: str) -> None:
    """A manager or a replica, and also one that keeps what it had."""
    found = plane(first_keyring("c", NOW))
    gone = found.machine(leaver)
    gone.kinds, gone.is_on = frozenset(), False
    kept = gone.done
    if gone.is_member:
        gone.is_member = False
        found.add_manager("m4")
    found.go_on()
    assert kept is not None
    for each in found.machines:
        if each.kinds:
            assert kept.generation not in each.trusts


def test_one_that_holds_less_keeps_the_rest() -> None:
    """A manager that is none any more goes on to serve its replica."""
    found = plane(first_keyring("c", NOW))
    changed = found.machine("m3")
    changed.kinds, changed.is_member = REPLICA, False
    found.add_manager("m4")
    found.go_on()
    assert changed.done is not None
    assert set(changed.done.pairs) == REPLICA
    assert changed.trusts == (2,)


def test_a_member_that_does_not_answer_is_waited_for() -> None:
    """Of three, one that is away leaves none to spare."""
    found = plane(first_keyring("c", NOW))
    found.machine("r").kinds = frozenset()
    found.machine("m1").is_on = False
    for _ in range(20):
        found.step()
        for each in found.machines:
            each.turn(found.revision, found.keyring)
        members = [each for each in found.machines if each.is_member and each.is_on]
        assert not any(each.is_restarting for each in members)
    assert "etcd on m1 does not answer" in found.reasons[-1]
    found.machine("m1").is_on = True
    found.go_on()


def test_a_replica_that_is_away_is_waited_for_only_so_long() -> None:
    """When it is back it asks for its keys, by the node's own certificate."""
    found = plane(first_keyring("c", NOW))
    found.machine("w").told = issue(first_keyring("c", NOW), found.machine("w").node, REPLICA, NOW)
    away = found.machine("r")
    away.is_on = False
    for _ in range(30):
        found.now += 4
        found.step()
        for each in found.machines:
            each.turn(found.revision, found.keyring)
    assert "waits until r" in found.reasons[-1]
    for _ in range(30):
        found.now += PATIENCE_SECONDS / 3
        found.step()
        for each in found.machines:
            each.turn(found.revision, found.keyring)
    assert found.is_settled
    away.is_on = True
    away.turn(found.revision, found.keyring)
    found.go_on()
    assert away.trusts == (2,)


def test_two_managers_are_not_restarted() -> None:
    """Either is missed at once; it waits until there are one or three."""
    found = plane(first_keyring("c", NOW))
    found.machines = found.machines[:2]
    found.leader = "m1"
    assert found.keyring is not None
    found.keyring = found.keyring.changed(is_due=True)
    for _ in range(10):
        found.step()
        for each in found.machines:
            each.turn(found.revision, found.keyring)
        assert not any(each.is_restarting for each in found.machines)
    assert "two managers" in found.reasons[-1]


def test_a_lone_manager_is_restarted() -> None:
    """There is no other way."""
    found = Plane([Machine("m1", OF_MANAGERS, is_member=True)], leader="m1")
    found.go_on()
    assert found.keyring is not None
    assert found.keyring.newest.number == 1


def test_certificates_are_renewed_before_they_end_and_nothing_restarts() -> None:
    """By the same authorities, when a third of their life is left."""
    found = plane(first_keyring("c", NOW))
    before = found.machine("r").told
    found.now += 61 * 86400
    assert found.step()
    for each in found.machines:
        each.turn(found.revision, found.keyring)
        assert not each.is_restarting
    after = found.machine("r").told
    assert before is not None
    assert after is not None
    assert (after.generation, after.authorities) == (before.generation, before.authorities)
    assert after.pairs != before.pairs


def test_a_generation_is_renewed_a_year_before_it_ends() -> None:
    """What it signs would end with it."""
    keyring = first_keyring("c", NOW)
    assert not keyring.is_worn(NOW + 8 * 365 * 86400)
    assert keyring.is_worn(NOW + 9.1 * 365 * 86400)


def test_what_a_key_is_for_is_in_its_certificate() -> None:
    """Clients cannot serve, and each realm has another authority."""
    keyring = first_keyring("c", NOW)
    held = issue(keyring, plane().machines[0].node, KINDS, NOW)
    for name, pair in held.pairs.items():
        certificate = load_certificate(pair.certificate)
        for realm, authority in keyring.newest.authorities.items():
            issuer = load_certificate(authority.certificate)
            is_own = realm == KINDS[name].realm
            assert (certificate.issuer == issuer.subject) is is_own, (name, realm)
    assert "PRIVATE" not in repr(held)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_steps_may_be_interrupted_and_machines_be_away(data: st.DataObject) -> None:
    """Whoever is there can always speak to whoever else is, and etcd keeps its majority."""
    found = plane() if data.draw(st.booleans()) else plane(first_keyring("c", NOW))
    for _ in range(data.draw(st.integers(0, 40))):
        found.now += 4
        found.step()
        each = data.draw(st.sampled_from(found.machines))
        each.turn(found.revision, found.keyring)
        found.check()
        if data.draw(st.integers(0, 9)) == 0 and found.keyring is not None:
            leaver = found.machine("r")
            leaver.kinds = frozenset() if leaver.kinds else REPLICA
            leaver.is_on = True
            leaver.turn(found.revision, found.keyring)
    found.machine("r").kinds = REPLICA
    found.go_on(200)

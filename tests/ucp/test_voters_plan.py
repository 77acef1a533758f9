"""Who votes in etcd: the choices one by one, and what never happens whatever goes wrong."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.ucp.electorate import Electorate, Machine, RefusedError

from dtr.ucp.model import ManagerPhase, Role
from dtr.ucp.plan import (
    LEARNER_SECONDS,
    PATIENCE_SECONDS,
    SILENT_SECONDS,
    Action,
    AddLearner,
    Decision,
    ForgetManager,
    MemberView,
    MoveLeadership,
    Promote,
    RecordManager,
    RemoveMember,
    decide,
)


def step(world: Electorate) -> Decision:
    """Let agents work and report, and the leader do one cycle."""
    for machine in world.machines.values():
        if machine.is_on and machine.is_known:
            world.take_report(world.run_agent(machine))
    decision = decide(world.view(), world.now)
    for action in decision.actions:
        try:
            world.act(action)
        except RefusedError:
            break
    world.pass_time(1)
    return decision


def settle(world: Electorate, *, steps: int = 400, seconds: float = 0) -> Decision:
    """Go on until nothing has been done for a while."""
    quiet = 0
    for _ in range(steps):
        decision = step(world)
        world.pass_time(seconds)
        quiet = 0 if decision.actions else quiet + 1
        if quiet > 3 and seconds == 0:
            return decision
    return decision


def world_of(count: int) -> Electorate:
    """Return machines of which the first is a voter."""
    world = Electorate()
    world.install()
    for _ in range(count - 1):
        world.pass_time(1)
        world.join()
    return world


def voting(world: Electorate) -> set[str]:
    """Return the names of the voters."""
    return {each.name for each in world.voters}


@pytest.mark.parametrize(
    ("nodes", "voters"),
    [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 7), (8, 7), (12, 7)],
)
def test_voters_are_odd_and_up_to_seven(nodes: int, voters: int) -> None:
    """Those that joined first, where nothing else tells them apart."""
    world = world_of(nodes)
    decision = settle(world)
    assert voting(world) == {f"n{number}" for number in range(1, voters + 1)}
    assert "as it should be" in decision.reason
    assert {each.manager.phase for each in world.records.values()} == {ManagerPhase.VOTER}
    assert not any(each.manager.is_new_cluster for each in world.records.values())


def test_nodes_with_replicas_come_first() -> None:
    """But no voter that is there is exchanged for one."""
    world = world_of(3)
    for _ in range(2):
        world.join(hosts_replica=True)
    world.machines["n2"].role = world.machines["n3"].role = Role.WORKER
    settle(world)
    assert voting(world) == {"n1", "n4", "n5"}
    world = world_of(3)
    settle(world)
    world.join(hosts_replica=True)
    settle(world)
    assert voting(world) == {"n1", "n2", "n3"}


def test_a_paused_node_is_not_chosen() -> None:
    """Nothing new may be put there."""
    world = world_of(3)
    view = world.view()
    paused = tuple(replace(each, is_paused=each.id != "n1") for each in view.nodes)
    first = decide(view, world.now)
    for action in first.actions:
        world.act(action)
    assert decide(replace(world.view(), nodes=paused), world.now).actions == ()


def test_two_nodes_have_one_voter() -> None:
    """And the second is not begun with."""
    world = world_of(2)
    settle(world)
    assert len(world.members) == 1


def test_a_worker_never_votes() -> None:
    """Whatever the number."""
    world = world_of(1)
    for _ in range(4):
        world.join(Role.WORKER)
    settle(world)
    assert voting(world) == {"n1"}


def test_who_is_said_to_be_a_manager_comes_before_who_is_not() -> None:
    """Even in the place of a voter that does well; the new one first."""
    world = world_of(4)
    settle(world)
    world.machines["n4"].role = Role.MANAGER
    first = step(world)
    assert [type(action) for action in first.actions] == [AddLearner]
    settle(world)
    assert voting(world) == {"n1", "n2", "n4"}


def test_who_is_said_to_be_a_manager_is_one_even_as_the_only_one() -> None:
    """What was said is obeyed, and two voters are worse than one."""
    world = world_of(1)
    world.join(Role.MANAGER)
    settle(world)
    assert voting(world) == {"n2"}


def test_a_second_manager_waits_for_a_third() -> None:
    """Whatever was said: two voters are worse than one."""
    world = world_of(1)
    world.machines["n1"].role = Role.MANAGER
    world.join(Role.MANAGER)
    settle(world)
    assert voting(world) == {"n1"}
    world.join(Role.MANAGER)
    settle(world)
    assert voting(world) == {"n1", "n2", "n3"}


def test_a_demoted_voter_goes_when_another_has_come() -> None:
    """Or, without another, with one more so that the number is odd."""
    world = world_of(4)
    settle(world)
    world.machines["n2"].role = Role.WORKER
    settle(world)
    assert voting(world) == {"n1", "n3", "n4"}
    world.machines["n3"].role = Role.WORKER
    settle(world)
    assert voting(world) == {"n1"}
    assert set(world.records) == {"n1"}
    world.machines["n1"].role = Role.WORKER
    settle(world)
    assert voting(world) == {"n4"}


def test_a_control_plane_of_workers_keeps_one_voter() -> None:
    """Or there would be none."""
    world = world_of(3)
    settle(world)
    for machine in world.machines.values():
        machine.role = Role.WORKER
    settle(world)
    assert len(world.voters) == 1


def test_a_dead_voter_is_replaced_after_ten_minutes() -> None:
    """And when it comes back it clears away what it has, and waits."""
    world = world_of(4)
    settle(world)
    world.machines["n2"].is_on = False
    settle(world, steps=50, seconds=10)
    assert voting(world) == {"n1", "n2", "n3"}
    settle(world, steps=50, seconds=10)
    assert voting(world) == {"n1", "n3", "n4"}
    assert world.records["n2"].manager.phase is ManagerPhase.LEAVING
    world.machines["n2"].is_on = True
    settle(world)
    assert "n2" not in world.records
    assert world.machines["n2"].data_of == ""
    assert voting(world) == {"n1", "n3", "n4"}


def test_a_dead_voter_without_a_candidate_stays() -> None:
    """It may come back, and two are worse than three of which one is away."""
    world = world_of(3)
    settle(world)
    world.machines["n2"].is_on = False
    decision = settle(world, steps=200, seconds=10)
    assert voting(world) == {"n1", "n2", "n3"}
    assert decision.reason == "3 voters, of which etcd does not answer on n2"


def test_two_dead_of_five_with_one_candidate_make_three() -> None:
    """Etcd takes no member while a voter is away, so that one alone cannot be replaced."""
    world = world_of(6)
    settle(world)
    assert len(voting(world)) == 5
    world.machines["n2"].is_on = world.machines["n3"].is_on = False
    settle(world, steps=200, seconds=10)
    assert voting(world) == {"n1", "n4", "n5"}
    world.machines["n2"].is_on = world.machines["n3"].is_on = True
    settle(world)
    assert len(voting(world)) == 5


def test_a_removed_node_goes_first() -> None:
    """Before anything is added; its record with it."""
    world = world_of(4)
    settle(world)
    world.machines["n1"].is_known = False
    (move,) = step(world).actions
    assert isinstance(move, MoveLeadership)
    first = step(world)
    (remove,) = first.actions
    assert isinstance(remove, RemoveMember)
    settle(world)
    assert voting(world) == {"n2", "n3", "n4"}
    assert set(world.records) == {"n2", "n3", "n4"}


def test_the_lead_is_handed_to_one_that_stays() -> None:
    """Or to anyone where nobody stays; a voter that does not lead goes at once."""
    world = world_of(5)
    settle(world)
    world.machines["n1"].role = world.machines["n2"].role = Role.WORKER
    world.chosen = next(each.id for each in world.voters if each.name == "n1")
    while not isinstance((action := step(world).actions[0]), MoveLeadership):
        assert not isinstance(action, RemoveMember) or action.member_id != world.leader
    assert action.leader_id == next(each.id for each in world.voters if each.name == "n1")
    assert world.members[world.leader].name in {"n3", "n4", "n5"}
    settle(world)
    assert voting(world) == {"n3", "n4", "n5"}


def test_a_voter_that_does_not_hand_on_the_lead_is_removed_all_the_same() -> None:
    """That costs an election, and no more."""
    world = world_of(4)
    settle(world)
    world.machines["n1"].is_known = False
    view = world.view()
    stuck = tuple(replace(each, is_leading=False) for each in view.members)
    (action,) = decide(replace(view, members=stuck), world.now).actions
    assert isinstance(action, RemoveMember)


def test_a_machine_that_joined_anew_is_another_node() -> None:
    """It is not taken for the member that it was, although it has the address."""
    world = world_of(3)
    settle(world)
    old = world.machines["n3"]
    old.is_known = old.is_on = False
    anew = world.join()
    anew.peer_url = old.peer_url
    settle(world)
    assert voting(world) == {"n1", "n2", "n4"}
    assert anew.data_of != ""


def test_nothing_is_done_without_a_majority() -> None:
    """There is no safe step."""
    world = world_of(4)
    settle(world)
    for name in ("n2", "n3"):
        world.machines[name].is_on = False
    decision = settle(world, steps=100, seconds=10)
    assert decision.actions == ()
    assert "no majority" in decision.reason


def test_a_learner_that_never_answers_is_given_up() -> None:
    """And other nodes are taken."""
    world = world_of(4)
    world.machines["n2"].can_run_etcd = False
    settle(world, steps=int(LEARNER_SECONDS) + 60, seconds=1)
    assert voting(world) == {"n1", "n3", "n4"}
    assert set(world.given_up) == {"n2"}


def test_growth_that_cannot_be_finished_is_taken_back() -> None:
    """A second voter whose third died is removed again when nobody came in time."""
    world = world_of(3)
    while not any(isinstance(action, Promote) for action in step(world).actions):
        pass
    assert len(world.voters) == 2
    world.machines["n3"].is_on = False
    settle(world, steps=5, seconds=10)
    assert len(world.voters) == 2
    settle(world, steps=int(PATIENCE_SECONDS) // 10, seconds=10)
    assert voting(world) == {"n1"}
    world.machines["n3"].is_on = True
    settle(world)
    assert voting(world) == {"n1", "n2", "n3"}


def test_an_add_whose_answer_was_lost_is_gone_on_with() -> None:
    """The member without a record is seen, and gets one."""
    world = world_of(3)
    while True:
        decision = decide(world.view(), world.now)
        for action in decision.actions:
            world.act(action)
        if isinstance(decision.actions[0], AddLearner):
            break
    settle(world)
    assert voting(world) == {"n1", "n2", "n3"}


def test_a_learner_does_not_vote_before_one_more_is_there() -> None:
    """Its partner may have died while it learned."""
    world = world_of(3)
    while not any(isinstance(action, AddLearner) for action in step(world).actions):
        pass
    step(world)
    world.machines["n3"].is_on = False
    world.pass_time(SILENT_SECONDS)
    decision = settle(world)
    assert len(world.voters) == 1
    assert "one more node" in decision.reason
    world.machines["n3"].is_on = True
    settle(world)
    assert voting(world) == {"n1", "n2", "n3"}


def test_a_member_that_was_begun_under_another_name_is_nobodys() -> None:
    """A node of its address has no data of it."""
    world = world_of(2)
    view = world.view()
    stranger = MemberView("ff", "another", world.machines["n2"].peer_url, is_learner=False)
    decision = decide(replace(view, members=(*view.members, stranger)), world.now)
    assert all(
        isinstance(action, RecordManager) and action.manager.node_id == "n1"
        for action in decision.actions
    )


def test_a_report_from_before_does_not_say_that_nothing_is_left() -> None:
    """What counts is what the node says once it knows that it leaves."""
    world = world_of(4)
    settle(world)
    machine = world.machines["n2"]
    machine.role, machine.is_on = Role.WORKER, False
    settle(world)
    record = world.records["n2"]
    assert record.manager.phase is ManagerPhase.LEAVING
    machine.has_data, machine.revision = False, record.modified - 1
    assert decide(world.view(), world.now).actions == ()
    machine.revision = record.modified
    assert decide(world.view(), world.now).actions == (ForgetManager("n2", record.modified),)


def judge(world: Electorate, decision: Decision) -> None:
    """See that a decision, made of what is, keeps what the plan promises."""
    live = [each for each in world.voters if world.is_up(each)]
    assert (
        sum(
            isinstance(each, AddLearner | Promote | RemoveMember | MoveLeadership)
            for each in decision.actions
        )
        < 2
    )
    for action in decision.actions:
        match action:
            case RemoveMember(member_id):
                rest = [each for each in world.voters if each.id != member_id]
                stays = [each for each in live if each.id != member_id]
                assert 2 * len(stays) > len(rest)
                assert member_id != world.leader or not stays, "it leads still"
            case AddLearner():
                assert not any(each.is_learner for each in world.members.values())
                assert len(live) == len(world.voters)
            case ForgetManager(node_id) if world.machines[node_id].is_known:
                assert not world.machines[node_id].data_of, "chosen again with data of a member"


class Faults(RuleBasedStateMachine):
    """Everything that may go wrong, in any order; less than a majority of voters is killed."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Electorate()
        self.stale: list[tuple[Action, ...]] = []
        self.reports: list[tuple[str, float, int, bool]] = []

    @initialize(count=st.integers(1, 9), is_settled=st.booleans())
    def begin(self, count: int, *, is_settled: bool) -> None:
        """Begin with some machines."""
        self.world.install()
        for _ in range(count - 1):
            self.world.join()
        if is_settled:
            settle(self.world)

    def decided(self) -> tuple[Action, ...]:
        """Return what a leader wants to do."""
        decision = decide(self.world.view(), self.world.now)
        judge(self.world, decision)
        return decision.actions

    def do(self, actions: tuple[Action, ...]) -> None:
        """Act, and see that no act costs the majority."""
        for action in actions:
            had_quorum = self.world.has_quorum
            try:
                self.world.act(action)
            except RefusedError:
                return
            assert self.world.has_quorum or not had_quorum, action

    @rule(upto=st.integers(0, 3))
    def cycle(self, upto: int) -> None:
        """Let a leader do a cycle, or die after some of its actions."""
        self.do(self.decided()[: upto or None])

    @rule(times=st.integers(1, 4))
    def work(self, times: int) -> None:
        """Let everybody work without a fault for a while."""
        for _ in range(times):
            for machine in self.world.machines.values():
                if machine.is_on and machine.is_known:
                    self.world.take_report(self.world.run_agent(machine))
            self.do(self.decided())
            self.world.pass_time(1)

    @rule()
    def decide_only(self) -> None:
        """Let a leader decide, and be so slow that another goes on before it acts."""
        self.stale.append(self.decided())

    @precondition(lambda self: self.stale)
    @rule()
    def act_late(self) -> None:
        """Let the slow leader act: what is of the past is refused, or does no harm."""
        self.do(self.stale.pop(0))

    @rule(data=st.data())
    def run_agent(self, data: st.DataObject) -> None:
        """Let an agent work; its report is on its way."""
        machine = self.pick(data, is_on=True)
        if machine is not None:
            self.reports.append(self.world.run_agent(machine))

    @precondition(lambda self: self.reports)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Deliver a report, not always in order."""
        index = data.draw(st.integers(0, len(self.reports) - 1))
        self.world.take_report(self.reports.pop(index))

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """Turn a machine off, unless that alone costs the majority."""
        machine = self.pick(data, is_on=True)
        if machine is not None:
            machine.is_on = False
            if not self.world.has_quorum:
                machine.is_on = True

    @rule(data=st.data())
    def revive(self, data: st.DataObject) -> None:
        """Turn a machine on."""
        machine = self.pick(data, is_on=False)
        if machine is not None:
            machine.is_on = True

    @rule(data=st.data(), role=st.sampled_from(Role))
    def say_role(self, data: st.DataObject, role: Role) -> None:
        """Say what a node is to be."""
        machine = self.pick(data)
        if machine is not None:
            machine.role = role

    @rule(hosts_replica=st.booleans())
    def join(self, *, hosts_replica: bool) -> None:
        """Add a machine."""
        if len(self.world.machines) < 12:
            self.world.join(hosts_replica=hosts_replica)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Remove a node that is not the last manager, as the API has it."""
        machine = self.pick(data)
        others = [each for each in self.voters_of_nodes() if each is not machine]
        if machine is not None and others:
            machine.is_known = False

    @rule(seconds=st.sampled_from([1, 20, 130, 700]))
    def wait(self, seconds: float) -> None:
        """Let time go by; machines that are on report all the time."""
        self.world.pass_time(seconds)
        for machine in self.world.machines.values():
            if machine.is_on:
                machine.seen_at = self.world.now

    @invariant()
    def at_most_one_learns(self) -> None:
        """See that changes come one at a time."""
        assert sum(each.is_learner for each in self.world.members.values()) <= 1

    def teardown(self) -> None:
        """See that it all ends well once nothing goes wrong any more."""
        world = self.world
        if not world.machines:
            return
        while self.stale:
            self.do(self.stale.pop())
        for machine in world.machines.values():
            machine.is_on = True
        world.given_up.clear()
        settle(world, steps=120, seconds=0)
        decision = settle(world, steps=5)
        assert decision.actions == (), decision
        nodes = [each for each in world.machines.values() if each.is_known]
        able = {each.id for each in nodes if each.role is not Role.WORKER}
        count = min(len(able), 7) or 1
        assert len(world.voters) == count - (1 - count % 2), decision.reason
        assert voting(world) <= able or not able
        managers = {each.id for each in nodes if each.role is Role.MANAGER}
        assert managers <= voting(world) or voting(world) <= managers
        assert set(world.records) == voting(world)

    def pick(self, data: st.DataObject, *, is_on: bool | None = None) -> Machine | None:
        """Choose a machine that is a node."""
        found = [
            each
            for each in self.world.machines.values()
            if each.is_known and is_on in {None, each.is_on}
        ]
        return data.draw(st.sampled_from(found)) if found else None

    def voters_of_nodes(self) -> list[Machine]:
        """Return the machines that are nodes and vote."""
        found = (self.world.machine_of(each) for each in self.world.voters)
        return [each for each in found if each is not None and each.is_known]


Faults.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestFaults = Faults.TestCase

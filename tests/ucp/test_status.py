"""What is wrong with a control plane, in sentences."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from dtr.ucp.authority import Authority
from dtr.ucp.controller.machines import Machine, Machines
from dtr.ucp.controller.status import View, Voter, problems, shown
from dtr.ucp.etcd.members import EtcdStatus
from dtr.ucp.keyring import Stage, begun_again, first_keyring
from dtr.ucp.model import (
    ClusterRecord,
    Manager,
    ManagerPhase,
    Node,
    NodeReport,
    ProcessReport,
    ProcessState,
)
from dtr.ucp.store import Entry

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
DAY = 86_400
CLUSTER = ClusterRecord(
    id="x",
    created_at=NOW,
    ca_certificate=Authority.create("x", datetime.fromtimestamp(NOW, UTC)).certificate_pem,
    version="1",
)


ENDING = ProcessReport(
    name="etcd", state=ProcessState.BACKING_OFF, since=NOW, message="exited with status 1"
)


def machine(
    name: str, *, phase: ManagerPhase | None = ManagerPhase.VOTER, **told: object
) -> Machine:
    """Give a machine that has just reported that all is well, but for what is told."""
    node = Node(id=name, name=name, host_address="10.0.0.1", fingerprint="", joined_at=NOW)
    good = NodeReport(
        node_id=name,
        at=NOW,
        received_at=NOW,
        version="1",
        revision=1,
        disk_total_bytes=100 * 2**30,
        disk_free_bytes=50 * 2**30,
        certificate_expires_at=NOW + 60 * DAY,
    )
    manager = Manager(node_id=name, peer_url="", phase=phase) if phase else None
    return Machine(Entry(name, b"", 1, 1), node, manager, good.changed(**told), {})


def view(*machines: Machine, silent: str = "", leader: str = "a") -> View:
    """Give a view in which all members answer but one."""
    voters = tuple(
        Voter(each, None if each.node.name == silent else answer(each.node.name))
        for each in machines
        if each.manager
    )
    return View(CLUSTER, Machines(machines), voters, leader, first_keyring("c", NOW))


def answer(name: str) -> EtcdStatus:
    """Give what a member says."""
    return EtcdStatus(name, "a", is_learner=False, version="3.4.23", database_bytes=1)


def test_nothing_is_wrong_with_three_managers_that_answer() -> None:
    """One of them may be lost."""
    found = shown(view(machine("a"), machine("b"), machine("c")), NOW)
    assert found["problems"] == []
    assert found["failures_tolerated"] == 1
    assert found["leader"] == "a"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"full_members": ("a",)}, "etcd is full and accepts no writes"),
        ({"used_bytes": 400 * 2**20}, "etcd uses 400 of 512 MiB"),
    ],
)
def test_an_etcd_that_is_or_grows_full_is_told_once(changes: dict[str, Any], sentence: str) -> None:
    """Whichever members say so."""
    found = view(machine("a"), machine("b"), machine("c"))
    voters = tuple(
        replace(each, status=replace(each.status, **changes))
        for each in found.voters
        if each.status
    )
    (told,) = problems(replace(found, voters=voters), NOW)
    assert told.startswith(sentence)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"received_at": NOW - 60, "at": NOW - 60}, "b has not reported for 60 s"),
        ({"certificate_expires_at": NOW + 3 * DAY}, "certificate of b ends in 3 days"),
        ({"certificate_expires_at": NOW - DAY}, "certificate of b ends in 0 s"),
        ({"at": NOW + 5}, "clock of b is 5 s ahead"),
        ({"at": NOW - 5}, "clock of b is 5 s behind"),
        ({"disk_free_bytes": 2**30}, "disk of b has 1024 MiB free"),
        ({"problems": ("It is hot. Open a window.",)}, "b: It is hot. Open a window."),
        ({"processes": (ENDING,)}, "On b etcd ends again and again: exited with status 1. See"),
    ],
)
def test_what_a_node_tells_becomes_a_sentence(told: dict[str, Any], sentence: str) -> None:
    """One, and no other."""
    (problem,) = problems(view(machine("a"), machine("b", **told), machine("c")), NOW)
    assert sentence in problem
    assert problem.endswith(".")


def test_a_silent_learner_is_named() -> None:
    """The table shows it as one that does not answer."""
    learner = machine("c", phase=ManagerPhase.LEARNER)
    (problem,) = problems(view(machine("a"), machine("b"), learner, silent="c"), NOW)
    assert problem.startswith("etcd on c does not answer yet")


def test_a_silent_member_is_named_with_what_to_do() -> None:
    """And counted."""
    found = shown(view(machine("a"), machine("b"), machine("c"), silent="c"), NOW)
    assert found["failures_tolerated"] == 0
    assert "etcd on c does not answer" in str(found["problems"])
    assert "ucp node rm c" in str(found["problems"])


def test_two_managers_are_a_problem_unless_a_third_is_on_its_way() -> None:
    """Joining three passes through two."""
    two = view(machine("a"), machine("b"))
    assert "Two managers are worse than one" in problems(two, NOW)[0]
    third = machine("c", phase=ManagerPhase.LEARNER)
    assert problems(view(machine("a"), machine("b"), third), NOW) == []


def test_nobody_leading_is_a_problem() -> None:
    """Nothing changes then."""
    assert "No controller leads" in problems(view(machine("a"), leader=""), NOW)[0]


def test_an_authority_near_its_end_is_told_a_year_before() -> None:
    """Replacing it takes planning."""
    (problem,) = problems(view(machine("a")), NOW + 3300 * DAY)[-1:]
    assert "authority expires within a year" in problem


def test_etcds_known_holes_are_shown_and_are_no_problem_of_the_moment() -> None:
    """Nothing that an operator does tonight changes the packaged release."""
    found = shown(view(machine("a")), NOW)
    faults = found["etcd_faults"]
    assert isinstance(faults, list)
    assert len(faults) == 5
    assert found["problems"] == []


def test_keys_that_are_not_renewed_are_a_problem() -> None:
    """Whoever left can still open something."""
    one = view(machine("a"))
    assert one.keyring is not None
    stuck = begun_again(one.keyring, "c", NOW)
    assert problems(replace(one, keyring=stuck), NOW) == []
    late = stuck.changed(stage_since=NOW - 3600)
    (problem,) = problems(replace(one, keyring=late), NOW)
    assert "cannot be renewed" in problem
    assert shown(replace(one, keyring=stuck), NOW)["keys"] == Stage.TRUST
    (problem,) = problems(replace(one, keyring=None), NOW)
    assert "this version" in problem

"""What Patroni promises with our settings, in its own code: who acknowledges, who may take over.

`docs/cluster.md` ("What is acknowledged when") says the same in words. Here are Patroni's
resolver, which decides what the primary waits for, and its race for the lead, with what they would
read of databases and of etcd put in their place.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import patroni.postgresql  # noqa: F401 - before `patroni.ha`: they import each other
import pytest
from patroni.dcs import Member as PatroniMember
from patroni.dcs import SyncState
from patroni.ha import Ha
from patroni.quorum import QuorumStateResolver

from dtr.cluster.plan_majority import patroni_values


@dataclass
class Commits:
    """How commits are acknowledged, as PostgreSQL and etcd have been told."""

    leader: str
    wanted: int
    sync: frozenset[str] = frozenset()
    numsync: int = 0
    voters: frozenset[str] = frozenset()
    quorum: int = 0

    def see(self, active: str) -> None:
        """Let Patroni of the primary look, with these standbys streaming, until nothing changes."""
        for _ in range(10):
            before = (self.sync, self.numsync, self.voters, self.quorum)
            resolver = QuorumStateResolver(
                leader=self.leader,
                quorum=self.quorum,
                voters=self.voters,
                numsync=self.numsync,
                sync=self.sync,
                numsync_confirmed=len(self.sync & set(active)),
                active=set(active),
                sync_wanted=self.wanted,
                leader_wanted=self.leader,
            )
            for kind, _, number, names in resolver:
                if kind == "sync":
                    # `Ha._process_quorum_replication`: strict waits for one at least, whoever.
                    self.numsync, self.sync = number, frozenset(names)
                elif kind == "quorum":
                    self.quorum, self.voters = number, frozenset(names)
            if (self.sync, self.numsync, self.voters, self.quorum) == before:
                return
        raise AssertionError("it does not settle")

    @property
    def waited_for(self) -> int:
        """How many standbys a commit waits for, being strict."""
        return max(1, self.numsync)

    def may_lead(self, name: str, positions: dict[str, int]) -> bool:
        """Ask Patroni's race for the lead on one machine, with those that answer."""
        state = SyncState(1, self.leader, ",".join(sorted(self.voters)), self.quorum)
        cluster = SimpleNamespace(sync=state, timeline=1)
        stub = SimpleNamespace(
            cluster=cluster,
            state_handler=SimpleNamespace(
                name=name,
                replica_cached_timeline=lambda _: 1,
                last_operation=lambda: positions[name],
            ),
            patroni=SimpleNamespace(failover_priority=1),
            is_lagging=lambda _: False,
            is_standby_cluster=lambda: False,
            check_timeline=lambda: True,
            quorum_commit_mode_is_active=lambda: not state.is_empty,
            sync_mode_is_active=lambda: not state.is_empty,
            fetch_nodes_statuses=lambda members: [
                SimpleNamespace(
                    member=each,
                    failover_limitation=lambda: None,
                    wal_position=positions[each.name],
                    in_recovery=True,
                    timeline=1,
                    failover_priority=1,
                )
                for each in members
            ],
        )
        # As `Ha.is_healthiest_node` chooses whom to ask.
        asked = [
            PatroniMember(1, each, None, {"api_url": f"https://{each}/patroni"})
            for each in positions
            if state.matches(each, True)
        ]
        return bool(Ha._is_healthiest_node(cast("Any", stub), asked))


def commits_of(count: int) -> Commits:
    """Return a healthy cluster of so many replicas: p leads, the others are a, b, c …."""
    values = patroni_values(count)
    assert values["synchronous_mode"] == "quorum"
    found = Commits("p", values["synchronous_node_count"])
    found.see("abcdef"[: count - 1])
    return found


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7])
def test_while_a_majority_streams_a_majority_acknowledges(count: int) -> None:
    """Whoever of a minority is away, and when they return."""
    commits = commits_of(count)
    standbys = "abcdef"[: count - 1]
    majority = count // 2 + 1
    for away in range(count - majority + 1):
        commits.see(standbys[away:])
        assert 1 + commits.waited_for >= majority
        # Whoever may take over needs so many that one of them has each commit.
        assert commits.numsync + commits.quorum + 1 > len(commits.voters)
    commits.see(standbys)
    assert 1 + commits.waited_for == majority


def test_with_a_minority_left_of_five_fewer_acknowledge_and_only_they_lead_on() -> None:
    """Three databases die while etcd lives; two acknowledge; they die, and the three are back."""
    commits = commits_of(5)
    commits.see("a")
    assert (set(commits.sync), commits.waited_for) == ({"a"}, 1)
    assert (set(commits.voters), commits.quorum) == ({"a"}, 0)
    stale = {"b": 100, "c": 100, "d": 100}
    assert not any(commits.may_lead(each, stale) for each in stale)
    back = {**stale, "a": 200}
    assert commits.may_lead("a", back)
    assert not any(commits.may_lead(each, back) for each in stale)
    assert commits.may_lead("p", {**stale, "p": 200})


def test_without_any_standby_nothing_is_acknowledged_and_only_the_primary_leads_on() -> None:
    """Three replicas, two of them dead: whoever returns alone does not have all."""
    commits = commits_of(3)
    commits.see("")
    assert commits.waited_for == 1
    assert commits.voters == frozenset()
    assert not commits.may_lead("a", {"a": 100, "b": 100})
    assert commits.may_lead("p", {"p": 200, "a": 100})


def test_of_a_healthy_five_any_three_lead_on_and_no_two() -> None:
    """Two have a commit besides the primary; of three of the four others one is among them."""
    commits = commits_of(5)
    assert commits.may_lead("b", {"a": 100, "b": 200, "c": 100})
    assert not commits.may_lead("a", {"a": 100, "b": 200, "c": 100})
    assert not commits.may_lead("b", {"a": 100, "b": 200})

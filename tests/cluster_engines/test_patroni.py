"""Patroni's configuration, as it is rendered."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cluster_engines.nodes import REPLICA, specification

from dtr.cluster.engines.patroni import DatabasePlace, Machine, render
from dtr.cluster.model import ReplicaSpecification
from dtr.model.members import Member, MemberState

PLACE = DatabasePlace(Path("/var/lib/ucp/replicas") / REPLICA / "database")
OTHER = Member("ba9876543210", "node2", "10.0.0.2")
OWN = Member(REPLICA, "node1", "10.0.0.1")
URLS = ("https://10.0.0.1:2379", "https://10.0.0.2:2379")


def rendered(given: ReplicaSpecification, system_user: str = "postgres") -> dict[str, Any]:
    """Render and read it again."""
    machine = Machine(
        Path("/usr/lib/postgresql/15/bin"), "/opt/python", system_user, URLS, Path("/ca")
    )
    document: dict[str, Any] = json.loads(render(given, PLACE, machine))
    return document


def test_only_members_may_connect() -> None:
    """A member that is gone from the list is refused at once; nobody comes without TLS."""
    both = rendered(specification(members=(OWN, OTHER)))["postgresql"]["pg_hba"]
    alone = rendered(specification(members=(OWN,)))["postgresql"]["pg_hba"]
    gone = set(both) - set(alone)
    assert {line.split()[3] for line in gone} == {"10.0.0.2/32"}
    assert all(line.startswith(("local ", "hostssl ")) for line in both)
    assert not any("0.0.0.0" in line or " all all 1" in line for line in both)


def test_replication_and_rewind_need_a_clients_certificate() -> None:
    """A password alone does not open the data; and each role has one database."""
    lines = rendered(specification(members=(OWN, OTHER)))["postgresql"]["pg_hba"]
    remote = [line.split() for line in lines if line.startswith("hostssl")]
    assert {(each[1], each[2]) for each in remote} == {
        ("replication", "replicator"),
        ("postgres", "rewinder"),
        ("registry", "dtr"),
    }
    assert all(
        each[-1] == "clientcert=verify-ca"
        for each in remote
        if each[2] in {"replicator", "rewinder"}
    )


def test_the_access_list_is_local_so_that_a_signal_changes_it() -> None:
    """It is not in the configuration that etcd holds."""
    document = rendered(specification(members=(OWN,), is_bootstrap=True))
    assert "pg_hba" not in document["bootstrap"]["dcs"]["postgresql"]


def test_peer_authentication_is_for_the_user_called_postgres_only() -> None:
    """Another system user would fall into that line and out of the door."""
    lines = rendered(specification(members=(OWN,)), "pg")["postgresql"]["pg_hba"]
    assert not any("peer" in line for line in lines)


def test_a_replica_that_may_not_make_the_database_has_no_bootstrap_section() -> None:
    """Patroni then never runs for the key initialize."""
    assert "bootstrap" not in rendered(specification(members=(OWN,)))
    assert "bootstrap" in rendered(specification(members=(OWN,), is_bootstrap=True))


def test_no_password_is_in_what_a_process_is_started_with() -> None:
    """The program after bootstrap gets the name of a file."""
    given = specification(members=(OWN,), is_bootstrap=True)
    program = rendered(given)["bootstrap"]["post_bootstrap"]
    assert "secret" not in program
    assert program.endswith(str(PLACE.role_password))


def test_the_first_replica_waits_for_nobody() -> None:
    """It is alone, and joining: commits are its own, and a crash is mended in place."""
    own = Member(REPLICA, "node1", "10.0.0.1", state=MemberState.JOINING)
    found = rendered(specification(members=(own,), is_bootstrap=True))["bootstrap"]["dcs"]
    assert found["synchronous_mode"] == "quorum"
    assert found["synchronous_mode_strict"] is False
    assert found["primary_start_timeout"] == 300
    assert found["synchronous_node_count"] == 1
    assert found["failsafe_mode"] is True
    assert found["loop_wait"] + 2 * found["retry_timeout"] <= found["ttl"]


@pytest.mark.parametrize(
    ("state", "is_synchronous", "tags"),
    [
        (MemberState.SERVING, True, {"nofailover": False, "nosync": False}),
        (MemberState.DRAINING, True, {"nofailover": False, "nosync": False}),
        (MemberState.DRAINING, False, {"nofailover": True, "nosync": True}),
        (MemberState.JOINING, False, {"nofailover": False, "nosync": True}),
    ],
)
def test_who_is_not_counted_acknowledges_nothing_and_who_drains_goes_on_to(
    *, state: MemberState, is_synchronous: bool, tags: dict[str, bool]
) -> None:
    """The data of the one may be deleted; without the other a further death would stop writes."""
    own = Member(REPLICA, "node1", "10.0.0.1", state=state)
    given = specification(members=(own,), is_synchronous=is_synchronous)
    assert rendered(given)["tags"] == tags


def test_everything_between_machines_is_verified_both_ways() -> None:
    """Patroni's interface, etcd and replication show and ask for certificates."""
    document = rendered(specification(members=(OWN,)))
    assert document["restapi"]["verify_client"] == "required"
    assert document["ctl"]["insecure"] is False
    assert document["etcd3"]["hosts"] == ["10.0.0.1:2379", "10.0.0.2:2379"]
    assert (document["etcd3"]["protocol"], document["etcd3"]["username"]) == (
        "https",
        f"patroni-{REPLICA}",
    )
    roles = document["postgresql"]["authentication"].values()
    assert {role["sslmode"] for role in roles} == {"verify-full"}


def test_etcd_is_asked_with_another_key_than_databases_have_among_themselves() -> None:
    """What opens one opens nothing of the other."""
    document = rendered(specification(members=(OWN,)))
    key, other = document["etcd3"]["key"], document["restapi"]["keyfile"]
    assert key != other == document["ctl"]["keyfile"]
    assert document["etcd3"]["cacert"] != document["ctl"]["cacert"]
    assert other == document["postgresql"]["parameters"]["ssl_key_file"]


def test_the_rest_interface_reads_whom_to_trust_when_that_changes() -> None:
    """Patroni looks at the name of that file only, and not into it."""
    names = {PLACE.interface_ca(trust) for trust in ("a" * 64, "b" * 64)}
    assert len(names) == 2
    document = rendered(specification(members=(OWN,)))
    assert document["restapi"]["cafile"] == "/ca"


def test_addresses_of_ipv6_are_bracketed_and_have_their_own_mask() -> None:
    """As every program expects them."""
    own = Member(REPLICA, "node1", "fd00::1")
    document = rendered(specification(members=(own,)))
    assert document["restapi"]["listen"] == "[fd00::1]:8008"
    assert document["postgresql"]["connect_address"] == "[fd00::1]:5432"
    assert any("fd00::1/128" in line for line in document["postgresql"]["pg_hba"])


def test_a_replica_that_is_no_member_is_refused() -> None:
    """Nobody could reach it."""
    with pytest.raises(ValueError, match="not among its members"):
        rendered(specification(members=(OTHER,)))


def test_a_path_that_is_too_long_for_a_socket_is_told() -> None:
    """PostgreSQL would say so only in its log."""
    assert PLACE.problem == ""
    long = DatabasePlace(Path("/") / ("x" * 100))
    assert "shorter --data-dir" in long.problem

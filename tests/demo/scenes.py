"""Scenes of the demonstration as they may come, for tests of what is made of them."""

from typing import Any

from demo.scene import MINUTE, ClientsSeen, Scene, Second, StepSeen, machines_seen


def replica_of(node: str, *, role: str = "standby", health: str = "OK") -> dict[str, Any]:
    """Give a replica as `GET /dtr/status` shows it."""
    return {
        "id": f"0123456789a{node[-1]}",
        "node": node,
        "role": role,
        "phase": "serving",
        "health": health,
        "is_counted": True,
        "lag_bytes": 123_456_789,
        "storage": {"blobs": 123_456, "bytes": 2**40},
    }


def status_of(*replicas: dict[str, Any], issues: tuple[str, ...] = ()) -> dict[str, Any]:
    """Give an answer of `GET /dtr/status`, with all that a picture is made of."""
    pool = {each["id"]: "UP" if each["health"] == "OK" else "DOWN" for each in replicas}
    found = [{"critical": False, "description": each} for each in issues]
    return {
        "is_installed": True,
        "is_writable": True,
        "replicas": list(replicas),
        "managers": [{"node": each["node"]} for each in replicas],
        "balancers": [{"node": "balancer", "pool": pool}],
        "operation": {"phase": "handing over"},
        "failures_tolerated": {"replicas": 0, "managers": 0},
        "rethink_system_tables": {"current_issues": found},
    }


def scene_of_a_death(*, steps: int = 30, failed: int = 3, elapsed: float = 3_725) -> Scene:
    """Give the worst moment: the primary has no power, clients fail, and all texts are long."""
    status = status_of(
        replica_of("node1", role="primary", health="its node node1 has told nothing for 7 s"),
        replica_of("node2"),
        replica_of("node3", role="", health="the registry does not answer"),
        issues=("The replica 0123456789a1 on node1 is not healthy. " * 4, "And another issue."),
    )
    title = "node2$ dtr remove --existing-replica-id 0123456789a2 --replica-id 0123456789a1 --more"
    past = [StepSeen(f"step number {number}", 12.3, note="done") for number in range(steps - 1)]
    minute = tuple(Second(number % 9, number > 40) for number in range(MINUTE))
    return Scene(
        elapsed=elapsed,
        steps=(*past, StepSeen(title, 1_234.5, is_running=True, note="a note of some length")),
        machines=machines_seen(
            {"node1": (False, 12.0), "node2": (True, 0.0), "node3": (True, 3.0)}, status
        ),
        status=status,
        clients=(
            ClientsSeen("pushes", 123_456, 1_234, 123.4, minute),
            ClientsSeen("pulls", 1_234_567, 12_345, 123.4, minute),
        ),
        failed=failed,
    )

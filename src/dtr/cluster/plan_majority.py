"""How many replicas must have what is acknowledged, in numbers and in Patroni's words."""

from collections.abc import Mapping
from typing import Any, Final

from dtr.cluster.view import ClusterView

_RESTART_IN_PLACE_SECONDS: Final = 300
_LEAST_FOR_STRICT: Final = 3


def tolerated(count: int) -> int:
    """Return how many of so many replicas may be lost without a loss or a pause of writes.

    >>> [tolerated(count) for count in (1, 2, 3, 4, 5, 7)]
    [0, 0, 1, 1, 2, 3]
    """
    return max(0, (count - 1) // 2)


def synchronous_nodes(count: int) -> int:
    """Return how many standbys acknowledge a commit besides the primary: a majority with it.

    >>> [synchronous_nodes(count) for count in (1, 2, 3, 4, 5, 7)]
    [0, 1, 1, 2, 2, 3]
    """
    return count // 2


def patroni_values(count: int) -> dict[str, Any]:
    """Return what Patroni is configured with for so many counted replicas.

    From three replicas on a primary without enough standbys refuses writes rather than to be the
    only one that has them, and a crashed one is replaced at once rather than restarted in place
    (`engines.md` 0.2 and 2). Patroni takes no count below one; with one replica, not being strict,
    it waits for nobody.
    """
    return {
        "synchronous_mode": "quorum",
        "synchronous_node_count": max(1, synchronous_nodes(count)),
        "synchronous_mode_strict": count >= _LEAST_FOR_STRICT,
        "primary_start_timeout": 0 if count >= _LEAST_FOR_STRICT else _RESTART_IN_PLACE_SECONDS,
    }


def is_configured(config: Mapping[str, Any] | None, count: int) -> bool:
    """Return whether Patroni's configuration is that for so many replicas."""
    if config is None:
        return False
    return all(config.get(name) == value for name, value in patroni_values(count).items())


def advice(count: int) -> str:
    """Return what to say of a number of replicas; empty where it is a good one."""
    if count % 2:
        return ""
    return (
        f"{count} replicas tolerate no more failures than {count - 1}: add one, or remove one. "
        "3, 5 or 7 are good numbers."
    )


def summary(view: ClusterView) -> dict[str, Any]:
    """Return how many replicas there are, and how many may fail."""
    count = len(view.counted)
    return {"replicas": count, "failures_tolerated": tolerated(count)}

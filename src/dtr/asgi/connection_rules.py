"""When a connection has been slow for too long, and which ones give way; pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final

from dtr.model.addresses import canonical_address, parse_address

_NETWORK_BITS: Final = 64
_CROWDED: Final = 7 / 8
_ROOMY: Final = 3 / 4


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one process allows to its connections.

    `head_seconds` bounds the time in which a new connection must have sent its first request, TLS
    included, and in which the head of a later one must be complete once it has begun. An answer
    must move `least_bytes_per_second` over each `idle_seconds`, and end within `whole_seconds`.
    `most` bounds all connections, `most_per_address` those of one address (0: no limit).
    """

    head_seconds: float = 10
    idle_seconds: float = 60
    whole_seconds: float = 6 * 3600
    least_bytes_per_second: int = 1024
    most: int = 4096
    most_per_address: int = 256


@dataclass(slots=True)
class Activity:
    """What the application knows of a connection: requests so far, and how many are at work."""

    requests: int = 0
    active: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the kernel says of a connection: bytes both ways, and whether some wait to be read."""

    received: int
    acknowledged: int
    is_sending: bool


@dataclass(slots=True, eq=False)
class Connection:
    """One connection, followed from sample to sample; all times are of one monotonic clock."""

    key: tuple[str, str]
    address: str
    opened_at: float
    moved_at: float
    is_exempt: bool = False
    """Whether it is of a proxy or balancer: then it is other people's."""
    last: Sample = field(default_factory=lambda: Sample(0, 0, is_sending=False))
    requests: int = 0
    is_busy: bool = False
    _answering_since: float | None = None
    _mark: tuple[float, int] = (0.0, 0)
    _rested: int | None = None
    _head_since: float | None = None

    def judge(
        self, sample: Sample, activity: Activity, now: float, limits: ConnectionLimits
    ) -> str:
        """Take in a sample; return why the connection is to end, or nothing."""
        before, self.last = self.last, sample
        if (before.received, before.acknowledged) != (sample.received, sample.acknowledged):
            self.moved_at = now
        if activity.requests != self.requests:
            self.requests = activity.requests
            self._answering_since = self._head_since = self._rested = None
        self.is_busy = sample.is_sending or activity.active > 0
        if sample.is_sending:
            return self._judge_answer(sample, now, limits)
        self._answering_since = None
        if activity.active:
            return ""
        return self._judge_head(sample, now, limits)

    def _judge_answer(self, sample: Sample, now: float, limits: ConnectionLimits) -> str:
        if self._answering_since is None:
            self._answering_since, self._mark = now, (now, sample.acknowledged)
            return ""
        if now - self._answering_since >= limits.whole_seconds:
            return "an answer was not read to its end in time"
        since, acknowledged = self._mark
        if now - since < limits.idle_seconds:
            return ""
        self._mark = (now, sample.acknowledged)
        least = max(1.0, limits.least_bytes_per_second * (now - since))
        slow = sample.acknowledged - acknowledged < least
        return "an answer was read too slowly" if slow else ""

    def _judge_head(self, sample: Sample, now: float, limits: ConnectionLimits) -> str:
        if not self.requests:
            late = now - self.opened_at >= limits.head_seconds
            return "no request came in time" if late else ""
        if self._rested is None:
            self._rested = sample.received
        if sample.received > self._rested and self._head_since is None:
            self._head_since = now
        late = self._head_since is not None and now - self._head_since >= limits.head_seconds
        return "a request's head did not end in time" if late else ""


def excess(
    connections: Collection[Connection], limits: ConnectionLimits
) -> Iterable[tuple[Connection, str]]:
    """Yield which connections give way, and why: those first that wait for nothing.

    Where there are too many of one address, idle ones go first, the longest idle before others,
    and then the newest. Where there are too many in all, likewise those that moved longest ago.
    """
    left: list[Connection] = []
    by_address: dict[str, list[Connection]] = {}
    for each in connections:
        own = left if each.is_exempt else by_address.setdefault(each.address, [])
        own.append(each)
    for found in by_address.values():
        most = limits.most_per_address
        if not most or len(found) <= most:
            left += found
            continue
        found.sort(key=_usefulness)
        over = len(found) - most
        yield from ((each, "too many connections of its address") for each in found[:over])
        left += found[over:]
    if len(left) > limits.most * _CROWDED:
        left.sort(key=lambda each: (each.is_busy, each.moved_at))
        over = len(left) - int(limits.most * _ROOMY)
        yield from ((each, "too many connections") for each in left[:over])


def _usefulness(connection: Connection) -> tuple[bool, float]:
    """Return where a connection stands among those of its address; the first is given up first."""
    is_busy = connection.is_busy
    return is_busy, -connection.opened_at if is_busy else connection.moved_at


def group_of(host: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 address.

    >>> group_of("::ffff:192.0.2.1"), group_of("2001:db8::1:2:3:4"), group_of("fe80::1%eth0")
    ('192.0.2.1', '2001:db8::', 'fe80::')
    """
    address = parse_address(host.partition("%")[0])
    if not isinstance(address, IPv6Address):
        return canonical_address(host)
    return str(IPv6Address(int(address) >> _NETWORK_BITS << _NETWORK_BITS))

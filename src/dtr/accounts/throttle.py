"""Slow down who guesses passwords: one rule for the registry and for the control plane.

An attempt is counted before its password is verified, in this process, and where failures are kept
once it has failed. So guesses that are sent together are counted together, and one that is right
writes nothing: whoever may pull while no metadata can be written may still log in.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from dtr.model.addresses import parse_address
from dtr.model.errors import TooManyRequestsError

_ADDRESS_FACTOR: Final = 10
"""Many people may share an address: it is slowed down once ten times as many names have failed."""
_MOST_NAME: Final = 128
_IPV6_SITE_BITS: Final = 64
"""What one customer of a provider gets at least; addresses within are free to choose."""
_MOST_DOUBLINGS: Final = 30
_MOST_WAITING: Final = 64
_MOST_WAITING_AT_ADDRESS: Final = 128
_MOST_WAITING_TOGETHER: Final = 1024
"""Each is one connection's request and little else. It takes many addresses to keep others out."""
_MOST_UNDECIDED: Final = 32
"""Of one address. More would only wait for each other's passwords to be verified."""
_KNOWN_ANEW_SECONDS: Final = 86_400
_BUSY_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class ThrottleLimits:
    """After how many failures an attempt has to wait, and how long."""

    failures_before_delay: int = 5
    delay_seconds: float = 1
    delay_max_seconds: float = 300

    def wait(self, failures: "Failures | None", allowed: int, now: float) -> float:
        """Return in how many seconds the next attempt may be made; 0 or less: now."""
        if failures is None or failures.count < allowed:
            return 0
        doublings = min(failures.count - allowed, _MOST_DOUBLINGS)
        delay = min(self.delay_seconds * 2.0**doublings, self.delay_max_seconds)
        # Never longer than the delay, also where the clock was set back meanwhile.
        return min(delay, failures.last_at + delay - now)


@dataclass(frozen=True, slots=True)
class Failures:
    """How often attempts of one subject failed, and when the last did."""

    count: int
    last_at: float


class Attempt(NamedTuple):
    """One attempt to log in: what is counted for it."""

    pair: str
    """The name at the address."""
    known: str
    """Where it is noted that this name has logged in from this address."""
    address: str
    """The address alone; empty for one that many unknown clients share, such as a proxy's."""

    @classmethod
    def of(cls, name: str, client: str, *, is_shared: bool = False) -> "Attempt":
        """Return the attempt of a name at a client's address.

        >>> Attempt.of("alice", "[2001:db8::1]:4711").address
        '2001:db8::/64'
        """
        network = network_of(client)
        # PostgreSQL's text has no NUL.
        storable = name[:_MOST_NAME].replace("\0", "\N{REPLACEMENT CHARACTER}")
        pair = f"{storable}@{network}"
        # No pair ends in this, for none of the networks does.
        return cls(pair, f"{pair}#known", "" if is_shared else network)


def network_of(client: str) -> str:
    """Return what of an address one client cannot choose freely, in one way to write it.

    >>> network_of("::ffff:192.0.2.1"), network_of("192.0.2.1:40000"), network_of("nonsense")
    ('192.0.2.1', '192.0.2.1', 'unknown')
    """
    address = parse_address(client)
    if address is None:
        return "unknown"
    if isinstance(address, IPv6Address):
        number = int(address) >> (128 - _IPV6_SITE_BITS) << (128 - _IPV6_SITE_BITS)
        return str(IPv6Network((number, _IPV6_SITE_BITS)))
    return str(address)


class Counted(NamedTuple):
    """What is kept about an attempt's subjects."""

    pair: Failures | None = None
    known: Failures | None = None
    address: Failures | None = None

    def wait(self, limits: ThrottleLimits, now: float, *, undecided: int = 0) -> float:
        """Return in how many seconds such an attempt may be made; 0 or less: now.

        `undecided` attempts of the address are under way. A name that has logged in from the
        address does not wait for what others at a shared address do wrong.
        """
        allowed = limits.failures_before_delay
        wait = limits.wait(self.pair, allowed, now)
        if self.known is not None:
            return wait
        address = self.address or Failures(0, now)
        address = Failures(address.count + undecided, address.last_at)
        return max(wait, limits.wait(address, allowed * _ADDRESS_FACTOR, now))


class FailedLogins(Protocol):
    """Where failures are kept.

    Of one name at an address only the first failure counts for the address: a client that tries
    one wrong password again and again is one mistake.
    """

    async def counted(self, attempt: Attempt) -> Counted:
        """Return what is kept."""
        ...

    async def failed(self, attempt: Attempt, now: float) -> None:
        """Count a failure."""
        ...

    async def forgive(self, attempt: Attempt) -> None:
        """Forget the failures of a name at an address, and what they count for the address."""
        ...

    def note_known(self, attempt: Attempt, now: float) -> None:
        """Note that a name has logged in from an address; it may take a while until that counts."""
        ...


class LoginThrottle:
    """Lets attempts to log in begin, one after another for each name at an address.

    A name alone is never slowed down, or anybody could lock anybody out.
    """

    def __init__(
        self,
        failures: FailedLogins,
        limits: ThrottleLimits,
        *,
        is_shared: Callable[[str], bool] = lambda _client: False,
    ) -> None:
        self._failures = failures
        self._limits = limits
        self._is_shared = is_shared
        self._turns: dict[str, _Turn] = {}
        self._waiting = 0
        self._waiting_at: Counter[str] = Counter()
        self._undecided: dict[str, int] = {}

    def attempt(self, name: str, client: str) -> Attempt:
        """Return what is counted for a login of `name` from the address `client`."""
        return Attempt.of(name, client, is_shared=self._is_shared(client))

    @asynccontextmanager
    async def turn(self, attempt: Attempt) -> AsyncIterator[None]:
        """Wait until no other login of this name at this address is under way.

        Raises:
            TooManyRequestsError: too many wait already.

        """
        address = attempt.address
        turn = self._turns.get(attempt.pair) or _Turn(asyncio.Lock())
        is_crowded = address and self._waiting_at[address] >= _MOST_WAITING_AT_ADDRESS
        if is_crowded or turn.users > _MOST_WAITING or self._waiting >= _MOST_WAITING_TOGETHER:
            raise _busy()
        self._turns[attempt.pair] = turn
        turn.users += 1
        self._waiting += 1
        self._waiting_at[address] += 1
        try:
            async with turn.lock:
                yield
        finally:
            self._waiting -= 1
            self._waiting_at[address] -= 1
            if not self._waiting_at[address]:
                del self._waiting_at[address]
            turn.users -= 1
            if not turn.users:
                self._turns.pop(attempt.pair, None)

    @asynccontextmanager
    async def attempting(self, attempt: Attempt, now: float) -> AsyncIterator["Outcome"]:
        """Let an attempt be made; it has failed unless the outcome says otherwise at the end.

        Raises:
            TooManyRequestsError: it has to wait, and is not counted.

        """
        undecided = self._undecided.get(attempt.address, 0)
        if attempt.address:
            if undecided >= _MOST_UNDECIDED:
                raise _busy()
            self._undecided[attempt.address] = undecided + 1
        try:
            counted = await self._failures.counted(attempt)
            wait = counted.wait(self._limits, now, undecided=undecided)
            if wait > 0:
                message = "too many logins failed; wait before the next"
                raise TooManyRequestsError(message, retry_after_seconds=wait)
            outcome = Outcome(is_known=counted.known is not None)
            try:
                yield outcome
            except asyncio.CancelledError:
                # Whoever goes away before the answer has guessed all the same.
                await self._failures.failed(attempt, now)
                raise
            await self._decide(attempt, counted, outcome, now)
        finally:
            self._settle(attempt.address)

    async def _decide(
        self, attempt: Attempt, counted: Counted, outcome: "Outcome", now: float
    ) -> None:
        if not outcome.is_success:
            await self._failures.failed(attempt, now)
            return
        if counted.pair is not None:
            await self._failures.forgive(attempt)
        if counted.known is None or counted.known.last_at < now - _KNOWN_ANEW_SECONDS:
            self._failures.note_known(attempt, now)

    def _settle(self, address: str) -> None:
        left = self._undecided.get(address, 0) - 1
        if left > 0:
            self._undecided[address] = left
        else:
            self._undecided.pop(address, None)


@dataclass(slots=True)
class Outcome:
    """How an attempt ended; `is_known`: the name has logged in from this address before."""

    is_success: bool = False
    is_known: bool = False


@dataclass(slots=True)
class _Turn:
    """Whose turn it is, of those who log in by one name at one address."""

    lock: asyncio.Lock
    users: int = 0


def _busy() -> TooManyRequestsError:
    return TooManyRequestsError(
        "too many logins at once; try again", retry_after_seconds=_BUSY_SECONDS
    )


class MemoryFailures:
    """Counts in this process: with several of them, somebody has as many times as many guesses."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._kept: OrderedDict[str, Failures] = OrderedDict()

    async def counted(self, attempt: Attempt) -> Counted:
        """Return what is kept."""
        return Counted(*(self._kept.get(subject) for subject in attempt))

    async def failed(self, attempt: Attempt, now: float) -> None:
        """Count a failure."""
        is_first = attempt.pair not in self._kept
        subjects = [attempt.pair, *([attempt.address] if attempt.address and is_first else [])]
        for subject in subjects:
            count = self._kept.get(subject, Failures(0, now)).count
            self._keep(subject, Failures(count + 1, now))

    async def forgive(self, attempt: Attempt) -> None:
        """Forget the failures of a name at an address."""
        if self._kept.pop(attempt.pair, None) is None:
            return
        address = self._kept.get(attempt.address)
        if address is not None:
            self._kept[attempt.address] = Failures(max(address.count - 1, 0), address.last_at)

    def note_known(self, attempt: Attempt, now: float) -> None:
        """Note that a name has logged in from an address."""
        self._keep(attempt.known, Failures(0, now))

    def _keep(self, subject: str, failures: Failures) -> None:
        self._kept.pop(subject, None)
        self._kept[subject] = failures
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


if TYPE_CHECKING:
    _: type[FailedLogins] = MemoryFailures

"""Which releases of etcd let those whom they let in do more than they may; pure.

Whoever has a certificate of etcd's clients (controllers and the Patroni of each replica: ADR 15)
may use these. The fixes are by branch; a branch that is not named has none. Checked in November
2026 against the advisories and pull requests that are named.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_Branch = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fault:
    """One hole, and the first release of each branch without it."""

    name: str
    consequence: str
    """What whoever is let in can do, as the end of a sentence."""
    fixed: Mapping[_Branch, int]

    def is_in(self, version: tuple[int, int, int]) -> bool:
        """Tell whether a release has it."""
        branch, patch = version[:2], version[2]
        if branch > max(self.fixed):
            return False
        return branch not in self.fixed or patch < self.fixed[branch]


FAULTS: Final = (
    Fault(
        "etcd-io/etcd pull request 22386",
        "turns all permissions off while etcd is full, or said to be",
        {(3, 6): 0},
    ),
    Fault(
        "CVE-2026-33343",
        "reads and writes every key by a transaction in a transaction",
        {(3, 4): 42, (3, 5): 28, (3, 6): 9},
    ),
    Fault(
        "CVE-2026-33413",
        "without a password raises alarms, ends leases, compacts and lists members",
        {(3, 4): 42, (3, 5): 28, (3, 6): 9},
    ),
    Fault(
        "CVE-2026-44283",
        "reads values before a change, and uses leases, that it may not",
        {(3, 4): 44, (3, 5): 30, (3, 6): 11},
    ),
    Fault(
        "CVE-2026-73499",
        "watches every key that comes after one that it may read",
        {(3, 5): 33, (3, 6): 14, (3, 7): 1},
    ),
)
SOUND: Final = "3.6.14"
"""The first release that has none of them."""


def faults_of(version: str) -> tuple[Fault, ...]:
    """Return the holes of a release; all that are known where it cannot be told.

    >>> [fault.name for fault in faults_of("3.6.13")]
    ['CVE-2026-73499']
    >>> faults_of("3.6.14"), faults_of("3.7.1")
    ((), ())
    >>> len(faults_of("3.4.23"))
    5
    """
    found = _VERSION.match(version)
    if found is None:
        return FAULTS
    numbers = (int(found[1]), int(found[2]), int(found[3]))
    return tuple(fault for fault in FAULTS if fault.is_in(numbers))

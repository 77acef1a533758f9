"""Who commits: a prober beside each database writes to it directly, all the time.

It is how a second primary would be caught: the registry's own clients follow whom they are told to
follow, and would not notice one.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import psycopg
from tests.support.machines import Machine
from tests.support.namespaces import enter_network

_PAUSE_SECONDS = 0.2
_WRITE = """
insert into public.test_writes values (%s, %s)
returning substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)
"""

Row = tuple[str, int]
"""Which prober wrote it, and its number."""


@dataclass(frozen=True)
class Commit:
    """A row that a database said it has; the times are of the monotonic clock."""

    server: str
    number: int
    timeline: str
    """Of PostgreSQL: a new one begins with each promotion."""
    sent: float
    acknowledged: float


@dataclass
class History:
    """All that was acknowledged, by whom and when."""

    commits: list[Commit] = field(default_factory=list)

    def longest_gap(self, since: float, until: float) -> float:
        """Give the longest time in which no database acknowledged anything."""
        times = sorted(c.acknowledged for c in self.commits if since <= c.acknowledged <= until)
        points = [since, *times, until]
        return max(later - earlier for earlier, later in pairwise(points))

    def second_primaries(self) -> list[str]:
        """Say where a database acknowledged a row that was sent after another one had taken over.

        A primary that was frozen may still answer, when it thaws, for what it had committed before;
        whether that row is there is another question (`lost`).
        """
        problems: list[str] = []
        first: dict[str, Commit] = {}
        servers: dict[str, set[str]] = defaultdict(set)
        for commit in sorted(self.commits, key=lambda each: each.acknowledged):
            first.setdefault(commit.timeline, commit)
            servers[commit.timeline].add(commit.server)
        for commit in self.commits:
            for successor in first.values():
                late = commit.sent - successor.acknowledged
                if commit.timeline < successor.timeline and late > 0:
                    problems.append(
                        f"{commit.server} wrote on timeline {commit.timeline} {late:.1f} s after"
                        f" {successor.server} had on {successor.timeline}"
                    )
        problems += [f"{line}: {sorted(many)}" for line, many in servers.items() if len(many) > 1]
        return problems

    def lost(self, found: Iterable[Row]) -> list[Row]:
        """Give what was acknowledged and is not among the rows that were found."""
        return sorted({(each.server, each.number) for each in self.commits} - set(found))


class Prober:
    """Writes to the database of one machine, from that machine, until told to stop."""

    def __init__(self, machine: Machine, location: str, history: History) -> None:
        self._machine = machine
        self._location = location
        self._history = history
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._number = 0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the database must be able to answer, or be gone."""
        self._ending.set()
        self._thread.join(30)
        if self._thread.is_alive():
            raise TimeoutError(f"the database of {self._machine.name} does not answer")

    def _run(self) -> None:
        enter_network(self._machine.namespace)
        while not self._ending.is_set():
            try:
                with psycopg.connect(self._location, autocommit=True) as connection:
                    self._write(connection)
            except psycopg.Error:
                self._ending.wait(_PAUSE_SECONDS)

    def _write(self, connection: "psycopg.Connection[tuple[str]]") -> None:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(str(notice.sqlstate)))
        while not self._ending.is_set():
            self._number += 1
            row, sent = (self._machine.name, self._number), time.monotonic()
            found = connection.execute(_WRITE, row).fetchone()
            # A commit that comes with a word about a cancelled wait is none.
            if found is not None and not notices:
                self._history.commits.append(Commit(*row, found[0], sent, time.monotonic()))
            notices.clear()
            self._ending.wait(_PAUSE_SECONDS)


def ask(machine: Machine, location: str, statement: str) -> list[Row]:
    """Run a statement in the database of a machine, from there, and give its rows."""
    rows: list[Row] = []
    errors: list[Exception] = []

    def run() -> None:
        enter_network(machine.namespace)
        try:
            with psycopg.connect(location, autocommit=True) as connection:
                cursor = connection.execute(statement.encode())
                if cursor.description:
                    rows.extend(cursor.fetchall())
        except psycopg.Error as error:
            errors.append(error)

    _in_thread(run)
    if errors:
        raise errors[0]
    return rows


def _in_thread(work: Callable[[], None]) -> None:
    """Do one thing in a thread of its own: one that enters another network never comes back."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

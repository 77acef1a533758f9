"""Who is dead, without trusting anybody's clock."""

from collections.abc import Iterable

from dtr.jobs.model import Claim, Job


class Watch:
    """Takes a job's runner for dead when its heartbeat stood still for `limit_seconds`.

    The time is measured by the watcher, from one look to the next: clocks of machines differ, and
    the heartbeat is only compared with itself. Of a pause between two looks no more than
    `gap_seconds` count, for who could not look, because the database was away, may be sure that
    the others could not write either.
    """

    def __init__(self, limit_seconds: float, gap_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._gap_seconds = gap_seconds
        self._looked_at: float | None = None
        self._still: dict[tuple[Claim, float | None], float] = {}

    def look(self, running: Iterable[Job], now: float) -> list[Job]:
        """Return those of the running jobs whose runner is dead; `now` is a monotonic clock's."""
        gap = 0.0 if self._looked_at is None else min(now - self._looked_at, self._gap_seconds)
        self._looked_at = now
        before, self._still = self._still, {}
        dead = []
        for job in running:
            seen = (job.claim, job.heartbeat_at)
            still = before[seen] + gap if seen in before else 0.0
            self._still[seen] = still
            if still >= self._limit_seconds:
                dead.append(job)
        return dead

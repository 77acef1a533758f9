"""Statements of the queue. Every unit may be retried after a commit whose answer was lost.

Who may run what is decided here alone. PostgreSQL keeps apart runners that claim at the same time
(SKIP LOCKED) and, by serializable transactions, those that would together exceed what may run at
once; SQLite has one writer at a time.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import and_, delete, func, insert, select, text, update

from dtr.database import Reader, Writer
from dtr.database.schema import job_logs, jobs
from dtr.jobs import schedules
from dtr.jobs.model import (
    Claim,
    Job,
    JobKind,
    Line,
    NewJob,
    Outcome,
    Report,
    State,
    Survey,
)

CHANNEL = "jobs"
"""Where runners are told that there may be something to do (`Writer.notify`)."""

# Spelled out, and not as parameters: only so does SQLite see that the partial indexes serve.
_WAITING = text("jobs.state = 'waiting'")
_RUNNING = text("jobs.state = 'running'")
_COLUMNS = (
    jobs.c.id,
    jobs.c.kind,
    jobs.c.parameters,
    jobs.c.state,
    jobs.c.schedule,
    jobs.c.created_at,
    jobs.c.run_at,
    jobs.c.started_at,
    jobs.c.finished_at,
    jobs.c.deadline_seconds,
    jobs.c.attempts,
    jobs.c.most_attempts,
    jobs.c.runner,
    jobs.c.heartbeat_at,
    jobs.c.is_cancel_requested,
    jobs.c.progress,
    jobs.c.error,
)


def enqueue(writer: Writer, new: NewJob, now: float) -> int:
    """Have a job run once, as soon as a runner has room; return its id."""
    known = writer.scalar(select(jobs.c.id).where(jobs.c.key == new.key))
    if known is not None:
        return int(known)
    added = writer.execute(insert(jobs).values(_values(new, now)).returning(jobs.c.id))
    writer.notify(CHANNEL)
    return int(added.scalar_one())


def enqueue_due(writer: Writer, kinds: Collection[JobKind], now: float) -> list[str]:
    """Enqueue the jobs of all schedules that are due; return the kinds.

    A kind that this version does not know is left to a runner that does.
    """
    known = {kind.name: kind for kind in kinds}
    due = schedules.take_due(writer, now, known)
    for schedule in due:
        new = NewJob(known[schedule.kind], schedule.parameters, schedule=schedule.name)
        enqueue(writer, new, now)
    return [schedule.kind for schedule in due]


def survey(reader: Reader, kinds: Collection[str]) -> Survey:
    """Return what there is to do for a runner that knows `kinds`."""
    waiting = {}
    for kind in kinds:
        first = reader.scalar(
            select(jobs.c.run_at)
            .where(_WAITING, jobs.c.kind == kind)
            .order_by(jobs.c.run_at)
            .limit(1)
        )
        if first is not None:
            waiting[kind] = float(first)
    return Survey(_running(reader), waiting, schedules.next_due(reader, kinds))


def claim(
    writer: Writer, kind: JobKind, runner: str, held: Collection[int], now: float
) -> Job | None:
    """Claim the job of `kind` that has been due longest; None if there is none or no room for it.

    `held` are the jobs that the runner knows it has: one that runs in its name and is not among
    them was claimed by an earlier try whose answer was lost, and is returned before any other.
    """
    running = _running(writer)
    for job in running:
        if job.runner == runner and job.id not in held:
            return job
    if sum(job.kind == kind.name for job in running) >= kind.most_at_once:
        return None
    found = writer.scalar(
        select(jobs.c.id)
        .where(_WAITING, jobs.c.kind == kind.name, jobs.c.run_at <= now)
        .order_by(jobs.c.run_at, jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if found is None:
        return None
    row = writer.execute(
        update(jobs)
        .where(jobs.c.id == found)
        .values(attempts=jobs.c.attempts + 1, progress="", error="", **_begun(runner, now))
        .returning(*_COLUMNS)
    ).one()
    return _job(row)


def begin(writer: Writer, new: NewJob, runner: str, now: float) -> Job | None:
    """Enqueue a job that its caller runs itself, and claim it; None where there is no room."""
    known = writer.execute(select(*_COLUMNS).where(jobs.c.key == new.key)).first()
    if known is not None:
        return _job(known)
    if sum(job.kind == new.kind.name for job in _running(writer)) >= new.kind.most_at_once:
        return None
    values = {**_values(new, now), **_begun(runner, now), "attempts": 1}
    return _job(writer.execute(insert(jobs).values(values).returning(*_COLUMNS)).one())


def report(writer: Writer, reports: Sequence[Report], now: float) -> set[int]:
    """Note that jobs are alive and what they say; return those whose claim is gone."""
    lost = set()
    for said in reports:
        values = {"heartbeat_at": now, "progress": said.progress}
        if writer.execute(update(jobs).where(_is_held(said.claim)).values(values)).rowcount:
            _add_lines(writer, said)
        else:
            lost.add(said.claim.job_id)
    return lost


def finish(writer: Writer, said: Report, outcome: Outcome, now: float, retry_at: float) -> bool:
    """End an attempt, and the job unless it is to be tried again at `retry_at`.

    Return False where the claim is gone; then nothing is changed.
    """
    job = _held(writer, said.claim)
    if job is None:
        found = find_job(writer, said.claim.job_id)
        return found is not None and found.claim == said.claim and found.state != State.RUNNING
    _add_lines(writer, said)
    writer.execute(update(jobs).where(jobs.c.id == job.id).values(progress=said.progress))
    if outcome.may_retry and job.attempts < job.most_attempts and not job.is_cancel_requested:
        _put_back(writer, job, retry_at, error=outcome.error)
    else:
        _end(writer, job, outcome, now)
    return True


def hand_back(writer: Writer, reports: Iterable[Report], now: float) -> None:
    """Let other runners have jobs that ran here; it costs them no attempt."""
    for said in reports:
        job = _held(writer, said.claim)
        if job is None:
            continue
        _add_lines(writer, said)
        if job.is_cancel_requested:
            _end(writer, job, Outcome(State.CANCELLED), now)
        else:
            # Attempts are never counted down: they tell one claim from the next.
            _put_back(writer, job, now, runner=None, most_attempts=job.most_attempts + 1)


def release(writer: Writer, dead: Iterable[Job], now: float) -> list[int]:
    """Take jobs from runners that are gone; return those which were still as they were seen."""
    released = []
    for seen in dead:
        job = _held(writer, seen.claim)
        if job is None or job.heartbeat_at != seen.heartbeat_at:
            continue
        released.append(job.id)
        error = f"its runner {job.runner} died"
        if job.is_cancel_requested:
            _end(writer, job, Outcome(State.CANCELLED), now)
        elif job.attempts >= job.most_attempts:
            _end(writer, job, Outcome(State.FAILED, error), now)
        else:
            _put_back(writer, job, now, runner=None, error=error)
    return released


def release_runner(writer: Writer, runner: str, now: float) -> list[int]:
    """Take its jobs from a runner that is certainly gone; return them."""
    return release(writer, [job for job in _running(writer) if job.runner == runner], now)


def cancel(writer: Writer, job_id: int, now: float) -> Job | None:
    """Cancel a job that waits, ask one that runs to stop; return how it then is, if there is one.

    A job that has ended stays as it is.
    """
    job = find_job(writer, job_id)
    if job is None or job.state.is_end:
        return job
    if job.state is State.WAITING:
        _end(writer, job, Outcome(State.CANCELLED), now)
    else:
        writer.execute(update(jobs).where(jobs.c.id == job_id).values(is_cancel_requested=True))
        writer.notify(CHANNEL)
    return find_job(writer, job_id)


def prune(writer: Writer, kinds: Iterable[str], *, before: float, keep: int) -> int:
    """Forget jobs that ended before a time, and all but the `keep` newest of each kind."""
    removed = 0
    for kind in kinds:
        ended = and_(jobs.c.kind == kind, jobs.c.finished_at.is_not(None))
        last = writer.scalar(
            select(jobs.c.finished_at)
            .where(ended)
            .order_by(jobs.c.finished_at.desc())
            .limit(1)
            .offset(keep)
        )
        until = before if last is None else max(before, float(last))
        removed += writer.execute(delete(jobs).where(ended, jobs.c.finished_at <= until)).rowcount
    return removed


def find_job(reader: Reader, job_id: int) -> Job | None:
    """Return a job, if it is known."""
    row = reader.execute(select(*_COLUMNS).where(jobs.c.id == job_id)).first()
    return _job(row) if row else None


def list_jobs(
    reader: Reader, *, kind: str | None = None, state: State | None = None, limit: int = 50
) -> list[Job]:
    """Return the newest jobs, newest first."""
    statement = select(*_COLUMNS).order_by(jobs.c.id.desc()).limit(limit)
    if kind is not None:
        statement = statement.where(jobs.c.kind == kind)
    if state is not None:
        statement = statement.where(jobs.c.state == str(state))
    return [_job(row) for row in reader.execute(statement)]


def running_jobs(reader: Reader, kind: str) -> list[Job]:
    """Return the jobs of a kind that run now."""
    return [job for job in _running(reader) if job.kind == kind]


def read_log(reader: Reader, job_id: int, *, after: int = 0, limit: int = 1000) -> list[Line]:
    """Return lines of a job's log, those after line number `after`."""
    columns = (job_logs.c.number, job_logs.c.at, job_logs.c.level, job_logs.c.message)
    rows = reader.execute(
        select(*columns)
        .where(job_logs.c.job_id == job_id, job_logs.c.number > after)
        .order_by(job_logs.c.number)
        .limit(limit)
    )
    return [Line(row.number, row.at, row.level, row.message) for row in rows]


def count_open(reader: Reader) -> dict[tuple[str, str], int]:
    """Return how many jobs there are of each kind and state that has not ended."""
    counts: dict[tuple[str, str], int] = {}
    for state, where in ((State.WAITING, _WAITING), (State.RUNNING, _RUNNING)):
        rows = reader.execute(
            select(jobs.c.kind, func.count().label("open")).where(where).group_by(jobs.c.kind)
        )
        counts.update({(row.kind, str(state)): int(row.open) for row in rows})
    return counts


def _running(reader: Reader) -> tuple[Job, ...]:
    # Sorted here: SQLite would rather walk the whole table by its key than use the index.
    rows = reader.execute(select(*_COLUMNS).where(_RUNNING))
    return tuple(sorted((_job(row) for row in rows), key=lambda job: job.id))


def _is_held(claim: Claim) -> Any:
    """Return the condition that nobody else has claimed the job since."""
    return and_(
        _RUNNING,
        jobs.c.id == claim.job_id,
        jobs.c.runner == claim.runner,
        jobs.c.attempts == claim.attempt,
    )


def _held(writer: Writer, claim: Claim) -> Job | None:
    row = writer.execute(select(*_COLUMNS).where(_is_held(claim)).with_for_update()).first()
    return _job(row) if row else None


def _put_back(writer: Writer, job: Job, run_at: float, **values: Any) -> None:
    """Have a running job wait again."""
    changed = {"state": str(State.WAITING), "run_at": run_at, "heartbeat_at": None, **values}
    writer.execute(update(jobs).where(jobs.c.id == job.id).values(changed))
    writer.notify(CHANNEL)


def _end(writer: Writer, job: Job, outcome: Outcome, now: float) -> None:
    values = {"state": str(outcome.state), "error": outcome.error, "finished_at": now}
    writer.execute(update(jobs).where(jobs.c.id == job.id).values(values))
    if job.schedule is not None:
        schedules.postpone(writer, job.schedule, now)
    writer.notify(CHANNEL)


def _add_lines(writer: Writer, said: Report) -> None:
    if not said.lines:
        return
    job_id = said.claim.job_id
    last = writer.scalar(select(func.max(job_logs.c.number)).where(job_logs.c.job_id == job_id))
    rows = [
        {"job_id": job_id, **line._asdict()}
        for line in said.lines
        if last is None or line.number > last
    ]
    if rows:
        writer.execute(insert(job_logs), rows)


def _values(new: NewJob, now: float) -> dict[str, Any]:
    return {
        "key": new.key,
        "kind": new.kind.name,
        "parameters": json.dumps(dict(new.parameters), sort_keys=True),
        "state": str(State.WAITING),
        "schedule": new.schedule,
        "created_at": now,
        "run_at": now if new.run_at is None else new.run_at,
        "deadline_seconds": new.kind.deadline_seconds,
        "attempts": 0,
        "most_attempts": new.most_attempts or new.kind.most_attempts,
        "is_cancel_requested": False,
        "progress": "",
        "error": "",
    }


def _begun(runner: str, now: float) -> dict[str, Any]:
    return {
        "state": str(State.RUNNING),
        "runner": runner,
        "started_at": now,
        "heartbeat_at": now,
    }


def _job(row: Any) -> Job:
    values = row._asdict()
    values |= {
        "parameters": json.loads(row.parameters),
        "state": State(row.state),
        "is_cancel_requested": bool(row.is_cancel_requested),
    }
    return Job(**values)

"""Statements about schedules: what is wanted, when it is due, and what comes after."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import and_, delete, exists, insert, select, text, update

from dtr.database import Reader, Writer
from dtr.database.schema import jobs, schedules
from dtr.jobs.model import Schedule
from dtr.model.timing import next_time, pause_seconds

# Spelled out, and not as a parameter: only so does SQLite see that the partial index serves.
_OPEN = text("jobs.state IN ('waiting', 'running')")
_HAS_NO_OPEN_JOB = ~exists().where(jobs.c.schedule == schedules.c.name, _OPEN)
_COLUMNS = (
    schedules.c.name,
    schedules.c.kind,
    schedules.c.timing,
    schedules.c.parameters,
    schedules.c.is_enabled,
    schedules.c.next_at,
)


def synchronise(
    writer: Writer, wanted: Iterable[Schedule], now: float, first: Mapping[str, float]
) -> list[str]:
    """Make the schedules those that this version and its settings want; return what changed.

    A new one is due at its time in `first`. Runners that want the same change nothing, and what
    only a newer version knows is left alone.
    """
    changed = []
    rows = writer.execute(select(*_COLUMNS))
    known = {row.name: (_schedule(row), float(row.next_at)) for row in rows}
    for schedule in wanted:
        found = known.get(schedule.name)
        values = _values(schedule)
        if found is None:
            next_at = first.get(schedule.name, now)
            writer.execute(insert(schedules).values(name=schedule.name, next_at=next_at, **values))
        else:
            next_at = _next_at(schedule, found[0], found[1], now)
            if (schedule, next_at) == found:
                continue
            writer.execute(
                update(schedules)
                .where(schedules.c.name == schedule.name)
                .values(next_at=next_at, **values)
            )
        changed.append(schedule.name)
    return changed


def list_schedules(reader: Reader) -> list[tuple[Schedule, float]]:
    """Return all schedules by name, each with the time at which it is due next."""
    rows = reader.execute(select(*_COLUMNS).order_by(schedules.c.name))
    return [(_schedule(row), float(row.next_at)) for row in rows]


def next_due(reader: Reader, kinds: Collection[str]) -> float | None:
    """Return when the next schedule of `kinds` is due that has no job open."""
    statement = (
        select(schedules.c.next_at).where(_can_be_due(kinds)).order_by(schedules.c.next_at).limit(1)
    )
    found = reader.scalar(statement)
    return None if found is None else float(found)


def take_due(writer: Writer, now: float, kinds: Collection[str]) -> list[Schedule]:
    """Return the schedules of `kinds` that are due and have no job open; set their next times.

    A schedule that another runner is at is left to that one. What was missed is made good once, not
    as often as it was missed.
    """
    rows = writer.execute(
        select(*_COLUMNS)
        .where(schedules.c.next_at <= now, _can_be_due(kinds))
        .order_by(schedules.c.next_at)
        .with_for_update(skip_locked=True)
    ).all()
    due = [_schedule(row) for row in rows]
    for schedule in due:
        _set_next(writer, schedule.name, next_time(schedule.timing, now))
    return due


def remove(writer: Writer, names: Collection[str]) -> None:
    """Forget schedules that nobody will ever run again, and take back what they have waiting."""
    writer.execute(delete(schedules).where(schedules.c.name.in_(sorted(names))))
    writer.execute(
        delete(jobs).where(jobs.c.schedule.in_(sorted(names)), jobs.c.state == "waiting")
    )


def postpone(writer: Writer, name: str, now: float) -> None:
    """Note that a schedule's job has ended now: a pause begins, a time that has passed is skipped.

    An hourly job that took 90 minutes runs again 30 minutes later, not at once.
    """
    row = writer.execute(
        select(schedules.c.timing, schedules.c.next_at).where(schedules.c.name == name)
    ).first()
    if row is not None and (pause_seconds(row.timing) is not None or row.next_at <= now):
        _set_next(writer, name, next_time(row.timing, now))


def _can_be_due(kinds: Collection[str]) -> Any:
    return and_(
        schedules.c.is_enabled.is_(True), schedules.c.kind.in_(list(kinds)), _HAS_NO_OPEN_JOB
    )


def _next_at(wanted: Schedule, known: Schedule, next_at: float, now: float) -> float:
    """Return when a schedule is due: as it was, unless its timing changed or a clock was wrong."""
    pause = pause_seconds(wanted.timing)
    if pause is not None:
        return min(next_at, now + pause)
    if wanted.timing != known.timing or (wanted.is_enabled and not known.is_enabled):
        return next_time(wanted.timing, now)
    return next_at


def _set_next(writer: Writer, name: str, next_at: float) -> None:
    writer.execute(update(schedules).where(schedules.c.name == name).values(next_at=next_at))


def _values(schedule: Schedule) -> dict[str, Any]:
    return {
        "kind": schedule.kind,
        "timing": schedule.timing,
        "parameters": json.dumps(dict(schedule.parameters), sort_keys=True),
        "is_enabled": schedule.is_enabled,
    }


def _schedule(row: Any) -> Schedule:
    return Schedule(
        row.name, row.kind, row.timing, json.loads(row.parameters), bool(row.is_enabled)
    )

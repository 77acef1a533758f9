"""`dtr jobs`."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, NoReturn

import typer

from dtr.cli.context import ConfigOption, DataDirOption, open_registry
from dtr.cli.output import echo, one_line
from dtr.cli.terminal import (
    JsonOption,
    fail,
    json_option,
    json_text,
    moment,
    show,
    show_json,
    time_of,
)
from dtr.database import Database
from dtr.jobs import Job, NewJob, State, records
from dtr.jobs.model import Line
from dtr.jobs.schedules import list_schedules
from dtr.server.background import KINDS

commands = typer.Typer(no_args_is_help=True, help="Background jobs: running, ended and scheduled.")

_POLL_SECONDS = 0.5
_PATIENCE_SECONDS = 5
_LINES = 1000


def _kinds() -> list[str]:
    return sorted(KINDS)


def _states() -> list[str]:
    return [str(state) for state in State]


Id = Annotated[int, typer.Argument(help="The job's number, as dtr jobs ls shows it.")]
Kind = Annotated[str, typer.Argument(help=f"One of {', '.join(_kinds())}.", autocompletion=_kinds)]


@commands.command("ls")
def list_jobs(
    kind: Annotated[
        str | None, typer.Option(help="Only jobs of this kind.", autocompletion=_kinds)
    ] = None,
    state: Annotated[
        State | None, typer.Option(help="Only jobs in this state.", autocompletion=_states)
    ] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of jobs.", min=1)] = 50,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """List jobs, newest first."""
    with open_registry(config, data_dir) as registry:
        found = registry.database.read_now(records.list_jobs, kind=kind, state=state, limit=limit)
    if as_json:
        show_json([asdict(job) for job in found])
        return
    columns = {
        "id": lambda job: job.id,
        "kind": lambda job: job.kind,
        "state": _state,
        "started": lambda job: moment(job.started_at),
        "seconds": _seconds,
        "outcome": _outcome,
    }
    show(found, columns, as_json=False, cut="outcome")


@commands.command("show")
def show_job(
    job_id: Id,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Show a job without its log."""
    with open_registry(config, data_dir) as registry:
        job = _find(registry.database, job_id)
    if as_json:
        show_json(asdict(job))
        return
    rows = [
        ("id", job.id),
        ("kind", job.kind),
        ("parameters", ", ".join(sorted(name for name, value in job.parameters.items() if value))),
        ("state", _state(job)),
        ("schedule", job.schedule or "by hand"),
        ("asked for", time_of(job.created_at)),
        ("started", time_of(job.started_at)),
        ("ended", time_of(job.finished_at)),
        ("seconds", _seconds(job)),
        ("attempts", f"{job.attempts} of {job.most_attempts}"),
        ("deadline", f"{job.deadline_seconds:g} s"),
        ("runner", job.runner),
        ("progress", job.progress),
        ("error", job.error),
    ]
    for name, value in rows:
        echo(f"{name:12}{one_line(str(value or '-'))}")


@commands.command("logs")
def show_log(
    job_id: Id,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show new lines until the job has ended.")
    ] = False,
    as_json: Annotated[bool, json_option("One JSON object a line.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the log of a job."""
    with open_registry(config, data_dir) as registry:
        _find(registry.database, job_id)
        is_empty = True
        for line in _lines(registry.database, job_id, follow=follow):
            is_empty = False
            _print_line(line, as_json=as_json)
        job = _find(registry.database, job_id)
    if is_empty and not as_json:
        outcome = f"Its result: {_ended(job)}." if job.state.is_end else f"It is {job.state}."
        echo(f"Job {job_id} has written nothing to its log. {outcome}")


@commands.command("cancel")
def cancel(job_id: Id, data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """Cancel a job: a waiting job at once, a running job within about a second."""
    with open_registry(config, data_dir) as registry:
        before = _find(registry.database, job_id)
        if before.state.is_end:
            fail(f"Job {job_id} has ended already: {before.state}. There is nothing to cancel.")
        job = registry.database.write_now(records.cancel, job_id, registry.database.clock())
    if job is None:
        _no_such(job_id)
    done = "is asked to stop" if job.state is State.RUNNING else f"is {job.state}"
    echo(f"Job {job_id} {done}.")


@commands.command("run")
def run(
    kind: Kind,
    repair: Annotated[
        bool, typer.Option("--repair", help="For fsck: repair what can be repaired.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="For fsck: read every blob.")] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Wait until the job has ended. Exit status 1 if it did not succeed."
        ),
    ] = False,
    as_json: Annotated[bool, json_option("Print the job as JSON; errors, too.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Add a job to the queue; a server of the registry runs it."""
    chosen = KINDS.get(kind)
    if chosen is None:
        fail(f"There is no kind of job called {kind!r}. Choose one of {', '.join(_kinds())}.")
    flags = {name for name, value in (("repair", repair), ("verify", verify)) if value}
    if flags - chosen.flags:
        fail(f"{kind} has no option --{' or --'.join(sorted(flags - chosen.flags))}.")
    new = NewJob(chosen, dict.fromkeys(sorted(flags), True))
    with open_registry(config, data_dir) as registry:
        job_id = registry.database.write_now(records.enqueue, new, registry.database.clock())
        look = partial(_wait, quiet=as_json) if wait else _find
        job = look(registry.database, job_id)
    if as_json:
        show_json(asdict(job))
    if wait and job.state is not State.SUCCEEDED:
        fail(f"job {job_id} {_ended(job)}")
    if not as_json:
        hint = f"waits for a runner; dtr jobs logs {job_id} --follow shows it"
        echo(f"Job {job_id} {_ended(job) if wait else hint}.")


@commands.command("schedules")
def show_schedules(
    as_json: JsonOption = False, data_dir: DataDirOption = None, config: ConfigOption = None
) -> None:
    """List the schedules, and when each runs next."""
    with open_registry(config, data_dir) as registry:
        found = registry.database.read_now(list_schedules)
    columns: dict[str, Any] = {
        "name": lambda each: each[0].name,
        "kind": lambda each: each[0].kind,
        "timing": lambda each: each[0].timing,
        "enabled": lambda each: each[0].is_enabled,
        "next": lambda each: moment(each[1]) if each[0].is_enabled else None,
    }
    show(found, columns, as_json=as_json)


def _find(database: Database, job_id: int) -> Job:
    job = database.read_now(records.find_job, job_id)
    return job if job is not None else _no_such(job_id)


def _no_such(job_id: int) -> NoReturn:
    fail(f"There is no job {job_id}. See dtr jobs ls for the jobs that are kept.")


def _lines(database: Database, job_id: int, *, follow: bool) -> Iterator[Line]:
    """Yield a log's lines; with `follow` as they are written, until the job has ended."""
    after = 0
    while True:
        has_ended = not follow or _find(database, job_id).state.is_end
        while page := database.read_now(records.read_log, job_id, after=after, limit=_LINES):
            yield from page
            after = page[-1].number
        if has_ended:
            return
        time.sleep(_POLL_SECONDS)


def _wait(database: Database, job_id: int, *, quiet: bool) -> Job:
    """Show what a job says until it has ended; return it."""
    obstacle_at, after, said = time.monotonic() + _PATIENCE_SECONDS, 0, ""
    while True:
        job = _find(database, job_id)
        for line in database.read_now(records.read_log, job_id, after=after, limit=_LINES):
            after = line.number
            if not quiet:
                _print_line(line, as_json=False)
        if job.progress not in {"", said}:
            said = job.progress
            echo(f"{job.kind}: {said}", err=True)
        if job.state.is_end:
            return job
        if job.attempts == 0 and time.monotonic() > obstacle_at:
            obstacle_at = float("inf")
            echo(f"Job {job_id} still waits. {_obstacle(database, job)}", err=True)
        time.sleep(_POLL_SECONDS)


def _obstacle(database: Database, job: Job) -> str:
    running = database.read_now(records.running_jobs, job.kind)
    if running:
        return f"Job {running[0].id}, which is of the same kind, runs on {running[0].runner}."
    return "Is a server of this registry running, with a free slot for jobs?"


def _print_line(line: Line, *, as_json: bool) -> None:
    if as_json:
        echo(json_text(line._asdict()))
    else:
        echo(f"{time_of(line.at)} {line.level:7} {one_line(line.message)}")


def _state(job: Job) -> str:
    if job.state is State.RUNNING and job.is_cancel_requested:
        return "stopping"
    return str(job.state)


def _seconds(job: Job) -> str | None:
    if job.started_at is None or job.state is State.WAITING:
        return None
    until = job.finished_at or job.heartbeat_at or job.started_at
    return f"{max(0.0, until - job.started_at):.1f}"


def _ended(job: Job) -> str:
    return ": ".join(filter(None, (str(job.state), _outcome(job))))


def _outcome(job: Job) -> str:
    return job.error or job.progress

"""`dtr jobs`, and the jobs that `dtr gc` and `dtr fsck` are, without a server."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from tests.cli.command import CommandLine, QuickCommandLine, clean_environment
from tests.support.server import DTR
from typer.testing import CliRunner

from dtr.cli.application import application
from dtr.database import Database, open_database
from dtr.jobs import NewJob, records
from dtr.jobs.model import Line, Outcome, Report, State
from dtr.server.background import COLLECT, FSCK


@pytest.fixture
def database(dtr: CommandLine) -> Iterator[Database]:
    """Give the metadata that the command line works on."""
    database = open_database(dtr.data_dir / "dtr.db")
    yield database
    database.close()


def begin(database: Database, new: NewJob) -> Report:
    """Have somebody's runner begin a job; return what it would report."""
    job = database.write_now(records.begin, new, "elsewhere:1:x", time.time())
    assert job is not None
    return Report(job.claim, "half is done", (Line(10_001, 1.7e9, "info", "found something"),))


def finish(database: Database, said: Report, outcome: Outcome) -> None:
    """Have that runner end it."""
    assert database.write_now(records.finish, said, outcome, time.time(), time.time())


def test_a_job_is_asked_for_and_seen(quick: QuickCommandLine) -> None:
    """By its number, with what was asked for."""
    asked = quick.good("jobs", "run", "fsck", "--repair", "--json").json
    assert (asked["kind"], asked["state"]) == ("fsck", "waiting")
    assert asked["parameters"] == {"repair": True}
    assert "waits for a runner" in quick.good("jobs", "run", "collect").out
    listed = quick.good("jobs", "ls", "--json").json
    assert [job["kind"] for job in listed] == ["collect", "fsck"]
    assert "fsck" in quick.good("jobs", "ls").out
    assert len(quick.good("jobs", "ls", "--kind", "fsck", "--json").json) == 1
    assert quick.good("jobs", "ls", "--state", "running", "--json").json == []
    assert len(quick.good("jobs", "ls", "--limit", "1", "--json").json) == 1
    shown = quick.good("jobs", "show", str(asked["id"])).out
    assert "repair" in shown
    assert quick.good("jobs", "show", str(asked["id"]), "--json").json == asked


def test_an_unknown_kind_names_the_known_ones(quick: QuickCommandLine) -> None:
    """And an option that a kind does not have is refused."""
    message = quick.fails("jobs", "run", "defragment")
    assert "collect" in message
    assert "fsck" in message
    assert "--repair" in quick.fails("jobs", "run", "collect", "--repair")
    assert quick.good("jobs", "ls", "--json").json == []


@pytest.mark.parametrize("words", [("show", "7"), ("logs", "7"), ("cancel", "7")])
def test_a_job_that_is_not_there_is_an_error(
    quick: QuickCommandLine, words: tuple[str, ...]
) -> None:
    """In a sentence."""
    assert quick.fails("jobs", *words).startswith("There is no job 7")


def test_a_waiting_job_is_cancelled(quick: QuickCommandLine) -> None:
    """Once; then it has ended."""
    job_id = str(quick.good("jobs", "run", "collect", "--json").json["id"])
    assert "is cancelled" in quick.good("jobs", "cancel", job_id).out
    assert "has ended already" in quick.fails("jobs", "cancel", job_id)


def test_a_running_job_is_asked_to_stop(quick: QuickCommandLine, database: Database) -> None:
    """And the list says so until its runner has seen it."""
    said = begin(database, NewJob(COLLECT))
    assert "asked to stop" in quick.good("jobs", "cancel", str(said.claim.job_id)).out
    assert "stopping" in quick.good("jobs", "ls").out


def test_a_log_is_read_and_followed(quick: QuickCommandLine, database: Database) -> None:
    """To the job's end, for people and for programs."""
    said = begin(database, NewJob(COLLECT))
    job_id = str(said.claim.job_id)
    empty = quick.good("jobs", "logs", job_id).out
    assert empty == f"Job {job_id} has written nothing to its log. It is running.\n"
    finish(database, said, Outcome(State.SUCCEEDED))
    assert "found something" in quick.good("jobs", "logs", job_id, "--follow").out
    lines = quick.good("jobs", "logs", job_id, "--json").out.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["found something"]


def test_a_collection_and_a_check_by_hand_are_jobs(quick: QuickCommandLine) -> None:
    """They run here, and are seen as any other."""
    assert "Collected 0 manifests" in quick.good("gc").out
    assert quick.good("gc", "--json").json["blobs"] == 0
    assert quick.good("fsck", "--json").json == []
    assert "No problems found." in quick.good("fsck", "--verify").out
    listed = quick.good("jobs", "ls", "--json").json
    assert [job["kind"] for job in listed] == ["fsck", "fsck", "collect", "collect"]
    assert {job["state"] for job in listed} == {"succeeded"}
    assert {job["most_attempts"] for job in listed} == {1}


def test_the_log_of_a_job_that_wrote_none_says_how_it_ended(quick: QuickCommandLine) -> None:
    """Silence would look like a mistake."""
    quick.good("gc")
    job_id = str(quick.good("jobs", "ls", "--json").json[0]["id"])
    shown = quick.good("jobs", "logs", job_id).out
    assert "has written nothing to its log. Its result: succeeded: collected 0" in shown
    assert quick.good("jobs", "logs", job_id, "--json").out == ""


@pytest.mark.server
def test_a_list_of_jobs_fits_a_terminal_of_80_columns(dtr: CommandLine) -> None:
    """A line for each job, with its outcome cut; NO_COLOR leaves no escape, bold included."""
    dtr.good("gc")
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = clean_environment({"TERM": "xterm"})
    environment.pop("COLUMNS")
    with os.fdopen(leader, "rb") as screen:
        done = subprocess.run(
            [*DTR, "jobs", "ls", "--data-dir", dtr.data_dir],
            stdout=follower,
            check=False,
            env=environment,
            timeout=60,
        )
        lines = os.read(screen.fileno(), 10_000).decode().splitlines()
        os.close(follower)
    assert done.returncode == 0
    assert len(lines) == 2, lines
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in "".join(lines)
    assert lines[1].rstrip().endswith("…")


def test_times_are_as_rfc_3339_has_them(quick: QuickCommandLine) -> None:
    """In every list that has some."""
    job = quick.good("jobs", "run", "collect", "--json").json
    parsed = datetime.fromisoformat(job["created_at"])
    assert job["created_at"].endswith("Z")
    assert abs(parsed.timestamp() - time.time()) < 600
    for listed in (quick.good("jobs", "ls", "--json"), quick.good("jobs", "schedules", "--json")):
        assert all(key == key.replace(" ", "_").lower() for row in listed.json for key in row)


def test_a_dry_run_is_not_a_job(quick: QuickCommandLine, database: Database) -> None:
    """It changes nothing, and waits for nobody."""
    begin(database, NewJob(COLLECT))
    assert "Would collect" in quick.good("gc", "--dry-run").out


def test_a_check_by_hand_waits_for_the_one_that_runs(dtr: CommandLine, database: Database) -> None:
    """And takes the place of one whose runner is dead."""
    said = begin(database, NewJob(FSCK, most_attempts=1))
    ended = dtr.run("fsck", environment={"DTR_JOBS__HEARTBEAT_LIMIT_SECONDS": "1"})
    assert ended.status == 0, ended
    assert f"Waiting for job {said.claim.job_id}, fsck, which runs on elsewhere:1:x" in ended.err
    job = database.read_now(records.find_job, said.claim.job_id)
    assert job is not None
    assert (job.state, job.error) == (State.FAILED, "its runner elsewhere:1:x died")


def test_schedules_are_listed(quick: QuickCommandLine) -> None:
    """There are none before the first start of a runner."""
    assert quick.good("jobs", "schedules", "--json").json == []


def test_kinds_are_completed() -> None:
    """By the shell."""
    environment = {
        "_DTR_COMPLETE": "complete_bash",
        "COMP_WORDS": "dtr jobs run ro",
        "COMP_CWORD": "3",
        "_TYPER_COMPLETE_ARGS": "dtr jobs run ro",
    }
    done = CliRunner().invoke(application, [], env=clean_environment(environment), prog_name="dtr")
    assert done.stdout.split() == ["rotate-key"]

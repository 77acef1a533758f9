"""Work that is not a request: a durable queue, schedules, and who runs them (docs/jobs.md)."""

from dtr.jobs.execution import Body, JobContext
from dtr.jobs.model import Job, JobFailedError, JobKind, NewJob, Schedule, State
from dtr.jobs.runner import Runner, RunnerSettings, runner_name
from dtr.model.timing import check_timing, every

__all__ = [
    "Body",
    "Job",
    "JobContext",
    "JobFailedError",
    "JobKind",
    "NewJob",
    "Runner",
    "RunnerSettings",
    "Schedule",
    "State",
    "check_timing",
    "every",
    "runner_name",
]

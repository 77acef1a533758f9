"""Work that is not a request: schedules, and who runs them."""

from dtr.jobs.runner import Job, JobRunner

__all__ = ["Job", "JobRunner"]

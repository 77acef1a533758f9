"""The queue keeps its promises in whatever order things befall it.

`TEST_JOBS_EXAMPLES` says how many orders are tried (10 unless told).
"""

import os

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.jobs.machine import Queue

from dtr.database import Database

EXAMPLES = int(os.environ.get("TEST_JOBS_EXAMPLES", "10"))


def test_any_order_of_runners_crashes_and_lost_answers(database: Database) -> None:
    """No attempt is run twice, no end changes, no limit is exceeded, and nothing is forgotten."""
    machine = type("QueueOnEngine", (Queue,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

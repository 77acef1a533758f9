"""Whatever clients, collectors, time and crashes do in whatever order, nothing owed is lost.

`TEST_RACES_EXAMPLES` says how many histories are tried (20 unless told).
"""

import os

from hypothesis import HealthCheck, settings
from tests.races.machine import Registry

EXAMPLES = int(os.environ.get("TEST_RACES_EXAMPLES", "20"))

TestRegistry = Registry.TestCase
TestRegistry.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

"""The long run, for a short while."""

import os
import random
from pathlib import Path

from tests.races.long_run import LongRun

SECONDS = float(os.environ.get("TEST_RACES_SECONDS", "10"))


def test_everything_at_once(tmp_path: Path) -> None:
    """Clients, instances, collectors and checks in real time: nothing acknowledged is lost."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    run = LongRun(tmp_path, seed)
    run.run(SECONDS)
    print(run.report())
    assert run.counts["manifests"] > 10
    assert run.counts["checks"] > 0
    assert run.counts["pushes"] > 0

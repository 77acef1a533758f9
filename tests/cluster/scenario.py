"""One scenario: what happens to a cluster under load, and what must hold all the while."""

import os
from dataclasses import dataclass

from tests.cluster.cluster import RunningCluster
from tests.cluster.report import Row
from tests.cluster.strikes import Strike
from tests.cluster.watch import Watch

IS_LONG = os.environ.get("TEST_OUTAGES") == "all"
"""Whether this is `make outages`: all scenarios, on a machine that does nothing else."""
NOTHING = 2.5
"""Seconds without an answer that are none: all of a cluster on 2 cores is now and then as slow."""
MACHINE_LOST = 35.0
"""Seconds without a primary, at most, when its machine is gone: its lock's 20, which begin anew
when etcd's leader was there, too, with etcd's election before and Patroni's after them."""
STALE_READ = 7.0
"""Seconds until a replica answers by what a standby knows: a request that was under way at the
primary when that vanished is given up after 4 s, and asked again elsewhere."""
PATIENCE = 10.0
"""Seconds that a reader waits where it is asked whether it is served, and not how soon."""


@dataclass(frozen=True)
class Scenario:
    """What happens, and what must hold."""

    name: str
    strike: Strike
    write_gap: float
    """How many seconds may pass without a commit, at most."""
    keeps_majority: bool = True
    """Whether pushes must succeed all the while, and pulls of what was pushed a moment ago: with a
    majority gone, the copies that acknowledged it may be gone for as long.
    """
    read_gap: float = STALE_READ if IS_LONG else PATIENCE
    """How many seconds a replica that was not struck may be silent."""
    is_short: bool = False

    def broken_promises(self, cluster: RunningCluster, seed: int) -> list[str]:
        """Strike under load, wait until all is well again, and say what did not hold.

        A push or pull whose connection the strike broke where docker tries only once may fail;
        docker's user repeats it, and then it must succeed. Each replica that is not struck must
        answer all the while what it has a copy of, majority or not.
        """
        with Watch(cluster, seed) as watch:
            struck = self.strike(cluster)
            healed_seconds = watch.until_over()
        lost = watch.lost()
        survivors = [name for name in watch.readers if name not in struck]
        Row(self.name, watch, survivors, healed_seconds, len(lost)).write()

        broken = [f"lost: {what}" for what in lost] + watch.history.second_primaries()
        if self.keeps_majority:
            broken += watch.load.failed_again
        for name in survivors:
            broken += watch.readers[name].reads.failures(watch.struck_at, watch.over_at)
        for what, gap, most in (
            ("reads", watch.read_gap(survivors), self.read_gap),
            ("writes", watch.write_gap, self.write_gap),
        ):
            if gap > most:
                broken.append(f"{what} stopped for {gap:.1f} s, and {most:g} s at most are allowed")
        return broken

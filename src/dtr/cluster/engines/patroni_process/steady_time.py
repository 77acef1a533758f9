"""Lets Patroni count seconds as they pass, whatever happens to the machine's clock.

Patroni 4.1 asks for the time of day where it means how much time has passed: until its next look,
since it renewed its lock, until what it knows of the cluster is too old. Where the clock is set
back by an hour, a primary would not renew its lock for an hour, and who lost it would not look.
"""

import time


def count_seconds() -> None:
    """Have `time.time` of this process begin with the time of day, and run evenly from there."""
    offset = time.time() - time.monotonic()
    time.time = lambda: time.monotonic() + offset

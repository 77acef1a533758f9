"""A registry may grow without its requests growing dearer (design 12), at a size that CI can fill.

`python -m benchmarks.scale --measure` does the same at full size; `docs/scale.md` has the figures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.scale.collection import measure_collection
from benchmarks.scale.fill import fill
from benchmarks.scale.measure import WORKS, Cost, Work, measure
from benchmarks.scale.sizes import Scale
from tests.support.postgresql import RunningPostgresql, temporary_database

pytestmark = [pytest.mark.postgresql, pytest.mark.server, pytest.mark.measuring]

LEAST = replace(Scale().divided(1000), repositories=200)
MORE = Scale().divided(50)
MOST_TIMES = 2.5
"""The budget is 1.5, where the machine has nothing else to do."""
TRIES = 3


@pytest.fixture(scope="module")
def larger_url(postgresql: RunningPostgresql) -> Iterator[str]:
    """Give a registry of 20,000 manifests and 100,000 tags."""
    with temporary_database(postgresql) as url:
        fill(url, MORE, lambda _line: None)
        yield url


def test_requests_cost_the_same_in_a_larger_registry(
    larger_url: str, postgresql_url: str, tmp_path: Path
) -> None:
    """Processor time stays, and pages keep within their milliseconds.

    A second of measuring meets what PostgreSQL does beside it: checkpoints, the vacuum after the
    filling. What was too dear is measured again, and only what stays so has grown.
    """
    fill(postgresql_url, LEAST, lambda _line: None)
    dear: Sequence[Work] = WORKS
    for number in range(TRIES):
        small = measure(postgresql_url, tmp_path / f"small-{number}", 1.0, dear)
        large = measure(larger_url, tmp_path / f"large-{number}", 1.0, dear)
        dear = [work for work in dear if is_dearer(work, small[work.key], large[work.key])]
        if not dear:
            return
    raise AssertionError([(work.title, small[work.key], large[work.key]) for work in dear])


def is_dearer(work: Work, small: Cost, large: Cost) -> bool:
    """Tell whether a larger registry makes this work dearer than it may."""
    return large.cpu > MOST_TIMES * small.cpu or (
        work.limit_ms is not None and large.p50 > work.limit_ms
    )


def test_requests_are_answered_while_much_is_collected(larger_url: str, tmp_path: Path) -> None:
    """A collection takes all that is dead, and no GET fails or waits for it to end."""
    found = measure_collection(larger_url, tmp_path, 2000, per_second=100, seconds=2)
    print(found)
    assert found.during.requests >= 0.9 * found.seconds * found.per_second
    assert found.during.slowest < 1000

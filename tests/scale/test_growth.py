"""A registry may grow without its requests growing dearer (design 12), at a size that CI can fill.

`python -m benchmarks.scale --measure` does the same at full size; `docs/scale.md` has the figures.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.scale.collection import measure_collection
from benchmarks.scale.fill import fill
from benchmarks.scale.measure import WORKS, measure
from benchmarks.scale.sizes import Scale
from tests.support.postgresql import RunningPostgresql, temporary_database

pytestmark = [pytest.mark.postgresql, pytest.mark.server]

LEAST = replace(Scale().divided(1000), repositories=200)
MORE = Scale().divided(50)
MOST_TIMES = 2.5
"""The budget is 1.5, where the machine has nothing else to do."""


@pytest.fixture(scope="module")
def larger_url(postgresql: RunningPostgresql) -> Iterator[str]:
    """Give a registry of 20,000 manifests and 100,000 tags."""
    with temporary_database(postgresql) as url:
        fill(url, MORE, lambda _line: None)
        yield url


def test_requests_cost_the_same_in_a_larger_registry(
    larger_url: str, postgresql_url: str, tmp_path: Path
) -> None:
    """Processor time stays, and pages keep within their milliseconds."""
    fill(postgresql_url, LEAST, lambda _line: None)
    small = measure(postgresql_url, tmp_path / "small", 1.0)
    large = measure(larger_url, tmp_path / "large", 1.0)
    for work in WORKS:
        assert large[work.key].cpu <= MOST_TIMES * small[work.key].cpu, work.title
        if work.limit_ms is not None:
            assert large[work.key].p50 <= work.limit_ms, work.title


def test_requests_are_answered_while_much_is_collected(larger_url: str, tmp_path: Path) -> None:
    """A collection takes all that is dead, and no GET fails or waits for it to end."""
    found = measure_collection(larger_url, tmp_path, 2000, per_second=100, seconds=2)
    print(found)
    assert found.during.requests >= 0.9 * found.seconds * found.per_second
    assert found.during.slowest < 1000

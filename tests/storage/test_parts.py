"""How large objects are cut, by arithmetic alone."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dtr.storage.parts import (
    LARGEST_PART_BYTES,
    MIB,
    MOST_PARTS,
    SMALL_BYTES,
    part_bytes,
    parts_in_flight,
    ranges_to_copy,
)

LARGEST_OBJECT = 5 << 40
SMALLEST_PART = 5 * MIB


def test_the_largest_object_fits() -> None:
    """Ten thousand parts hold the 5 TiB that S3 takes."""
    assert sum(map(part_bytes, range(1, MOST_PARTS + 1))) >= LARGEST_OBJECT


def test_the_first_parts_are_equal() -> None:
    """Blobs of common sizes are cut evenly, for servers that insist on it."""
    assert {part_bytes(number) for number in range(1, 1001)} == {SMALL_BYTES}


@given(st.integers(1, MOST_PARTS - 1))
def test_parts_grow_within_the_limits(number: int) -> None:
    """No part is too small or too large for S3, and none smaller than the one before."""
    size = part_bytes(number)
    assert SMALLEST_PART <= size <= part_bytes(number + 1) <= LARGEST_PART_BYTES
    assert part_bytes(number + 1) - size <= MIB


@given(st.integers(1, MOST_PARTS))
def test_what_is_under_way_is_bounded(number: int) -> None:
    """Three parts where they are small, one where they are large, never none."""
    size = part_bytes(number)
    count = parts_in_flight(size)
    assert 1 <= count <= 3
    assert count == 1 or count * size <= 64 * MIB


@given(st.integers(SMALL_BYTES, LARGEST_OBJECT))
def test_copied_ranges_are_whole_and_acceptable(size: int) -> None:
    """They follow one another, cover everything, and none is too small for a part."""
    ranges = ranges_to_copy(size)
    assert (ranges[0][0], ranges[-1][1]) == (0, size)
    assert all(before[1] == after[0] for before, after in pairwise(ranges))
    assert all(SMALLEST_PART <= stop - start <= LARGEST_PART_BYTES for start, stop in ranges)
    assert len(ranges) <= MOST_PARTS

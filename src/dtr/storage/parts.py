"""How large the parts of a large object are."""

MIB = 1 << 20
SMALL_BYTES = 8 * MIB
"""What an upload gathers before it sends anything; S3 takes no part below 5 MiB but the last."""
MOST_PARTS = 10_000
LARGEST_PART_BYTES = 5 << 30
"""S3's limits: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""
_EQUAL_PARTS = 1000
_PARTS_PER_STEP = 7
_IN_FLIGHT = 3
_IN_FLIGHT_BYTES = 64 * MIB
_COPIED_BYTES = 1 << 30


def part_bytes(number: int) -> int:
    """Return the size of part `number`, from 1 on.

    Whoever begins an upload does not know its size. The first 8 GiB go in parts of 8 MiB; then
    every seventh part is a mebibyte larger, so that S3's 10,000 parts hold its largest object.

    >>> part_bytes(1) == part_bytes(1000) == 8 * MIB, part_bytes(10_000) // MIB
    (True, 1294)
    """
    return SMALL_BYTES + MIB * (max(0, number - _EQUAL_PARTS + _PARTS_PER_STEP - 1) // 7)


def parts_in_flight(size: int) -> int:
    """Return how many parts of this size may be on their way at once, as far as memory goes."""
    return max(1, min(_IN_FLIGHT, _IN_FLIGHT_BYTES // size))


def ranges_to_copy(size: int) -> list[tuple[int, int]]:
    """Return starts and stops that cut an object into parts as equal as can be, of 1 GiB at most.

    >>> ranges_to_copy(10)
    [(0, 10)]
    """
    count = max(1, -(-size // _COPIED_BYTES))
    return [(size * n // count, size * (n + 1) // count) for n in range(count)]

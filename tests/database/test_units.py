"""Units of work on every engine: all or nothing, as if alone, on one snapshot."""

import asyncio
import threading

import pytest
from sqlalchemy import delete
from sqlalchemy.exc import DBAPIError
from tests.database.conftest import OpenMetadata
from tests.database.settings_table import (
    RefusedError,
    count,
    increment,
    keys,
    leave_unless_last,
    put,
    put_and_fail,
    put_first,
    put_twice,
    value_of,
)

from dtr.database import Database, EngineName, Reader, Writer
from dtr.database.proof import prove
from dtr.database.schema import settings
from dtr.model.errors import RegistryError


async def test_a_unit_is_all_or_nothing(metadata: Database) -> None:
    """A unit that raises has done nothing, and its error arrives as it is."""
    with pytest.raises(RefusedError):
        await metadata.write(put_and_fail, "one")
    with pytest.raises(RefusedError):
        metadata.write_now(put_and_fail, "two")
    assert metadata.read_now(keys) == []


async def test_units_that_share_a_commit_do_not_share_a_fate(metadata: Database) -> None:
    """Of many at once, those that fail are undone alone, whoever's error it is."""
    outcomes = await asyncio.gather(
        *(metadata.write(put, f"good {number:02}") for number in range(20)),
        *(metadata.write(put_and_fail, f"refused {number}") for number in range(5)),
        *(metadata.write_soon(put, f"soon {number}") for number in range(5)),
        *(metadata.write(put_twice, f"twice {number}") for number in range(2)),
        return_exceptions=True,
    )
    assert outcomes[:20] == [f"good {number:02}" for number in range(20)]
    assert {type(outcome) for outcome in outcomes[20:25]} == {RefusedError}
    assert outcomes[25:30] == [f"soon {number}" for number in range(5)]
    assert all(isinstance(outcome, RegistryError) for outcome in outcomes[30:])
    assert await metadata.read(count) == 25


async def test_a_caller_that_goes_away_takes_nobody_along(metadata: Database) -> None:
    """A cancelled request's unit runs or not; those beside and after it do."""
    tasks = [asyncio.create_task(_put(metadata, f"{number:02}")) for number in range(30)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await metadata.write(put, "last") == "last"
    found = set(await metadata.read(keys))
    assert {f"{number:02}" for number in range(30) if number % 3} <= found


async def _put(metadata: Database, key: str) -> str:
    return await metadata.write(put, key)


async def test_closing_finishes_what_is_queued(open_metadata: OpenMetadata) -> None:
    """Nothing that was accepted is dropped at the end, unless it says so."""
    metadata = open_metadata()
    tasks = [asyncio.create_task(_put(metadata, str(number))) for number in range(50)]
    await asyncio.sleep(0)
    await asyncio.to_thread(metadata.close)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, str | RegistryError) for outcome in outcomes)
    written = [outcome for outcome in outcomes if isinstance(outcome, str)]
    assert open_metadata().read_now(keys) == sorted(written)
    if metadata.name is EngineName.SQLITE:
        assert len(written) == 50


async def test_a_reader_has_one_snapshot(metadata: Database) -> None:
    """What is committed while it reads is not there for it, and is for the next."""

    def twice(reader: Reader) -> tuple[int, int]:
        before = count(reader)
        writing = threading.Thread(target=metadata.write_now, args=(put, "meanwhile"))
        writing.start()
        writing.join()
        return before, count(reader)

    assert await metadata.read(twice) == (0, 0)
    assert await metadata.read(count) == 1
    assert metadata.read_now(count) == 1


def test_driver_errors_are_not_seen_outside(metadata: Database) -> None:
    """A unit that the schema refuses ends in the registry's own words."""
    with pytest.raises(RegistryError) as caught:
        metadata.write_now(put_twice, "k")
    assert isinstance(caught.value.__cause__, DBAPIError)
    assert metadata.read_now(count) == 0


async def test_what_processes_count_adds_up(open_metadata: OpenMetadata) -> None:
    """Two of them read, add and write the same row at the same time; no count is lost."""
    both = [open_metadata(), open_metadata()]
    await both[0].write(put, "counter", "0")
    counted = await asyncio.gather(
        *(metadata.write(increment, "counter") for _ in range(20) for metadata in both)
    )
    assert sorted(counted) == list(range(1, 41))
    assert await both[1].read(value_of, "counter") == 40


async def test_of_many_that_look_before_they_insert_one_is_first(
    open_metadata: OpenMetadata,
) -> None:
    """Nobody is refused: who was not first finds the row when it looks again."""
    both = [open_metadata(), open_metadata()]
    for key in ("a", "b", "c", "d", "e"):
        first = await asyncio.gather(
            *(metadata.write(put_first, key, "") for _ in range(6) for metadata in both)
        )
        assert sorted(first) == [False] * 11 + [True]
    assert await both[0].read(count) == 5


async def test_two_do_not_decide_on_the_same_snapshot(open_metadata: OpenMetadata) -> None:
    """Each would leave only while another stays: without serialization both would leave."""
    both = [open_metadata(), open_metadata()]
    for turn in range(8):
        names = [f"{turn} a", f"{turn} b"]
        for name in names:
            await both[0].write(put, name)
        left = await asyncio.gather(
            *(
                metadata.write(leave_unless_last, name)
                for metadata, name in zip(both, names, strict=True)
            )
        )
        remaining = await both[0].read(keys)
        assert sorted(left) == [False, True]
        assert len(remaining) == 1
        await both[0].write(_clear)


def _clear(writer: Writer) -> None:
    writer.execute(delete(settings))


async def test_a_listener_looks_within_the_poll(open_metadata: OpenMetadata) -> None:
    """A change by another process is seen in time, whether or not the engine gives notice."""
    here, elsewhere = open_metadata(), open_metadata()
    changes = here.changes("things", poll_seconds=0.5)
    async with asyncio.timeout(10):
        await anext(changes)
        await elsewhere.write(_put_and_tell, "k", "things")
        while "k" not in await here.read(keys):
            await anext(changes)


def _put_and_tell(writer: Writer, key: str, channel: str) -> None:
    put(writer, key)
    writer.notify(channel)


def test_a_start_proves_that_it_can_write_and_read(metadata: Database) -> None:
    """And leaves nothing behind."""
    metadata.wait_until_there(seconds=1)
    prove(metadata)
    assert metadata.read_now(count) == 0

"""Point queries on every engine: what they give back, many at once, whoever goes away."""

import asyncio
import math
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import bindparam, func, insert, select
from tests.database.settings_table import put

from dtr.database import Database, Lookup, Writer
from dtr.database.schema import accounts, jobs, manifests, repositories, settings

VALUE = Lookup(select(settings.c.value).where(settings.c.key == bindparam("key")))
KEY = Lookup(select(settings.c.key).where(settings.c.value == bindparam("value")))
PAGE = Lookup(
    select(settings.c.key, settings.c.value)
    .where(settings.c.key > bindparam("last"))
    .order_by(settings.c.key)
    .limit(bindparam("count"))
)
ACCOUNT = Lookup(
    select(
        accounts.c.name,
        accounts.c.password_hash,
        accounts.c.is_admin,
        accounts.c.epoch,
        accounts.c.created_at,
    ).where(accounts.c.id == bindparam("id"))
)
PAYLOAD = Lookup(select(manifests.c.payload).where(manifests.c.id == bindparam("id")))
MANY = 300


async def put_all(metadata: Database, values: dict[str, str]) -> None:
    """Insert rows in one unit."""

    def unit(writer: Writer) -> None:
        for key, value in values.items():
            put(writer, key, value)

    await metadata.write(unit)


def add(writer: Writer, table: Any, /, **values: Any) -> int:
    """Insert a row; return its id."""
    return int(writer.execute(insert(table).values(values).returning(table.c.id)).scalar_one())


def add_account(writer: Writer, /, name: str = "user", **values: Any) -> int:
    """Insert an account; return its id."""
    given = {"is_admin": False, "is_active": True, "epoch": 1, "created_at": 0.0, **values}
    return add(writer, accounts, name=name, kind="user", **given)


def add_manifest(writer: Writer, payload: bytes) -> int:
    """Insert a manifest; return its id."""
    account = add_account(writer)
    repository = add(
        writer,
        repositories,
        namespace_id=account,
        name="user/r",
        visibility="public",
        created_at=0.0,
    )
    values = {"repository_id": repository, "digest": "sha256:0", "media_type": "", "size": 0}
    rest = {"artifact_type": "", "annotations": "", "pushed_at": 0.0}
    return add(writer, manifests, payload=payload, **values, **rest)


@pytest.mark.parametrize(
    "values",
    [
        ("user", None, True, 0, 0.1),
        ("Ω", "", False, 1, -1e-300),
        ("\U0010ffff\t'\\\"%$1:x", "x" * 100_000, True, 2**63 - 1, math.inf),
        ("a", "b", False, -(2**63), -math.inf),
        ("c", "d", True, 255, 5e-324),
    ],
)
async def test_every_type_of_column_comes_back_as_it_was(
    metadata: Database, values: tuple[Any, ...]
) -> None:
    """Text, none, truth, whole numbers and fractions of any size."""
    names = ("name", "password_hash", "is_admin", "epoch", "created_at")
    account_id = await metadata.write(add_account, **dict(zip(names, values, strict=True)))
    assert await metadata.lookup(ACCOUNT, {"id": account_id}) == values


@pytest.mark.parametrize("payload", [b"", b"\0\xff" * 2_000_000, bytes(range(256))])
async def test_bytes_come_back_as_they_were(metadata: Database, payload: bytes) -> None:
    """Manifests are the very bytes that were pushed, also where one fills many packets."""
    manifest_id = await metadata.write(add_manifest, payload)
    found = await asyncio.gather(*(metadata.lookup(PAYLOAD, {"id": manifest_id}) for _ in range(5)))
    assert found == [(payload,)] * 5


async def test_nothing_is_found_where_there_is_nothing(metadata: Database) -> None:
    """A query of rows gives none, of an aggregate one."""
    assert await metadata.lookup(VALUE, {"key": "k"}) is None
    assert await metadata.lookup_all(VALUE, {"key": "k"}) == []
    count = Lookup(select(func.count(), func.max(jobs.c.id)).select_from(jobs))
    assert await metadata.lookup(count, {}) == (0, None)


@examples(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
async def test_any_text_is_found_by_itself(metadata: Database, value: str) -> None:
    """Whatever a client sends, it is what it is and nothing of the query's own."""

    def replace(writer: Writer) -> None:
        writer.execute(settings.delete())
        put(writer, "k", value)

    await metadata.write(replace)
    assert await metadata.lookup(KEY, {"value": value}) == ("k",)
    assert await metadata.lookup(VALUE, {"key": "k"}) == (value,)


@pytest.mark.parametrize("key", ["\0", "a\0b", "\ud800", "\udfffx"])
async def test_text_that_no_row_can_have_finds_none(metadata: Database, key: str) -> None:
    """NUL and half a surrogate pair reach the look-ups in the paths of requests."""
    await metadata.write(put, "a", "b")
    try:
        found = await metadata.lookup(VALUE, {"key": key})
    except UnicodeEncodeError:  # of sqlite3: the edge has refused such text before
        found = None
    assert found is None


async def test_long_results_are_whole_and_in_order(metadata: Database) -> None:
    """Ten thousand rows, in several pages at once."""
    values = {f"{number:05}": "x" * (number % 70) for number in range(5000)}
    await put_all(metadata, values)
    pages = await asyncio.gather(
        *(
            metadata.lookup_all(PAGE, {"last": f"{start:05}", "count": 3000})
            for start in (-1, 1999, 4000)
        )
    )
    everything = sorted(values.items())
    assert pages == [everything[:3000], everything[2000:], everything[4001:]]


async def test_each_of_many_gets_its_own_answer(metadata: Database) -> None:
    """They share a connection, and packets."""
    await put_all(metadata, {str(number): f"of {number}" for number in range(MANY)})
    for _ in range(3):
        numbers = [random.randrange(2 * MANY) for _ in range(2000)]
        answers = await asyncio.gather(
            *(metadata.lookup(VALUE, {"key": str(number)}) for number in numbers)
        )
        assert answers == [(f"of {each}",) if each < MANY else None for each in numbers]


async def test_whoever_goes_away_takes_no_answer_along(metadata: Database) -> None:
    """Requests are cancelled before, while and after their query is on its way."""
    await put_all(metadata, {str(number): f"of {number}" for number in range(MANY)})
    for turns in range(12):
        tasks = [asyncio.create_task(_value(metadata, str(number % MANY))) for number in range(600)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number % 3 or not isinstance(answer, asyncio.CancelledError):
                assert answer == f"of {number % MANY}"


async def _value(metadata: Database, key: str) -> str:
    row = await metadata.lookup(VALUE, {"key": key})
    assert row is not None
    return str(row[0])


async def test_a_lookup_sees_what_was_acknowledged(metadata: Database) -> None:
    """A pull after a push sees it."""
    for number in range(20):
        await metadata.write(put, str(number), f"of {number}")
        assert await metadata.lookup(VALUE, {"key": str(number)}) == (f"of {number}",)

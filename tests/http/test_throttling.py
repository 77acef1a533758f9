"""Guessing passwords is slowed down, by name and address and by address."""

import asyncio
import secrets
import threading
from pathlib import Path

import pytest
from tests.http.asgi import Answer, ask
from tests.http.client import assert_error, basic
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import InProcess
from tests.http.test_tokens import post

from dtr.accounts import passwords
from dtr.testing.registry import ALICE, BOB

AUTH: dict[str, int] = {
    "failed_logins_before_delay": 3,
    "failed_login_delay_seconds": 10,
    "failed_login_delay_max_seconds": 40,
    "credential_cache_seconds": 0,
}


@pytest.fixture
def slow(open_registry: OpenRegistry) -> InProcess:
    """Give a registry that slows down after three failures."""
    return open_registry({"auth": AUTH})


async def login(target: InProcess, name: str, password: str, peer: str = "10.0.0.1") -> Answer:
    """Log in from an address."""
    headers = [(b"authorization", basic(name, password).encode())]
    return await ask(target.application, "GET", "/v2/", headers=headers, peer=peer)


async def fail(target: InProcess, name: str = "alice", times: int = 3, **rest: str) -> None:
    """Fail to log in some times, each time by another password."""
    for _ in range(times):
        assert (await login(target, name, secrets.token_hex(8), **rest)).status == 401


async def test_too_many_failures_are_429_with_the_time_to_wait(
    slow: InProcess, connect: Connect
) -> None:
    """Also with the right password, for otherwise the throttle would confirm a guess."""
    client = connect(slow)
    for number in range(3):
        guess = client.login("alice", f"wrong {number}")
        assert_error(await guess.get("/v2/"), 401, "UNAUTHORIZED")
    for answer in (
        await client.login(*ALICE).get("/v2/"),
        await client.login("alice", "wrong").get("/auth/token"),
        await post(client, grant_type="password", username="alice", password=ALICE[1]),
    ):
        assert_error(answer, 429, "TOOMANYREQUESTS")
        assert 1 <= int(answer.headers["Retry-After"]) <= 11


async def test_the_wait_is_as_long_as_was_said(slow: InProcess) -> None:
    """After it the right password is taken, and the count begins anew."""
    await fail(slow)
    answer = await login(slow, *ALICE)
    assert answer.status == 429
    slow.clock.advance(int(answer.header("retry-after")))
    assert (await login(slow, *ALICE)).status == 200
    await fail(slow, times=3)


async def test_each_further_failure_doubles_the_wait_up_to_a_limit(slow: InProcess) -> None:
    """10, 20, 40, 40 seconds."""
    await fail(slow)
    for wait in (10, 20, 40, 40):
        slow.clock.advance(wait - 1)
        assert (await login(slow, "alice", f"wrong {wait}")).status == 429
        slow.clock.advance(2)
        await fail(slow, times=1)


async def test_being_refused_does_not_lengthen_the_wait(slow: InProcess) -> None:
    """A client that keeps trying is let in when its time is over."""
    await fail(slow)
    for _ in range(9):
        assert (await login(slow, *ALICE)).status == 429
        slow.clock.advance(1)
    slow.clock.advance(2)
    assert (await login(slow, *ALICE)).status == 200


async def test_one_wrong_password_that_is_repeated_keeps_nobody_waiting(
    slow: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job with an old password goes on for ever: it counts once, and is verified once."""
    verified = []
    verify = passwords.verify_password

    def counting(password: str, password_hash: str | None) -> bool:
        verified.append(password)
        return verify(password, password_hash)

    monkeypatch.setattr(passwords, "verify_password", counting)
    together = await asyncio.gather(*(login(slow, "alice", "old") for _ in range(20)))
    assert {answer.status for answer in together} == {401}
    assert verified == ["old"]
    for _ in range(5):
        assert (await login(slow, "nobody", "old")).status == 401
        assert (await login(slow, *ALICE)).status == 200
        assert (await login(slow, "alice", "old")).status == 401
    assert verified.count("old") == 2
    # Elsewhere it is a guess of its own.
    assert (await login(slow, "alice", "old", peer="10.0.0.2")).status == 401
    assert verified.count("old") == 3


async def test_a_repeated_guess_makes_no_room_for_others(slow: InProcess) -> None:
    """Those are counted, and the right password waits after them, whatever is repeated between."""
    for _ in range(2):
        await fail(slow, times=1)
        assert (await login(slow, "alice", "old")).status == 401
    assert (await login(slow, *ALICE)).status == 429
    assert (await login(slow, "alice", "old")).status == 401
    assert (await login(slow, "alice", "new guess")).status == 429


async def test_a_wrong_password_that_becomes_the_right_one_is_taken(slow: InProcess) -> None:
    """What was wrong was so in a state of the account that is over."""
    new = "an entirely new password"
    for _ in range(2):
        assert (await login(slow, "alice", new)).status == 401
    slow.administration.set_password("alice", new)
    assert (await login(slow, "alice", new)).status == 200


async def test_nobody_can_lock_out_somebody_elsewhere(slow: InProcess) -> None:
    """A name is slowed down at the address that fails, and nowhere else."""
    await fail(slow, peer="10.0.0.1")
    assert (await login(slow, *ALICE, peer="10.0.0.1")).status == 429
    assert (await login(slow, *ALICE, peer="10.0.0.2")).status == 200
    assert (await login(slow, "bob", "wrong", peer="10.0.0.1")).status == 401


async def test_an_address_that_tries_many_names_is_slowed_down(slow: InProcess) -> None:
    """One guess for each of many names is guessing too; ten times as many are let pass."""
    for number in range(30):
        await fail(slow, f"user{number}", times=1)
    assert (await login(slow, "another", "wrong")).status == 429
    assert (await login(slow, *ALICE, peer="10.0.0.2")).status == 200


async def test_access_tokens_are_never_slowed_down(slow: InProcess) -> None:
    """Nobody guesses one: wrong ones count for nothing, and right ones are taken meanwhile."""
    for _ in range(100):
        assert (await login(slow, "alice", "dtr_" + "x" * 40)).status == 401
    assert (await login(slow, *ALICE)).status == 200
    _, secret = slow.administration.create_token("alice")
    await fail(slow)
    for number in range(29):
        await fail(slow, f"user{number}", times=1)
    assert (await login(slow, *ALICE)).status == 429
    assert (await login(slow, *BOB)).status == 429
    assert (await login(slow, "alice", secret)).status == 200


async def test_one_clients_mistake_does_not_lock_out_others_at_its_address(
    slow: InProcess,
) -> None:
    """A thousand retries of one wrong password are one mistake, not an address that guesses."""
    for _ in range(100):
        assert (await login(slow, "alice", "wrong")).status in {401, 429}
        slow.clock.advance(11)
    assert (await login(slow, *BOB)).status == 200
    assert (await login(slow, *ALICE, peer="10.0.0.2")).status == 200


@pytest.mark.parametrize("is_written", [False, True])
async def test_who_has_logged_in_from_an_address_is_not_kept_out_by_others_there(
    slow: InProcess, *, is_written: bool
) -> None:
    """An address that guesses keeps out new names only; a name's own failures count as ever."""
    assert (await login(slow, *ALICE)).status == 200
    if is_written:
        await slow.application._gate._identity.failures.write()
    for number in range(30):
        await fail(slow, f"user{number}", times=1)
    assert (await login(slow, *BOB)).status == 429
    assert (await login(slow, *ALICE)).status == 200
    await fail(slow)
    assert (await login(slow, *ALICE)).status == 429


async def test_a_success_takes_back_what_failed_before(slow: InProcess) -> None:
    """People who mistype do not use up their address."""
    for _ in range(20):
        await fail(slow, "alice", times=2)
        assert (await login(slow, *ALICE)).status == 200
        await fail(slow, "bob", times=2)
        assert (await login(slow, *BOB)).status == 200
    await fail(slow, "a stranger", times=1)


@pytest.mark.parametrize(
    "addresses",
    [
        ["2001:db8::{n:x}", "2001:db8:0:0:{n:x}::1"],
        ["::ffff:10.0.0.1", "10.0.0.1"],
        ["[2001:db8::1]:{n}", "2001:db8::1"],
        ["10.0.0.1:{n}"],
        ["no address {n}"],
    ],
    ids=str,
)
async def test_an_address_in_other_words_is_the_same_client(
    slow: InProcess, addresses: list[str]
) -> None:
    """One IPv6 site, one IPv4 address however it is written, whatever the port."""
    for number in range(30):
        form = addresses[number % len(addresses)]
        await fail(slow, f"user{number}", times=1, peer=form.format(n=number + 1))
    form = addresses[0]
    assert (await login(slow, "another", "wrong", peer=form.format(n=999))).status == 429
    assert (await login(slow, "another", "wrong", peer="2001:db8:0:1::1")).status == 401


async def test_names_that_are_sent_together_are_counted_together(slow: InProcess) -> None:
    """Of 400 names at once from one address no more are tried than one after another."""
    answers = await asyncio.gather(*(login(slow, f"user{n}", "guess") for n in range(400)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= 30
    assert all(answer.header("retry-after") for answer in answers if answer.status == 429)


@pytest.mark.parametrize("way", ["trusted_proxies", "balancers", "balancers_file"])
async def test_behind_a_proxy_only_names_are_slowed_down(
    open_registry: OpenRegistry, tmp_path: Path, way: str
) -> None:
    """The address of a trusted proxy or balancer is everybody's: it never waits."""
    listed = tmp_path / "balancers"
    listed.write_text("10.0.0.1\n")
    section = (
        {"cluster": {way: listed}} if way == "balancers_file" else {"server": {way: ["10.0.0.1"]}}
    )
    target = open_registry({"auth": AUTH, **section})
    for number in range(60):
        await fail(target, f"user{number}", times=1)
    assert (await login(target, "another", "wrong")).status == 401
    await fail(target)
    assert (await login(target, *ALICE)).status == 429
    assert (await login(target, *BOB)).status == 200


async def test_more_passwords_than_can_be_verified_soon_are_refused(slow: InProcess) -> None:
    """429 with the time to come back, not a queue that grows for ever; nobody is counted."""
    peers = [f"10.0.{n}.1" for n in range(200)]
    answers = await asyncio.gather(*(login(slow, *ALICE, peer=peer) for peer in peers))
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 429}
    assert statuses.count(200) >= 64
    assert all(answer.header("retry-after") for answer in answers if answer.status == 429)
    assert (await login(slow, *ALICE, peer=peers[-1])).status == 200


async def test_one_addresses_queue_is_not_everybodys(slow: InProcess) -> None:
    """Hundreds of logins that wait for each other at one address keep nobody else out."""
    names = [f"user{number}" for number in range(8)]
    guesses = [asyncio.create_task(login(slow, name, "wrong")) for name in names * 64]
    await asyncio.sleep(0)
    assert (await login(slow, *ALICE, peer="10.0.0.2")).status == 200
    statuses = {(await guess).status for guess in guesses}
    assert statuses == {401, 429}


async def test_strangers_with_many_addresses_leave_room_for_who_has_logged_in(
    slow: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many passwords as may wait to be verified do: a known name still has a place."""
    assert (await login(slow, *ALICE)).status == 200
    is_open, verify = threading.Event(), passwords.verify_password

    def late(password: str, password_hash: str | None) -> bool:
        return is_open.wait(20) and verify(password, password_hash)

    monkeypatch.setattr(passwords, "verify_password", late)
    verifier = slow.application._gate._identity._passwords
    strangers = [asyncio.create_task(verifier.verify("a guess", None)) for _ in range(64)]
    try:
        await asyncio.sleep(0)
        assert (await login(slow, *BOB, peer="10.0.0.2")).status == 429
        known = asyncio.create_task(login(slow, *ALICE))
        async with asyncio.timeout(30):
            while verifier._waiting == 64 and not known.done():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
    finally:
        is_open.set()
        await asyncio.gather(*strangers)
    assert (await known).status == 200


async def test_a_guess_whose_client_goes_away_is_counted(slow: InProcess) -> None:
    """Or guesses would be free for whoever does not wait for the answer."""
    for _ in range(3):
        guess = asyncio.create_task(login(slow, "alice", "wrong"))
        verifier = slow.application._gate._identity._passwords
        for _ in range(10_000):
            if verifier._waiting:
                break
            await asyncio.sleep(0)
        guess.cancel()
        await asyncio.wait({guess})
    assert (await login(slow, *ALICE)).status == 429


async def test_processes_count_together(connect: Connect, tmp_path: Path) -> None:
    """Guesses that are spread over processes are still guesses."""
    target = InProcess.open_files(tmp_path, {"auth": AUTH})
    client = connect(target)
    guesses = [client.login("alice", f"wrong {number}") for number in range(5)]
    statuses = [(await guess.get("/v2/")).status_code for guess in guesses]
    assert statuses == [401, 401, 401, 429, 429]
    await target.close()


async def test_a_login_that_is_remembered_is_not_slowed_down(open_registry: OpenRegistry) -> None:
    """Who logged in goes on, whatever others at the same address fail to do."""
    target = open_registry({"auth": AUTH | {"credential_cache_seconds": 60}})
    assert (await login(target, *ALICE)).status == 200
    await fail(target)
    assert (await login(target, *ALICE)).status == 200


async def test_the_cost_of_guesses_at_once_is_bounded(slow: InProcess) -> None:
    """Guesses sent together are tried one by one, until the address waits."""
    answers = await asyncio.gather(*(login(slow, "alice", f"guess {n}") for n in range(12)))
    statuses = [answer.status for answer in answers]
    assert set(statuses) <= {401, 429}
    assert (await login(slow, *ALICE)).status == 429
    assert statuses.count(401) <= AUTH["failed_logins_before_delay"]

"""How long credentials live: refresh, revocation, expiry, disabled users, changed rights."""

import secrets
from typing import Any

import httpx
import pytest
from tests.http.client import Client, Repository, assert_error
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import Target
from tests.http.test_tokens import granted, post

from dtr.accounts.records import mark_tokens_used
from dtr.accounts.signing import KeyRing
from dtr.model.access import Level
from dtr.testing.registry import ALICE

PASSWORD = "a password that is long enough"


@pytest.fixture
def carol(target: Target, anonymous: Client) -> Client:
    """Give a user of this test's own, whom it may disable."""
    name = f"carol{secrets.token_hex(4)}"
    return anonymous.login(*target.administration.add_user(name, PASSWORD))


async def refresh_token(client: Client) -> str:
    """Return a refresh token, as `docker login` asks for it."""
    answer = await client.get("/auth/token", params={"offline_token": "true"})
    return str(answer.json()["refresh_token"])


async def refreshed(client: Client, token: str, *scopes: str) -> httpx.Response:
    """Ask for a bearer token with a refresh token."""
    return await post(client, grant_type="refresh_token", refresh_token=token, scope=list(scopes))


async def test_a_refresh_token_answers_bearer_tokens(carol: Client) -> None:
    """It is given back with them, and may be used again and again."""
    token = await refresh_token(carol)
    for _ in range(2):
        answer = await refreshed(carol, token, f"repository:{carol.name}/app:pull,push")
        assert answer.status_code == 200
        assert answer.json()["refresh_token"] == token
        assert granted(answer.json()["token"]) == {f"{carol.name}/app": ["pull", "push"]}
        await carol.bearing(answer.json()["token"]).repository(f"{carol.name}/app").push_blob(b"x")


async def test_a_password_may_be_posted_for_a_refresh_token(carol: Client) -> None:
    """`access_type=offline` is the form's word for it."""
    answer = await post(
        carol,
        grant_type="password",
        username=carol.name,
        password=PASSWORD,
        access_type="offline",
    )
    assert (await refreshed(carol, answer.json()["refresh_token"])).status_code == 200


async def test_nobody_gets_no_refresh_token(anonymous: Client) -> None:
    """There is no account to come back to."""
    answer = await anonymous.get("/auth/token", params={"offline_token": "true"})
    assert answer.status_code == 200
    assert "refresh_token" not in answer.json()


@pytest.mark.parametrize("kind", ["nonsense", "access", "bearer", "empty"])
async def test_only_a_refresh_token_refreshes(target: Target, carol: Client, kind: str) -> None:
    """An access token is a password, not a refresh token, and the other way round."""
    tokens = {
        "nonsense": "dtr_" + "x" * 40,
        "access": target.administration.create_token(carol.name)[1],
        "bearer": await carol.token(),
        "empty": "",
    }
    answer = await refreshed(carol, tokens[kind])
    assert_error(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"]
    if kind == "nonsense":
        token = await refresh_token(carol)
        assert (await carol.login(carol.name, token).get("/v2/")).status_code == 401


async def test_an_access_token_is_a_password(target: Target, carol: Client) -> None:
    """For its owner's name only."""
    _, secret = target.administration.create_token(carol.name)
    assert (await carol.login(carol.name, secret).get("/v2/")).status_code == 200
    for name in ("alice", "admin", ""):
        assert (await carol.login(name, secret).get("/v2/")).status_code == 401


@pytest.mark.parametrize("way", ["basic", "bearer"])
async def test_an_access_token_allows_no_more_than_its_level(
    target: Target, carol: Client, way: str
) -> None:
    """Used directly, or changed into a bearer token, and whatever its owner may."""
    repository = carol.new_repository()
    await repository.push_image("latest")
    expected = {
        Level.READ_ONLY: (200, False),
        Level.READ_WRITE: (200, True),
        Level.ADMIN: (200, True),
    }
    for level, (status, may_push) in expected.items():
        _, secret = target.administration.create_token(carol.name, level)
        client = carol.login(carol.name, secret)
        if way == "bearer":
            client = await client.scoped(f"repository:{repository.name}:pull,push,delete")
        assert (await client.get(repository.manifest("latest"))).status_code == status
        pushed = await client.post(repository.uploads)
        assert (pushed.status_code == 202) is may_push
        deleted = await client.delete(repository.manifest("none"))
        assert (deleted.status_code == 404) is may_push


@pytest.mark.parametrize("way", ["basic", "bearer"])
async def test_a_token_that_may_push_creates_its_owners_repository(
    target: Target, carol: Client, way: str
) -> None:
    """A program's first push is like its owner's; a token that may only read creates nothing."""
    # A bearer token that may not push has no scope for it, which is another refusal.
    refusal = 401 if way == "bearer" else 403
    for level, status in ((Level.READ_WRITE, 202), (Level.READ_ONLY, refusal)):
        _, secret = target.administration.create_token(carol.name, level)
        client = carol.login(carol.name, secret)
        repository = client.new_repository(f"new-{way}")
        if way == "bearer":
            client = await client.scoped(f"repository:{repository.name}:pull,push")
        assert (await client.post(repository.uploads)).status_code == status


async def test_revoking_all_tokens_ends_all_logins(target: Target, carol: Client) -> None:
    """Bearer tokens of a login with the password too, which itself stays good."""
    bearer = carol.bearing(await carol.token())
    assert (await bearer.get("/v2/")).status_code == 200
    target.administration.revoke_token(carol.name)
    await target.wait(1)
    for _ in range(target.processes * 2):
        assert_error(await bearer.get("/v2/"), 401, "UNAUTHORIZED")
    assert (await carol.get("/v2/")).status_code == 200


async def test_an_administrators_token_below_admin_is_no_administrators(
    target: Target, admin: Client
) -> None:
    """Its ceiling holds on the operator's routes too."""
    for level, status in ((Level.READ_ONLY, 403), (Level.READ_WRITE, 403), (Level.ADMIN, 200)):
        _, secret = target.administration.create_token("admin", level)
        client = admin.login("admin", secret)
        assert (await client.get("/metrics")).status_code == status


async def test_a_refresh_token_keeps_the_level_of_the_access_token(
    target: Target, carol: Client
) -> None:
    """A way to more rights would be a hole."""
    repository = carol.new_repository()
    await repository.push_blob(b"x")
    _, secret = target.administration.create_token(carol.name, Level.READ_ONLY)
    token = await refresh_token(carol.login(carol.name, secret))
    answer = await refreshed(carol, token, f"repository:{repository.name}:pull,push")
    assert granted(answer.json()["token"]) == {repository.name: ["pull"]}
    client = carol.bearing(answer.json()["token"])
    assert (await client.post(repository.uploads)).status_code == 401


async def test_a_revoked_access_token_ends_everything_that_came_from_it(
    target: Target, carol: Client
) -> None:
    """Basic, bearer and refresh tokens, within a second, on every process."""
    token_id, secret = target.administration.create_token(carol.name)
    by_token = carol.login(carol.name, secret)
    bearer = carol.bearing(await by_token.token())
    refresh = await refresh_token(by_token)
    for _ in range(target.processes * 2):
        assert (await by_token.get("/v2/")).status_code == 200
        assert (await bearer.get("/v2/")).status_code == 200
    target.administration.revoke_token(carol.name, token_id)
    await target.wait(1)
    for _ in range(target.processes * 2):
        assert_error(await by_token.get("/v2/"), 401, "UNAUTHORIZED")
        assert_error(await bearer.get("/v2/"), 401, "UNAUTHORIZED")
    assert_error(await refreshed(carol, refresh), 401, "UNAUTHORIZED")
    assert (await carol.get("/v2/")).status_code == 200


async def test_a_disabled_user_is_out_within_a_second(target: Target, carol: Client) -> None:
    """Password, bearer and refresh token, also while the bearer's own time lasts."""
    repository = carol.new_repository()
    await repository.push_blob(b"x")
    bearer = await carol.scoped(f"repository:{repository.name}:pull")
    refresh = await refresh_token(carol)
    for _ in range(target.processes * 2):
        assert (await bearer.get(repository.tags)).status_code == 200
        assert (await carol.get("/v2/")).status_code == 200
    target.administration.set_active(carol.name, is_active=False)
    await target.wait(1)
    for _ in range(target.processes * 2):
        assert_error(await bearer.get(repository.tags), 401, "UNAUTHORIZED")
        assert_error(await carol.get("/v2/"), 401, "UNAUTHORIZED")
    assert_error(await refreshed(carol, refresh), 401, "UNAUTHORIZED")
    target.administration.set_active(carol.name, is_active=True)
    await target.wait(1)
    assert (await carol.get("/v2/")).status_code == 200
    assert_error(await bearer.get(repository.tags), 401, "UNAUTHORIZED")
    assert_error(await refreshed(carol, refresh), 401, "UNAUTHORIZED")


async def test_a_changed_password_ends_what_the_old_one_began(
    target: Target, carol: Client
) -> None:
    """Whoever had the old password has nothing any more: no bearer, no refresh token."""
    bearer = carol.bearing(await carol.token())
    refresh = await refresh_token(carol)
    assert (await bearer.get("/v2/")).status_code == 200
    target.administration.set_password(carol.name, "another long password")
    await target.wait(1)
    assert_error(await carol.get("/v2/"), 401, "UNAUTHORIZED")
    assert_error(await bearer.get("/v2/"), 401, "UNAUTHORIZED")
    assert_error(await refreshed(carol, refresh), 401, "UNAUTHORIZED")
    assert (await carol.login(carol.name, "another long password").get("/v2/")).status_code == 200


async def test_access_tokens_outlive_a_changed_password(target: Target, carol: Client) -> None:
    """They are for machines, and revoked one by one."""
    _, secret = target.administration.create_token(carol.name)
    target.administration.set_password(carol.name, "another long password")
    await target.wait(1)
    assert (await carol.login(carol.name, secret).get("/v2/")).status_code == 200


async def test_a_removed_user_is_nobody_even_when_the_name_is_given_again(
    target: Target, carol: Client
) -> None:
    """A token is of an account, not of its name."""
    bearer = carol.bearing(await carol.token())
    _, secret = target.administration.create_token(carol.name)
    assert (await bearer.get("/v2/")).status_code == 200
    target.administration.remove_user(carol.name)
    target.administration.add_user(carol.name, "another long password")
    await target.wait(1)
    assert_error(await bearer.get("/v2/"), 401, "UNAUTHORIZED")
    assert_error(await carol.get("/v2/"), 401, "UNAUTHORIZED")
    assert_error(await carol.login(carol.name, secret).get("/v2/"), 401, "UNAUTHORIZED")


async def test_a_right_that_is_taken_away_ends_at_once(
    target: Target, repository: Repository, bob: Client
) -> None:
    """A bearer token names what may be asked; the account's rights are looked up each time."""
    await repository.push_image("latest")
    target.administration.grant(repository.name, "bob", Level.READ_ONLY)
    seen = repository.seen_by(await bob.scoped(f"repository:{repository.name}:pull"))
    assert (await seen.client.get(seen.manifest("latest"))).status_code == 200
    target.administration.grant(repository.name, "bob", Level.NONE)
    assert_error(await seen.client.get(seen.manifest("latest")), 404, "NAME_UNKNOWN")


async def test_a_bearer_token_expires(open_registry: OpenRegistry, connect: Connect) -> None:
    """After the seconds that were announced and a few of leeway, also one that was just used."""
    target = open_registry({"auth": {"token_seconds": 60}})
    alice = connect(target).login(*ALICE)
    bearer = alice.bearing(await alice.token())
    assert (await bearer.get("/v2/")).status_code == 200
    target.clock.advance(59)
    assert (await bearer.get("/v2/")).status_code == 200
    target.clock.advance(10)
    answer = await bearer.get("/v2/")
    assert_error(answer, 401, "UNAUTHORIZED")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


async def test_an_access_token_expires(open_registry: OpenRegistry, connect: Connect) -> None:
    """Also where it was verified a moment before, and with all bearer tokens from it."""
    target = open_registry({"auth": {"token_seconds": 86400}})
    alice = connect(target).login(*ALICE)
    _, secret = target.administration.create_token("alice", lifetime_seconds=600)
    by_token = alice.login("alice", secret)
    bearer = alice.bearing(await by_token.token())
    refresh = await refresh_token(by_token)
    target.clock.advance(590)
    assert (await by_token.get("/v2/")).status_code == 200
    target.clock.advance(15)
    assert (await by_token.get("/v2/")).status_code == 401
    assert (await bearer.get("/v2/")).status_code == 401
    assert_error(await refreshed(alice, refresh), 401, "UNAUTHORIZED")


async def test_a_refresh_token_expires(open_registry: OpenRegistry, connect: Connect) -> None:
    """After the setting's seconds."""
    target = open_registry({"auth": {"refresh_token_seconds": 3600}})
    alice = connect(target).login(*ALICE)
    refresh = await refresh_token(alice)
    target.clock.advance(3590)
    assert (await refreshed(alice, refresh)).status_code == 200
    target.clock.advance(20)
    assert_error(await refreshed(alice, refresh), 401, "UNAUTHORIZED")


async def test_of_more_refresh_tokens_than_allowed_the_longest_unused_end(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Logins of machines that are long gone make room; one that is used stays."""
    target = open_registry({"auth": {"refresh_tokens_per_user": 3}})
    alice = connect(target).login(*ALICE)
    tokens = []
    for _ in range(3):
        tokens.append(await refresh_token(alice))
        target.clock.advance(10)
    assert (await refreshed(alice, tokens[0])).status_code == 200
    used = target.application._gate._identity.take_used_tokens()
    target.administration._database.write_now(mark_tokens_used, used)
    tokens.append(await refresh_token(alice))
    statuses = [(await refreshed(alice, token)).status_code for token in tokens]
    assert statuses == [200, 401, 200, 200]


@pytest.mark.parametrize("change", ["disabled", "revoked"])
async def test_a_refresh_token_is_not_made_for_a_login_that_has_just_ended(
    open_registry: OpenRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The account is looked at again in the transaction that writes the token."""
    target = open_registry()
    token_id, secret = target.administration.create_token("alice")
    client = connect(target).login("alice", secret)
    sign = KeyRing.sign

    async def late(*args: Any, **kwargs: Any) -> str:
        if change == "disabled":
            target.administration.set_active("alice", is_active=False)
        else:
            target.administration.revoke_token("alice", token_id)
        return await sign(*args, **kwargs)

    monkeypatch.setattr(KeyRing, "sign", late)
    answer = await client.get("/auth/token", params={"offline_token": "true"})
    assert_error(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"]


async def test_refresh_tokens_may_be_withheld(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Then `docker login` keeps the password, which others can use as well."""
    target = open_registry({"auth": {"refresh_tokens": "withhold"}})
    alice = connect(target).login(*ALICE)
    asked = await alice.get("/auth/token", params={"offline_token": "true"})
    posted = await post(
        alice,
        grant_type="password",
        username=alice.name,
        password=ALICE[1],
        access_type="offline",
    )
    for answer in (asked, posted):
        assert answer.status_code == 200
        assert "refresh_token" not in answer.json()

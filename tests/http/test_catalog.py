"""Listing repositories: everybody sees what they may pull, and nothing else."""

import secrets

from tests.http.client import Client, assert_error
from tests.http.targets import Target
from tests.http.test_tags import pages

from dtr.model.access import Level, Visibility


async def names(client: Client, size: int = 100) -> list[str]:
    """Return all that a client's catalog lists, by pages."""
    return [
        name
        for page in await pages(client, f"/v2/_catalog?n={size}", "repositories")
        for name in page
    ]


async def test_the_catalog_lists_what_each_principal_may_pull(
    target: Target, alice: Client, bob: Client, admin: Client
) -> None:
    """One's own, what is granted, what is public; administrators all."""
    made = {}
    for kind in ("private", "granted", "public"):
        repository = alice.new_repository(kind)
        await repository.push_blob(b"x")
        made[kind] = repository.name
    target.administration.grant(made["granted"], "bob", Level.READ_ONLY)
    target.administration.set_visibility(made["public"], Visibility.PUBLIC)
    seen = set(made.values())
    assert seen & set(await names(bob)) == {made["granted"], made["public"]}
    assert seen & set(await names(alice)) == seen
    assert seen & set(await names(admin)) == seen


async def test_a_grant_on_a_namespace_lists_all_of_it(
    target: Target, alice: Client, anonymous: Client
) -> None:
    """What is granted may be found."""
    name = f"carol{secrets.token_hex(4)}"
    carol = anonymous.login(*target.administration.add_user(name, "carol's long password"))
    repository = alice.new_repository()
    await repository.push_blob(b"x")
    assert repository.name not in await names(carol)
    target.administration.grant("alice", name, Level.READ_ONLY, whole_namespace=True)
    assert repository.name in await names(carol)


async def test_pages_of_the_catalog_add_up(alice: Client) -> None:
    """In byte order, without a name twice."""
    for _ in range(3):
        await alice.new_repository().push_blob(b"x")
    found = await names(alice, 2)
    assert found == sorted(set(found))
    assert found == await names(alice)


async def test_the_catalog_needs_an_account(anonymous: Client) -> None:
    """CVE-2020-29662: a catalog that is open to everybody."""
    answer = await anonymous.get("/v2/_catalog")
    assert_error(answer, 401, "UNAUTHORIZED")
    assert 'scope="registry:catalog:*"' in answer.headers["WWW-Authenticate"]
    nobody = anonymous.bearing(await anonymous.token("registry:catalog:*"))
    assert_error(await nobody.get("/v2/_catalog"), 401, "UNAUTHORIZED")


async def test_a_bearer_token_lists_only_with_the_catalog_scope(alice: Client) -> None:
    """A token for one repository does not list all."""
    repository = alice.new_repository()
    await repository.push_blob(b"x")
    narrow = await alice.scoped(f"repository:{repository.name}:pull")
    assert_error(await narrow.get("/v2/_catalog"), 401, "UNAUTHORIZED")
    wide = await alice.scoped("registry:catalog:*")
    assert repository.name in await names(wide)
    assert_error(await wide.get(repository.tags), 401, "UNAUTHORIZED")

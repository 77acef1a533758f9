"""Listing tags by pages (distribution-spec end-8)."""

import re

import pytest
from tests.http.client import Client, Repository, assert_error, image
from tests.http.conftest import Connect, OpenRegistry

from dtr.testing.registry import ALICE

# In byte order, which is what the specification calls ASCIIbetical.
NAMES = ["0", "1.0", "10", "2", "A", "Z", "_", "a", "a-b", "a.b", "a_b", "latest", "z"]


@pytest.fixture
async def tagged(repository: Repository) -> Repository:
    """Give a repository with many tags, pushed out of order."""
    await repository.push_manifest(image(b"x"), NAMES[5])
    await repository.put_manifest(
        image(b"x"), params={"tag": [*reversed(NAMES[:5]), *reversed(NAMES[5:])]}
    )
    return repository


async def pages(client: Client, path: str, key: str) -> list[list[str]]:
    """Follow the links from a first page; return every page's entries."""
    found, seen = [], set()
    while path:
        assert path not in seen, "the links go in circles"
        seen.add(path)
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        found.append(answer.json()[key])
        link = answer.headers.get("Link", "")
        match = re.fullmatch(r'<(/[^>]+)>; rel="next"', link)
        assert match or not link
        path = match[1] if match else ""
    return found


async def test_tags_come_in_byte_order(tagged: Repository) -> None:
    """All of them on one page, without a link."""
    answer = await tagged.client.get(tagged.tags)
    assert answer.json() == {"name": tagged.name, "tags": NAMES}
    assert "Link" not in answer.headers


@pytest.mark.parametrize("size", [1, 3, 4, 12, 13, 14, 10**17])
async def test_pages_of_any_size_add_up(tagged: Repository, size: int) -> None:
    """Each page has what was asked for, the last one the rest, and no page is empty."""
    found = await pages(tagged.client, f"{tagged.tags}?n={size}", "tags")
    assert [tag for page in found for tag in page] == NAMES
    assert all(len(page) == size for page in found[:-1])
    assert found[-1]


async def test_a_page_begins_after_last_whether_that_exists_or_not(tagged: Repository) -> None:
    """`last` is a place in the order, not an entry."""
    for last, expected in (("a", ["a-b", "a.b"]), ("a-a", ["a-b", "a.b"]), ("zz", [])):
        answer = await tagged.client.get(tagged.tags, params={"n": 2, "last": last})
        assert answer.json()["tags"] == expected
    answer = await tagged.client.get(tagged.tags, params={"last": "a_b"})
    assert answer.json()["tags"] == ["latest", "z"]


async def test_no_entries_asked_for_are_no_entries(tagged: Repository) -> None:
    """n=0 answers an empty list without a link."""
    answer = await tagged.client.get(tagged.tags, params={"n": 0})
    assert answer.json()["tags"] == []
    assert "Link" not in answer.headers


@pytest.mark.parametrize("size", ["-1", "x", "", "1.5", "1e3", "+1", " 1", "٣", "1" * 19, "0x1"])
async def test_a_size_that_is_no_number_is_refused(tagged: Repository, size: str) -> None:
    """400 in the envelope for tags, catalog and referrers alike."""
    digest = "sha256:" + "0" * 64
    for path in (tagged.tags, "/v2/_catalog", tagged.referrers(digest)):
        answer = await tagged.client.get(path, params={"n": size})
        assert_error(answer, 400, "UNSUPPORTED")


async def test_a_last_longer_than_any_entry_is_refused(tagged: Repository) -> None:
    """It could only be nonsense."""
    answer = await tagged.client.get(tagged.tags, params={"last": "x" * 513})
    assert_error(answer, 400, "UNSUPPORTED")


async def test_odd_last_values_are_only_places_in_the_order(tagged: Repository) -> None:
    """Quotes, percent signs and other scripts reach no statement as text."""
    for last in ("' OR 1=1 --", "%", "\x00", "ü", "\U0001f433", '";'):
        answer = await tagged.client.get(tagged.tags, params={"n": 2, "last": last})
        assert answer.status_code == 200
        assert answer.json()["tags"] == [tag for tag in NAMES if tag > last][:2]


async def test_a_repository_without_tags_has_an_empty_list(repository: Repository) -> None:
    """Content without a tag makes a repository, not a tag."""
    await repository.push_blob(b"x")
    answer = await repository.client.get(repository.tags)
    assert answer.json() == {"name": repository.name, "tags": []}


async def test_the_largest_page_is_the_settings_to_say(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """More than that is not refused but cut, and the link keeps to the cut."""
    target = open_registry({"limits": {"page_entries": 3}})
    repository = connect(target).login(*ALICE).new_repository()
    await repository.put_manifest(image(b"x"), params={"tag": NAMES})
    for query in ("", "?n=1000"):
        found = await pages(repository.client, repository.tags + query, "tags")
        assert [len(page) for page in found] == [3, 3, 3, 3, 1]

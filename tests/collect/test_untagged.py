"""Untagged manifests stay, unless it is said otherwise and nothing reaches them."""

from typing import Any

import pytest
from tests.collect.yard import GRACE, UNTAGGED_GRACE, Yard
from tests.http.client import Image, Repository, descriptor, image

from dtr.model.manifests import OCI_MANIFEST


async def settle(yard: Yard) -> None:
    """Collect until nothing changes any more, long after everything."""
    for _ in range(4):
        yard.clock.advance(UNTAGGED_GRACE + GRACE + 1)
        await yard.collect(untagged=True)


def subject(of: Image) -> dict[str, Any]:
    """Return the field that makes a manifest a referrer."""
    return {"subject": descriptor(of.payload, OCI_MANIFEST)}


async def untag(repository: Repository, tag: str) -> None:
    """Delete a tag."""
    answer = await repository.client.delete(repository.manifest(tag))
    assert answer.status_code == 202, answer.text


async def test_untagged_manifests_are_kept_by_default(yard: Yard) -> None:
    """People pull by digest."""
    image = await yard.repository().push_image(None, b"layer")
    for _ in range(3):
        yard.clock.advance(10 * UNTAGGED_GRACE)
        await yard.collect()
    assert await yard.has_manifest(image.digest)
    assert await yard.has_blob(image.layers[0])


async def test_an_untagged_manifest_goes_after_its_grace(yard: Yard) -> None:
    """Then its blobs, after theirs."""
    image = await yard.repository().push_image(None, b"layer")
    yard.clock.advance(UNTAGGED_GRACE - 1)
    await yard.collect(untagged=True)
    assert await yard.has_manifest(image.digest)
    yard.clock.advance(2)
    done = await yard.collect(untagged=True)
    assert (done.manifests, done.blobs) == (1, 0)
    assert not await yard.has_manifest(image.digest)
    assert await yard.has_blob(image.layers[0])
    yard.clock.advance(GRACE + 1)
    assert (await yard.collect(untagged=True)).blobs == 2
    assert await yard.check() == []


@pytest.mark.parametrize("how", ["retag", "untag"])
async def test_a_manifest_that_loses_its_tag_has_the_grace_from_then(yard: Yard, how: str) -> None:
    """However long it was tagged before."""
    repository = yard.repository()
    first = await repository.push_image("latest", b"first")
    yard.clock.advance(10 * UNTAGGED_GRACE)
    await yard.collect(untagged=True)
    if how == "retag":
        await repository.push_image("latest", b"second")
    else:
        await untag(repository, "latest")
    yard.clock.advance(UNTAGGED_GRACE - 1)
    await yard.collect(untagged=True)
    assert await yard.has_manifest(first.digest)
    yard.clock.advance(2)
    await yard.collect(untagged=True)
    assert not await yard.has_manifest(first.digest)
    assert await yard.has_manifest("latest") == (how == "retag")


async def test_another_tag_keeps_a_manifest(yard: Yard) -> None:
    """One tag of two is enough."""
    repository = yard.repository()
    image = await repository.push_image("one")
    await repository.push_manifest(image.payload, "two")
    await untag(repository, "one")
    await settle(yard)
    assert await yard.has_manifest("two")


async def test_children_of_an_index_stay_with_it(yard: Yard) -> None:
    """Multi-arch images have untagged children; they go after the index, not before."""
    repository = yard.repository()
    children = [await repository.push_image(None) for _ in range(3)]
    await repository.push_index("multi", *children)
    await settle(yard)
    for child in children:
        assert await yard.has_manifest(child.digest)
        assert await yard.has_blob(child.layers[0])
    await untag(repository, "multi")
    await settle(yard)
    for child in children:
        assert not await yard.has_manifest(child.digest)
    assert yard.files() == {}
    assert await yard.check() == []


async def test_children_of_an_untagged_index_wait_for_it(yard: Yard) -> None:
    """An index that is still here needs its children, tagged or not."""
    repository = yard.repository()
    child = await repository.push_image(None)
    yard.clock.advance(UNTAGGED_GRACE - 1)
    index = await repository.push_index(None, child)
    yard.clock.advance(2)
    await yard.collect(untagged=True)
    assert await yard.has_manifest(child.digest)
    assert await yard.has_manifest(index)


async def test_indexes_may_be_nested(yard: Yard) -> None:
    """What a tag reaches through two indexes stays."""
    repository = yard.repository()
    child = await repository.push_image(None)
    inner = await repository.push_index(None, child)
    payload = (await yard.client.get(repository.manifest(inner))).content
    await repository.push_index("outer", Image(payload, inner, child.config, ()))
    await settle(yard)
    assert await yard.has_manifest(child.digest)
    await untag(repository, "outer")
    await settle(yard)
    assert not await yard.has_manifest(child.digest)
    assert yard.files() == {}


async def test_referrers_stay_with_their_subject(yard: Yard) -> None:
    """A signature is untagged for ever; it goes after what it signs."""
    repository = yard.repository()
    signed = await repository.push_image("latest")
    signature = await repository.push_image(None, **subject(signed))
    await settle(yard)
    assert await yard.has_manifest(signature.digest)
    await untag(repository, "latest")
    await settle(yard)
    assert not await yard.has_manifest(signed.digest)
    assert not await yard.has_manifest(signature.digest)
    assert yard.files() == {}


async def test_a_referrer_without_its_subject_is_like_any_other(yard: Yard) -> None:
    """It may be pushed first, and waits for its subject as long as the grace."""
    repository = yard.repository()
    signed = image(b"config", b"layer")
    missing = {"subject": {**descriptor(b"not here"), "mediaType": OCI_MANIFEST}}
    signature = await repository.push_image(None, **missing)
    await repository.push_manifest(signed, "latest")
    await settle(yard)
    assert not await yard.has_manifest(signature.digest)
    assert await yard.has_manifest("latest")


async def test_a_tagged_referrer_keeps_its_subject(yard: Yard) -> None:
    """The old tag scheme of signatures: the signature is tagged, the image is not."""
    repository = yard.repository()
    signed = await repository.push_image(None)
    await repository.push_image("signature", **subject(signed))
    await settle(yard)
    assert await yard.has_manifest(signed.digest)


@pytest.mark.parametrize("how", ["untag", "retag", "delete"])
async def test_a_subject_goes_when_its_tagged_referrer_does(yard: Yard, how: str) -> None:
    """Put aside because of the referrer's tag, looked at again when that goes."""
    repository = yard.repository()
    signed = await repository.push_image(None)
    signature = await repository.push_image("signature", **subject(signed))
    await settle(yard)
    if how == "untag":
        await untag(repository, "signature")
    elif how == "retag":
        await repository.push_image("signature")
    else:
        await yard.client.delete(repository.manifest(signature.digest))
    await settle(yard)
    assert not await yard.has_manifest(signature.digest)
    assert not await yard.has_manifest(signed.digest)
    assert await yard.check() == []


async def test_deleting_an_index_has_its_children_looked_at(yard: Yard) -> None:
    """A child with a tag of its own stays."""
    repository = yard.repository()
    tagged, untagged = await repository.push_image("own"), await repository.push_image(None)
    index = await repository.push_index("multi", tagged, untagged)
    await settle(yard)
    await yard.client.delete(repository.manifest(index))
    await settle(yard)
    assert await yard.has_manifest(tagged.digest)
    assert not await yard.has_manifest(untagged.digest)


async def test_a_second_push_without_a_tag_begins_the_grace_anew(yard: Yard) -> None:
    """Whoever pushes the children of an index has time to push the index."""
    repository = yard.repository()
    child = await repository.push_image(None)
    yard.clock.advance(UNTAGGED_GRACE - 1)
    for digest in (child.config, *child.layers):
        await yard.client.head(repository.blob(digest))
    await repository.push_manifest(child.payload)
    yard.clock.advance(UNTAGGED_GRACE - 1)
    await yard.collect(untagged=True)
    assert await yard.has_manifest(child.digest)


async def test_a_pusher_who_asks_for_a_manifest_keeps_it(yard: Yard) -> None:
    """An index may be about to refer to it."""
    repository = yard.repository()
    child = await repository.push_image(None)
    yard.clock.advance(UNTAGGED_GRACE - 1)
    assert (await yard.client.head(repository.manifest(child.digest))).status_code == 200
    yard.clock.advance(UNTAGGED_GRACE * 0.49)
    await yard.collect(untagged=True)
    assert await yard.has_manifest(child.digest)


@pytest.mark.parametrize("is_collected", [False, True])
async def test_a_dry_run_says_what_untagged_manifests_hold(
    yard: Yard, *, is_collected: bool
) -> None:
    """Deleting an index leaves its parts, also where nothing is due yet: nobody looks for 0."""
    repository = yard.repository()
    parts = [await repository.push_image(None, b"%d" % number * 1000) for number in range(2)]
    index = await repository.push_index("multi", *parts)
    await yard.client.delete(repository.manifest(index))
    plan = await yard.collector(untagged=is_collected).plan()
    (share,) = (each for each in plan.reasons if each.reason.startswith("untagged"))
    assert (share.count, share.is_kept) == (2, not is_collected)
    assert share.bytes == sum(len(part.payload) + 50 + 1000 for part in parts)
    assert (plan.manifests, plan.bytes) == (0, 0)

    yard.clock.advance(UNTAGGED_GRACE + 1)
    plan = await yard.collector(untagged=is_collected).plan()
    assert plan.manifests == (2 if is_collected else 0)

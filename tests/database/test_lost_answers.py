"""Every unit of work, where the answer to its commit is lost: the same as if it was not.

Each story is run twice, on copies of one registry: on a database that behaves, and on one that
commits each unit and then says that it does not know. What the units return and what is then in
the tables must be the same. A unit that is new in the product needs a place in a story.
"""

import ast
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Table, select
from tests.http.client import image
from tests.support.forgetful import ForgetfulDatabase
from tests.support.postgresql import RunningPostgresql, temporary_database

import dtr
from dtr.accounts import manage as accounts
from dtr.accounts import records as account_records
from dtr.accounts.permits import permitted
from dtr.accounts.signing import rotate_key
from dtr.accounts.tokens import add_refresh_token
from dtr.collect import collector
from dtr.collect import records as collect
from dtr.database import Database, Reader, open_postgresql, proof
from dtr.database.schema import finished_units, metadata
from dtr.jobs import records as jobs
from dtr.jobs import schedules
from dtr.jobs.model import JobKind, NewJob, Schedule
from dtr.model.access import MAY_PUSH, Credential, Level, Permit, Principal, Visibility
from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import RegistryError
from dtr.model.manifests import OCI_MANIFEST, parse_manifest
from dtr.model.names import RepositoryName, TagName
from dtr.model.read_only import ReadOnlyMode
from dtr.registry import manage, push, records, uploads
from dtr.registry.records import Blob, Upload, holders
from dtr.registry.records.pulls import Pulls, add_pulls
from dtr.registry.records.read_only import set_read_only
from dtr.server import bootstrap, recognition
from dtr.server import replica as replica_jobs
from dtr.storage import Progress
from dtr.transfer import records as transfer

pytestmark = pytest.mark.postgresql

NAME = RepositoryName("alice/app")
OTHER = RepositoryName("bob/copy")
ALICE = Principal(account_id=2, name="alice")
NOW = time.time()
LATER = NOW + 1000.0
CONTENT = [Digest.of(bytes([number])) for number in range(4)]
TOLD_LESS = {
    "revoke": "which level it was",
    "revoke_token": "how many there were",
    "remove_repository": "whose bytes the sweep deletes instead",
    "make_edges": "that there was something to do",
    "take_upload": "how far it was: the sweep deletes what that leaves",
    "remove_upload": "as take_upload",
    "advance_upload": "that another request was first: this one may have been before that",
    "take_empty_uploads": "as take_upload",
    "give_up_upload": "as take_upload",
    "remove_expired_upload": "as take_upload",
    "remove_expired": "how many there were",
    "remove_condemned": "how many there were",
    "_collect_manifests": "how many the attempt before took",
    "_collect_links": "how many the attempt before took",
    "rotate_key": "whether it was this attempt that made it",
    "use_storage": "where the blobs were before",
    "synchronise": "what it changed",
}
"""Units that may say less when an answer was lost, and what is not said."""


class Teller:
    """Runs units on one database and keeps what they returned."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.told: list[str] = []

    def do(self, unit: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a writing unit; return its result, or None where it was refused."""
        name = unit.__name__
        try:
            result = self._database.write_now(unit, *args, **kwargs)
        except RegistryError as error:
            self.told.append(f"{name}: {type(error).__name__}: {error}")
            return None
        if name not in TOLD_LESS:
            self.told.append(f"{name}: {_shown(result)}")
        return result

    def ask(self, unit: Callable[..., Any], *args: Any) -> Any:
        """Run a reading unit."""
        return self._database.read_now(unit, *args)


def _shown(result: Any) -> str:
    """Return what can be compared: ids differ where an attempt was undone, and so do times."""
    if isinstance(result, int) and not isinstance(result, bool):
        return "a number"
    if result is None or isinstance(result, bool | str | list | tuple | dict):
        return repr(result)
    return type(result).__name__


def of_accounts(teller: Teller) -> None:
    """Tell of users and their tokens."""
    for _ in range(2):
        teller.do(accounts.add_user, "carol", "hash")
        teller.do(accounts.add_organization, "company")
    teller.do(accounts.set_password, "carol", "other hash")
    teller.do(accounts.set_active, "carol", is_active=False)
    teller.do(accounts.set_active, "admin", is_active=False)  # the last administrator
    teller.do(accounts.set_active, "carol", is_active=True)
    made = [
        teller.do(
            accounts.create_token,
            "carol",
            secret,
            label="test",
            level=Level.READ_ONLY,
            lifetime_seconds=None,
        )
        for secret in ("one", "two", "three")
    ]
    for _ in range(2):
        teller.do(
            account_records.add_token,
            made[1].account_id,
            kind="refresh",
            secret_hash="of a refresh token",
            label="",
            level=Level.READ_ONLY,
            expires_at=NOW - 1,
            parent_id=made[1].id,
        )
    for secret in ("first", "second"):
        login = Credential(ALICE, epoch=1)
        teller.do(add_refresh_token, login, secret, expires_at=LATER, most=1)
    teller.do(account_records.mark_tokens_used, {made[0].id: NOW, made[1].id: LATER})
    for _ in range(2):
        teller.do(accounts.revoke_token, "carol", made[0].id)
    teller.do(accounts.revoke_token, "alice", None)
    for _ in range(2):
        teller.do(accounts.remove_user, "bob")
    teller.do(accounts.remove_user, "admin")
    for _ in range(3):
        teller.do(account_records.record_failure, "a@b", "b", NOW)
    teller.do(account_records.record_failure, "c@b", "b", NOW - 1000)
    teller.do(account_records.forgive_failures, "a@b", "b")
    teller.do(account_records.note_known, {"a@b#known": NOW, "d@b#known": NOW - 1000})
    teller.do(account_records.remove_expired, NOW, forget_failures_before=NOW - 500)
    teller.do(bootstrap._add_first, "hash", name="first")
    for rotation_seconds in (1e6, 1.0):
        teller.do(rotate_key, LATER, rotation_seconds=rotation_seconds, token_seconds=300)


def of_repositories(teller: Teller) -> None:
    """Tell of repositories and who may use them."""
    for _ in range(2):
        teller.do(manage.create_repository, NAME, Visibility.PRIVATE)
    teller.do(manage.set_visibility, NAME, Visibility.PUBLIC)
    for level in (Level.READ_ONLY, Level.ADMIN):
        teller.do(manage.grant, str(NAME), "bob", level, whole_namespace=False)
        teller.do(manage.grant, "alice", "bob", level, whole_namespace=True)
    permit = Permit(Credential(ALICE, epoch=1), MAY_PUSH, RepositoryName("new/one"), None)
    for access in (permit, replace(permit, name=RepositoryName("alice/new"))):
        teller.do(permitted, access, lambda: NOW, lambda _writer: True)
    for is_whole, name in ((False, str(NAME)), (True, "alice")):
        teller.do(manage.revoke, name, "bob", whole_namespace=is_whole)
    teller.do(records.ensure_repository, RepositoryName("new/one"))
    teller.do(transfer.prepare_repository, OTHER, Visibility.PUBLIC, "alice")
    for _ in range(2):
        teller.do(manage.remove_repository, NAME)
    teller.do(accounts.remove_user, "bob")  # owns one


def of_blobs(teller: Teller) -> None:
    """Tell of uploads, of two that bring the same, and of what becomes of blobs."""
    sessions = [_session(teller, str(number)) for number in range(5)]
    begun, further = Progress(), Progress(5, CONTENT[0], "state")
    first = sessions[0]
    for start in (begun, begun, Progress(3)):
        teller.do(records.advance_upload, first.id, start=start, progress=further, expires_at=LATER)
    first = replace(first, progress=further)
    for session, key in ((first, "key 1"), (first, "key 1"), (sessions[1], "key 2")):
        _commit(teller, session, Blob(CONTENT[0], 5, key))
    _commit(teller, sessions[2], Blob(CONTENT[1], 6, "key 3"), has_session=False)
    teller.do(records.remove_upload, sessions[2].id, further)
    teller.do(records.remove_upload, sessions[2].id, begun)
    teller.do(records.take_upload, sessions[3].id)
    teller.do(records.keep_upload, sessions[2].id, LATER + 5)
    teller.do(records.give_up_upload, sessions[2], forget_empty=True)
    teller.do(records.settle_repository, sessions[4].repository_id)
    teller.do(records.take_empty_uploads, 1, idle_until=LATER + 1, most=1)
    teller.do(records.forget_upload_digests)
    source = first.repository_id
    for digest in (CONTENT[0], CONTENT[3]):
        mounted = {"principal": ALICE, "review_at": LATER}
        teller.do(uploads._mount_blob, OTHER, source, digest, **mounted)
        teller.do(transfer.link_known_blob, source, digest, review_at=LATER + 1)
        teller.do(records.keep_blob, source, digest, LATER + 2)
    for key in ("key 4", "key 5"):
        teller.do(transfer.add_blob, source, Blob(CONTENT[2], 7, key), now=NOW, review_at=LATER)
    for _ in range(2):
        teller.do(uploads._delete_blob, source, CONTENT[1])
    teller.do(collect.remove_blob, Blob(CONTENT[2], 7, "key 5"))
    teller.do(collect.remove_blob, Blob(CONTENT[2], 7, "key 4"))
    teller.do(collect.remove_condemned, [Blob(CONTENT[1], 6, "key 3")])
    teller.do(collect.remove_expired_upload, sessions[4].id, NOW)
    teller.do(collect.remove_expired_upload, sessions[4].id, LATER + 1, forget_empty=True)
    for mode in (ReadOnlyMode("a move", NOW, "root"), None):
        teller.do(set_read_only, mode)
    teller.do(recognition._set_mark, Blob(CONTENT[3], 1, "mark"), NOW)
    for url in ("", "s3://bucket", "s3://bucket"):
        teller.do(records.use_storage, url)
    teller.do(proof._put, "key")
    teller.do(proof._remove, "key")


def of_holders(teller: Teller) -> None:
    """Tell of replicas that have copies, and of what is left of one that is none any more."""
    for number in range(2):
        _commit(teller, _session(teller, str(number)), Blob(CONTENT[number], 1, f"key {number}"))
    blob, gone = Blob(CONTENT[0], 1, "key 0"), Blob(CONTENT[3], 1, "key 3")
    for replica in ("one", "one", "two", "three"):
        teller.do(holders.add_holder, blob, replica, NOW)
    teller.do(holders.add_holder, gone, "one", NOW)
    teller.do(holders.note_verified, ["key 0"], "one", LATER)
    for _ in range(2):
        teller.do(holders.remove_holder, ["key 0"], "two")
    teller.do(holders.forget_other_replicas, ["one"])
    kinds = ("copy-blobs-one", "copy-blobs-two")
    wanted = [Schedule(kind, kind, "every 60 s") for kind in kinds]
    teller.do(schedules.synchronise, wanted, NOW, {})
    teller.do(replica_jobs._forget_former, ["one"])


def _session(teller: Teller, number: str) -> Upload:
    upload = Upload(f"session {number}", 0, 1, Algorithm.SHA256, Progress(), LATER)
    opened: Upload = teller.do(uploads._open_upload, NAME, upload, now=NOW)
    return opened


def _commit(teller: Teller, upload: Upload, blob: Blob, *, has_session: bool = True) -> None:
    teller.do(
        uploads._commit_blob, NAME, upload, blob, has_session=has_session, now=NOW, review_at=LATER
    )


def of_manifests(teller: Teller) -> None:
    """Tell of manifests and tags, how often they were pulled, and what collection takes."""
    for number in range(2):
        _commit(teller, _session(teller, str(number)), Blob(CONTENT[number], 1, f"key {number}"))
    both = [_pushed(number, "latest", "stable") for number in range(2)]
    for pushed in (*both, both[0], _pushed(3, "missing")):
        _put(teller, push.put_manifest, pushed, accept_missing=False)
    _put(teller, transfer.add_manifest, _pushed(1, "imported"))
    repository = teller.ask(records.find_repository, NAME)
    ids = [teller.ask(records.find_manifest_id, repository.id, each.digest) for each in both]
    teller.do(records.make_edges)
    teller.do(records.remake_edges, ids[0])
    for batch in ("first", "second", "second"):
        pulls = {ids[0]: Pulls(2, NOW), ids[1]: Pulls(1, LATER), 999_999: Pulls(1, NOW)}
        teller.do(add_pulls, batch, {repository.id: Pulls(3, LATER)}, pulls)
    for _ in range(2):
        teller.do(push._delete_tag, repository.id, TagName("stable"), review_at=LATER)
    for digest in (both[1].digest, CONTENT[3]):
        teller.do(records.keep_manifest, repository.id, digest, LATER + 1)
    for _ in range(2):
        teller.do(
            push.delete_manifest,
            repository.id,
            both[0].digest,
            blobs_review_at=NOW,
            manifests_review_at=NOW,
        )
    settings = collector.CollectSettings(untagged=True, grace_seconds=1, untagged_grace_seconds=1)
    for _ in range(2):
        teller.do(collector._collect_manifests, LATER * 2, settings)
        teller.do(collector._collect_links, LATER * 2, 100)


def _pushed(number: int, *tags: str) -> push.PushedManifest:
    payload = json.dumps(image(bytes([number]))).encode()
    manifest = parse_manifest(payload, OCI_MANIFEST)
    named = [TagName(tag) for tag in tags]
    return push.PushedManifest(Digest.of(payload), payload, manifest, named, None)


def _put(
    teller: Teller, unit: Callable[..., Any], pushed: push.PushedManifest, **more: Any
) -> None:
    teller.do(unit, NAME, pushed, now=NOW, untagged_grace_seconds=10, **more)


def of_jobs(teller: Teller) -> None:
    """Tell of jobs that the command line asks for; runners have stories of their own."""
    new = NewJob(JobKind("collect", ""), key="same")
    job_id = teller.do(jobs.enqueue, new, NOW)
    assert teller.do(jobs.enqueue, new, NOW) == job_id
    for which in (job_id, job_id, 999_999):
        teller.do(jobs.cancel, which, NOW)


STORIES = (of_accounts, of_repositories, of_blobs, of_holders, of_manifests, of_jobs)


@pytest.fixture
def both(
    postgresql: RunningPostgresql, registry_template: str
) -> Iterator[tuple[Database, ForgetfulDatabase]]:
    """Give a database that behaves and one that does not, with the same in them."""
    with (
        temporary_database(postgresql, registry_template) as one,
        temporary_database(postgresql, registry_template) as other,
    ):
        databases = (open_postgresql(one), ForgetfulDatabase(other))
        yield databases
        for database in databases:
            database.close()


@pytest.mark.parametrize("story", STORIES)
def test_a_lost_answer_changes_nothing(
    both: tuple[Database, ForgetfulDatabase], story: Callable[[Teller], None]
) -> None:
    """Nothing is done twice, undone, or refused because it was done already."""
    tellers = [Teller(database) for database in both]
    for teller in tellers:
        story(teller)
    assert tellers[1].told == tellers[0].told
    assert both[1].lost >= len(tellers[0].told) / 2
    contents = [database.read_now(_content) for database in both]
    assert contents[1] == contents[0]


def _content(reader: Reader) -> dict[str, list[str]]:
    """Return what is in the tables, apart from ids and times."""
    return {
        table.name: sorted(repr(tuple(row)) for row in reader.execute(select(*_compared(table))))
        for table in metadata.sorted_tables
        if table is not finished_units
    }


def _compared(table: Table) -> list[Column[Any]]:
    return [
        column
        for column in table.columns
        if not (column.primary_key and column.autoincrement is True)
        and not column.name.endswith("id")
        and column.name not in {"created_at", "epoch", "private_key", "started_at"}
    ]


def test_every_writing_unit_of_the_product_is_in_a_story() -> None:
    """What `write` is given anywhere in the product, but for the runner of jobs."""
    here = ast.parse(Path(__file__).read_text())
    told = {node.attr for node in ast.walk(here) if isinstance(node, ast.Attribute)}
    told |= {node.id for node in ast.walk(here) if isinstance(node, ast.Name)}
    assert set(_written()) - told == {"keep"}  # a parameter: keep_blob or keep_manifest


def _written() -> Iterator[str]:
    """Yield the names of units that are given to a database to write."""
    for file in Path(dtr.__file__).parent.rglob("*.py"):
        if file.parent.name == "jobs":  # tests/jobs loses the answers of these
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"write", "write_now", "write_soon"}
                and ast.unparse(node.func.value).endswith(("database", "gate"))
            ):
                yield ast.unparse(node.args[0]).rpartition(".")[2]

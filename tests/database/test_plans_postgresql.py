"""Where much is stored, PostgreSQL still finds what it is asked for by an index.

The registry has a hundredth of the largest size that is promised, which is where a wrong index
shows: ten thousand manifests, fifty thousand tags. Both plans are looked at: the one made for the
very parameters, and the generic one that a prepared statement ends up with.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from benchmarks.scale.fill import fill
from tests.database.explain import BUSTLE, MODES, Explainer, Overheard
from tests.database.test_plans import SCANNED_WHOLE, SORTED, prepared
from tests.scale.filled import SMALL
from tests.support.postgresql import RunningPostgresql, temporary_database

from dtr.accounts import records as accounts
from dtr.collect import records as collection
from dtr.collect.collector import Collector, CollectSettings
from dtr.database import Change, Database, Lookup, Writer, open_postgresql
from dtr.jobs import JobKind
from dtr.jobs import records as jobs
from dtr.jobs.model import Line, NewJob, Outcome, Report, State
from dtr.model.access import Action, Level, Principal, Scope
from dtr.model.digest import Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST, Limits, parse_manifest
from dtr.model.names import RepositoryName, TagName
from dtr.registry import records
from dtr.registry.push import PushedManifest, _delete_tag, delete_manifest, put_manifest
from dtr.registry.records import Blob, holders
from dtr.registry.records.pulls import Pulls, add_pulls
from dtr.storage import MemoryBlobStore, Progress

pytestmark = pytest.mark.postgresql

MANY = replace(SMALL, repositories=5000, users=5000)
PAGE = 100
NOW = 1.8e9
LAYER = b"layer"
BY_TYPE = {"bigint": "7", "integer": "7", "boolean": "false", "double precision": "1.0"}
BY_NAME = {
    "repository_id": "1",
    "in_repository": "1",
    "count": str(PAGE),
    "last": "''",
    "account_id": "(SELECT min(id) FROM accounts WHERE kind = 'user')",
    "digest": "(SELECT digest FROM manifests WHERE repository_id = 1 AND id = 7)",
    "which": "(SELECT digest FROM blobs WHERE id = 77)",
    "reference": "(SELECT name FROM tags WHERE repository_id = 1 OFFSET 777 LIMIT 1)",
    "name": "(SELECT name FROM repositories WHERE id = 7)",
    "namespace": "(SELECT name FROM accounts WHERE kind = 'organization' LIMIT 1)",
    "secret_hash": "(SELECT secret_hash FROM tokens LIMIT 1)",
    "subject": "(SELECT subject FROM manifests WHERE subject IS NOT NULL LIMIT 1)",
}
"""What a statement is given, in SQL: by the parameter's name, or else by its type."""

STATEMENTS = [
    (name, prepared)
    for name, prepared in dict(prepared()).items()
    if not prepared.statement.is_insert
]


@pytest.fixture(scope="module")
def busy_url(postgresql: RunningPostgresql) -> Iterator[str]:
    """Give a filled registry in use."""
    with temporary_database(postgresql) as url:
        fill(url, MANY, lambda _line: None)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(BUSTLE)
            connection.execute("VACUUM ANALYZE")
        yield url


@pytest.fixture(scope="module")
def explainer(busy_url: str) -> Iterator[Explainer]:
    """Give who explains what happens in it."""
    explainer = Explainer(busy_url)
    yield explainer
    explainer.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "statement"), STATEMENTS)
def test_a_prepared_statement_reads_no_more_than_it_answers(
    explainer: Explainer, mode: str, name: str, statement: Lookup | Change
) -> None:
    """Point queries stay point queries, and pages pages, however large the registry grows."""
    rendered, names = statement.numbered
    given = [
        rendered.constants[parameter]
        if parameter in rendered.constants
        else explainer.ask(BY_NAME.get(parameter) or BY_TYPE.get(kind, "'x'"))
        for parameter, kind in zip(names, explainer.types(rendered.sql), strict=True)
    ]
    found = explainer.explain(rendered.sql, given, mode=mode)
    if name in SCANNED_WHOLE:
        return
    assert found.scanned == [], str(found)
    assert found.rows_read <= 3 * PAGE, str(found)
    assert found.rows_sorted <= (3 * PAGE if name in SORTED else 0), str(found)


def _push_and_delete(database: Database) -> None:
    """Push an image, an index and a signature to the largest repository, move tags, delete."""
    name = RepositoryName.parse("team-0000/service-000001")
    size = len(LAYER)
    blob = Blob(Digest.of(LAYER), size, "sha256/key")

    def store(writer: Writer) -> None:
        records.store_blob(writer, blob, NOW)
        records.link_blob(writer, 1, blob.digest, NOW)
        records.keep_blob(writer, 1, blob.digest, NOW + 1)
        scope = Scope({str(name): frozenset({Action.PULL})}, ids={str(name): 1})
        for limits in (None, scope):
            principal = Principal(account_id=2, name="user-000001", scope=limits)
            records.mount_sources(writer, blob.digest, principal)

    database.write_now(store)
    layer = {"mediaType": "application/octet-stream", "digest": blob.digest, "size": size}
    image = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer, "layers": [layer]}
    pushed = [_pushed(image, "moved"), _pushed({**image, "annotations": {"a": "b"}}, "moved")]
    child = {"mediaType": OCI_MANIFEST, "digest": pushed[0].digest, "size": 1}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child], "subject": child}
    pushed.append(_pushed(index, "index"))
    for each in pushed:
        database.read_now(records.digest_now, 1, each.digest)
        database.read_now(records.digest_now, 1, each.tags[0])
        for _ in range(2):
            database.write_now(
                put_manifest, name, each, now=NOW, untagged_grace_seconds=1, accept_missing=False
            )
    database.write_now(records.keep_manifest, 1, pushed[0].digest, NOW)
    database.write_now(_delete_tag, 1, TagName.parse("moved"), review_at=NOW)
    for each in reversed(pushed):
        database.write_now(
            delete_manifest, 1, each.digest, blobs_review_at=NOW, manifests_review_at=NOW
        )
    database.write_now(records.unlink_blob, 1, blob.digest)


def _pushed(document: dict[str, Any], tag: str) -> PushedManifest:
    payload = json.dumps(document).encode()
    manifest = parse_manifest(payload, document["mediaType"], Limits())
    return PushedManifest(Digest.of(payload), payload, manifest, [TagName.parse(tag)], None)


async def _collect(database: Database) -> None:
    """Collect what BUSTLE made due, a batch of each kind at a time, and check a page."""
    settings = CollectSettings(untagged=True, batch=20, rest=0)
    collector = Collector(database, MemoryBlobStore(), settings, clock=lambda: 3e9)
    await collector.run()
    database.read_now(collection.blobs_after, "", 20)
    database.read_now(collection.manifests_after, 0, 20)
    database.read_now(collection.known_uploads, ["x"])
    database.read_now(collection.known_keys, ["x"])


def _replicate(database: Database) -> None:
    """Do what replicas do all the time about the blobs on their disks."""
    own = "000000000001"
    _, page = database.read_now(holders.placed_after, 777, 20)
    assert page
    keys = [placed.blob.storage_key for placed in page]
    database.write_now(holders.add_holder, page[0].blob, "00000000000f", NOW)
    database.write_now(holders.note_verified, keys, own, NOW)
    database.write_now(holders.remove_holder, keys[:1], own)
    assert database.read_now(holders.held_since, own, NOW, 20)
    assert database.read_now(holders.held_keys, own, "sha256/77", 20)


def _work(database: Database) -> None:
    """Run jobs as runners do."""
    kind = JobKind("kind-1", "", most_at_once=100)
    job_id = database.write_now(jobs.enqueue, NewJob(kind), NOW)
    database.read_now(jobs.survey, [kind.name])
    job = database.write_now(jobs.claim, kind, "runner", [], NOW)
    assert job is not None
    said = Report(job.claim, "half", (Line(1, NOW, "info", "said"),))
    database.write_now(jobs.report, [said], NOW)
    database.write_now(jobs.finish, said, Outcome(State.SUCCEEDED), NOW, NOW)
    database.write_now(jobs.cancel, job_id, NOW)
    database.write_now(jobs.prune, [kind.name], before=0.0, keep=100)
    database.read_now(jobs.read_log, job.id)
    database.read_now(jobs.list_jobs)
    database.read_now(jobs.count_open)


def _administer(database: Database) -> None:
    """Do what administrators and logins do to accounts."""
    account = database.read_now(accounts.find_account, "user-000001")
    assert account is not None
    for _ in range(2):
        database.write_now(accounts.record_failure, "name@10.0.0.1", "10.0.0.1", NOW)
    database.write_now(accounts.note_known, {"name@10.0.0.1#known": NOW})
    database.write_now(accounts.forgive_failures, "name@10.0.0.1", "10.0.0.1")
    database.write_now(accounts.mark_tokens_used, {1: NOW})
    database.write_now(accounts.remove_expired, 3.0, forget_failures_before=3.0)
    database.write_now(accounts.set_grant, account.id, Level.READ_ONLY, repository_id=2)
    database.read_now(accounts.count_repositories, 1)
    database.write_now(add_pulls, "batch", {1: Pulls(1, NOW)}, {1: Pulls(1, NOW)})
    database.write_now(records.remove_repository, 77)
    database.write_now(accounts.remove_tokens, account.id, token_id=1)
    database.read_now(records.expired_uploads, 1.0, 20)
    database.write_now(records.remove_upload, "x", Progress())


async def test_no_unit_reads_a_large_table_or_a_large_repository(
    explainer: Explainer, busy_url: str
) -> None:
    """What pushes, deletes, collection, jobs and logins run has indexes for all that grows."""
    database = open_postgresql(busy_url)
    overheard = Overheard(database.engine)
    _push_and_delete(database)
    _replicate(database)
    _work(database)
    _administer(database)
    await _collect(database)
    database.close()
    wrong = []
    for statement, values in overheard.items():
        for mode in MODES:
            found = explainer.explain(statement, values, mode=mode)
            if found.scanned or found.rows_read > 4 * PAGE:
                wrong.append(f"{found.rows_read} rows: {statement}\n{found}\n")
    assert len(overheard.items()) > 40
    assert not wrong, "\n".join(wrong)

"""Statements about upload sessions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, bindparam, case, delete, exists, func, or_, select, update

from dtr.database import Change, Lookup, Reader, Writer
from dtr.database.schema import (
    accounts,
    repositories,
    uploads,
)
from dtr.database.statements import insert_unless_there
from dtr.model.digest import Algorithm, Digest
from dtr.registry.records.repositories import forget_if_empty
from dtr.storage import Progress


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session."""

    id: str
    repository_id: int
    account_id: int
    algorithm: Algorithm
    progress: Progress
    expires_at: float


@dataclass(frozen=True, slots=True)
class UploadSummary:
    """An upload session as it is listed."""

    id: str
    repository: str
    user: str | None
    bytes: int
    created_at: float
    expires_at: float


UPLOAD = Lookup(
    select(
        uploads.c.id,
        uploads.c.repository_id,
        uploads.c.account_id,
        uploads.c.algorithm,
        uploads.c.offset,
        uploads.c.digest,
        uploads.c.expires_at,
        uploads.c.storage_state,
    ).where(
        uploads.c.id == bindparam("id"),
        uploads.c.repository_id == bindparam("repository_id"),
        uploads.c.account_id == bindparam("account_id"),
    )
)
COUNT_UPLOADS = Lookup(
    select(func.count(), func.min(uploads.c.expires_at)).where(
        uploads.c.account_id == bindparam("account_id")
    )
)
KEEP_UPLOAD = Change(
    update(uploads)
    .where(uploads.c.id == bindparam("upload_id"), uploads.c.expires_at < bindparam("until"))
    .values(expires_at=bindparam("until"))
)
ADD_UPLOAD = Change(insert_unless_there(uploads, "id"))
ADVANCE_UPLOAD = Change(
    update(uploads)
    .where(
        uploads.c.id == bindparam("upload_id"),
        or_(
            and_(
                uploads.c.offset == bindparam("start"),
                uploads.c.storage_state == bindparam("state_before"),
            ),
            # This very unit ran before. Other bytes up to the same offset are not the same.
            and_(
                uploads.c.offset == bindparam("stop"),
                uploads.c.storage_state == bindparam("state"),
                uploads.c.digest.is_not_distinct_from(bindparam("so_far")),
            ),
        ),
    )
    .values(
        offset=bindparam("stop"),
        digest=bindparam("so_far"),
        storage_state=bindparam("state"),
        expires_at=bindparam("until"),
    )
)
FIND_PROGRESS = Lookup(
    select(uploads.c.offset, uploads.c.digest, uploads.c.storage_state).where(
        uploads.c.id == bindparam("id")
    )
)
REMOVE_UPLOAD = Change(
    delete(uploads).where(
        uploads.c.id == bindparam("id"),
        uploads.c.offset == bindparam("start"),
        uploads.c.storage_state == bindparam("state_before"),
    )
)


def upload_of(row: Sequence[Any]) -> Upload:
    """Return the upload in an `UPLOAD` row."""
    progress = _progress_of((row[4], row[5], row[7]))
    return Upload(row[0], row[1], row[2], Algorithm(row[3]), progress, row[6])


def _progress_of(row: Sequence[Any]) -> Progress:
    return Progress(row[0], None if row[1] is None else Digest(row[1]), row[2])


def add_upload(writer: Writer, upload: Upload, now: float) -> None:
    """Insert an upload session, unless this very unit ran before."""
    writer.change(
        ADD_UPLOAD,
        {
            "id": upload.id,
            "repository_id": upload.repository_id,
            "account_id": upload.account_id,
            "algorithm": str(upload.algorithm),
            "offset": upload.progress.offset,
            "digest": upload.progress.digest,
            "storage_state": upload.progress.state,
            "created_at": now,
            "expires_at": upload.expires_at,
        },
    )


def count_all_uploads(reader: Reader) -> tuple[int, int]:
    """Return how many upload sessions are open, and how many of them have no byte yet."""
    every = select(func.count()).select_from(uploads)
    return int(reader.scalar(every)), int(reader.scalar(every.where(uploads.c.offset == 0)))


def list_uploads(reader: Reader, *, user: str | None, count: int) -> list[UploadSummary]:
    """Return open upload sessions, those that end first before the others."""
    statement = (
        select(
            uploads.c.id,
            repositories.c.name,
            accounts.c.name,
            uploads.c.offset,
            uploads.c.created_at,
            uploads.c.expires_at,
        )
        .join_from(uploads, repositories, repositories.c.id == uploads.c.repository_id)
        .outerjoin(accounts, accounts.c.id == uploads.c.account_id)
        .order_by(uploads.c.expires_at, uploads.c.id)
        .limit(count)
    )
    if user is not None:
        statement = statement.where(accounts.c.name == user)
    return [UploadSummary(*tuple(row)) for row in reader.execute(statement)]


def take_empty_uploads(
    writer: Writer,
    account_id: int,
    *,
    idle_until: float,
    most: int,
    own: Collection[str] = (),
    forget_empty: bool = False,
) -> list[str]:
    """Delete an account's oldest sessions that have no byte, and return their ids.

    Those in repositories called as one of `own` go first, whatever their age: a token for these
    shall cost others as little as can be. Not nothing, or what was abandoned in one repository
    would keep every client whose token is for another one from pushing.
    Those to which bytes are on their way are kept up, and end later than `idle_until`. With
    `forget_empty` a repository goes with its last session, if nothing came (`forget_if_empty`).
    """
    is_empty = (
        uploads.c.account_id == account_id,
        uploads.c.offset == 0,
        uploads.c.expires_at < idle_until,
    )
    is_own = exists().where(
        repositories.c.id == uploads.c.repository_id, repositories.c.name.in_(own)
    )
    order = (case((is_own, 0), else_=1), uploads.c.created_at) if own else (uploads.c.created_at,)
    oldest = select(uploads.c.id).where(*is_empty).order_by(*order).limit(most)
    taken = delete(uploads).where(uploads.c.id.in_(oldest), *is_empty)
    rows = writer.execute(taken.returning(uploads.c.id, uploads.c.repository_id)).all()
    if forget_empty:
        for repository_id in sorted({row.repository_id for row in rows}):
            forget_if_empty(writer, repository_id)
    return [row.id for row in rows]


def keep_upload(writer: Writer, upload_id: str, expires_at: float) -> None:
    """Have a session whose bytes arrive end later."""
    writer.change(KEEP_UPLOAD, {"upload_id": upload_id, "until": expires_at})


def advance_upload(
    writer: Writer, upload_id: str, *, start: Progress, progress: Progress, expires_at: float
) -> bool | None:
    """Move an upload from `start` to `progress`; return False when it is not at `start` any more.

    Of writers that began at the same place, this decides which one the others go on from. None:
    an earlier attempt may have moved it, and somebody may have gone on from there, or be done.
    """
    parameters = {
        "upload_id": upload_id,
        "start": start.offset,
        "state_before": start.state,
        "stop": progress.offset,
        "state": progress.state,
        "so_far": progress.digest,
        "until": expires_at,
    }
    if writer.change(ADVANCE_UPLOAD, parameters) == 1:
        return True
    return None if writer.may_have_run else False


def upload_progress(reader: Reader, upload_id: str) -> Progress | None:
    """Return how far an upload is, or None when there is no such session."""
    row = reader.first(FIND_PROGRESS, {"id": upload_id})
    return _progress_of(row) if row else None


def remove_upload(writer: Writer, upload_id: str, progress: Progress) -> bool:
    """Delete an upload session that is at `progress`; return whether it was there."""
    parameters = {
        "id": upload_id,
        "start": progress.offset,
        "state_before": progress.state,
    }
    return writer.change(REMOVE_UPLOAD, parameters) == 1


def give_up_upload(writer: Writer, upload: Upload, *, forget_empty: bool) -> bool:
    """Delete a session of which nothing comes, if it is where it was; return whether it was.

    With `forget_empty` its repository goes with it, if that was all it had (`forget_if_empty`).
    """
    is_over = remove_upload(writer, upload.id, upload.progress)
    if is_over and forget_empty:
        forget_if_empty(writer, upload.repository_id)
    return is_over


def take_upload(
    writer: Writer, upload_id: str, *, forget_empty: bool = False, only_empty: bool = False
) -> Progress | None:
    """Delete an upload session wherever it is, and return where; None when there is none.

    With `forget_empty` its repository goes with it, if that was all it had (`forget_if_empty`).
    With `only_empty` one that has bytes is left alone, as if there were none.
    """
    progress = upload_progress(writer, upload_id)
    if progress is None or (only_empty and progress.offset):
        return None
    repository = writer.scalar(select(uploads.c.repository_id).where(uploads.c.id == upload_id))
    remove_upload(writer, upload_id, progress)
    if forget_empty:
        forget_if_empty(writer, int(repository))
    return progress


def forget_upload_digests(writer: Writer) -> None:
    """Have the bytes of every open upload read again when it commits."""
    writer.execute(update(uploads).where(uploads.c.digest.is_not(None)).values(digest=None))


def expired_uploads(reader: Reader, now: float, count: int) -> list[str]:
    """Return ids of sessions that nobody continued in time."""
    statement = select(uploads.c.id).where(uploads.c.expires_at <= now).limit(count)
    return [row[0] for row in reader.execute(statement)]

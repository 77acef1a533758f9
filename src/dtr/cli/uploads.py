"""`dtr upload`."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from dtr.cli.context import ConfigOption, DataDirOption, open_registry
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, confirm, fail, moment, show
from dtr.registry.records import UploadSummary, list_uploads, take_upload
from dtr.storage import BlobStore, Progress

commands = typer.Typer(no_args_is_help=True, help="Uploads that are not finished.")
User = Annotated[str | None, typer.Option(help="Only uploads of this user.")]
_MOST_LISTED = 10_000


@commands.command("ls")
def list_sessions(
    user: User = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """List open uploads, ordered by the time at which they expire."""
    with open_registry(config, data_dir) as registry:
        show(
            registry.database.read_now(list_uploads, user=user, count=_MOST_LISTED),
            {
                "id": lambda upload: upload.id,
                "repository": lambda upload: upload.repository,
                "user": lambda upload: upload.user,
                "bytes": lambda upload: upload.bytes,
                "begun": lambda upload: moment(upload.created_at),
                "ends": lambda upload: moment(upload.expires_at),
            },
            as_json=as_json,
        )


@commands.command("rm")
def remove(
    upload_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="IDs of the uploads.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Cancel all uploads of this user.")] = None,
    empty: Annotated[
        bool, typer.Option("--empty", help="Of these, only uploads without any bytes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Cancel uploads and delete their bytes; clients must start them again."""
    if bool(upload_ids) is (user is not None):
        fail("Name the ids of uploads, or a user with --user.")
    with open_registry(config, data_dir) as registry:
        found = registry.database.read_now(list_uploads, user=user, count=_MOST_LISTED)
        chosen = [each.id for each in _chosen(found, upload_ids, is_empty=empty)]
        unknown = sorted(set(upload_ids or ()) - {each.id for each in found})
        if unknown:
            fail(f"There is no upload {unknown[0]}.")
        if user is not None:
            confirm(f"Cancel {len(chosen)} uploads of {user}?", yes=yes)
        store, forget_empty = registry.store, registry.settings.registry.create_on_push
        # Bytes may have come since the list was made.
        taken = {
            each: registry.database.write_now(
                take_upload, each, only_empty=empty, forget_empty=forget_empty
            )
            for each in chosen
        }
        asyncio.run(_discard(store, taken))
        echo(f"Cancelled {sum(progress is not None for progress in taken.values())}.")


def _chosen(
    found: Sequence[UploadSummary], upload_ids: Sequence[str] | None, *, is_empty: bool
) -> list[UploadSummary]:
    return [
        upload
        for upload in found
        if (not upload_ids or upload.id in upload_ids) and not (is_empty and upload.bytes)
    ]


async def _discard(store: BlobStore, taken: dict[str, Progress | None]) -> None:
    try:
        for upload_id, progress in taken.items():
            if progress is not None:
                await store.discard(upload_id, progress)
    finally:
        await store.close()

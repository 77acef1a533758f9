"""`dtr storage`."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dtr.cli.context import ConfigOption, DataDirOption, Registry, open_registry
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, new_console, show_json
from dtr.server.drivers import storage_options
from dtr.storage import BlobStore, open_blob_store
from dtr.transfer.blobs import BlobCopy, BlobsCopied

commands = typer.Typer(no_args_is_help=True, help="The storage of blobs.")
_CONSOLE = new_console(stderr=True)
_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    DownloadColumn(),
    TransferSpeedColumn(),
    TimeRemainingColumn(),
)


@commands.callback()
def root() -> None:
    """Make `copy` a command below `storage`, though it is the only one."""


@commands.command("copy")
def copy(
    target: Annotated[str, typer.Option("--to", metavar="URL", help="The storage to copy to.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="The storage to copy from. [default: the server's]",
            show_default=False,
        ),
    ] = None,
    at_once: Annotated[
        int, typer.Option(help="Maximum number of blobs copied at the same time.", min=1, max=64)
    ] = 4,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Count the blobs that would be copied; change nothing."),
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy the blobs to another storage, while the registry serves.

    A URL is s3://, azure://, gs:// or file:///DIRECTORY, as in storage.url. For the blobs in a data
    directory, write file:// and its path. Every blob is verified while it is copied, and keeps its
    key. Blobs that are already there are skipped. So run the command once, set storage.url to the
    new storage, restart the servers, and run it again with --from, for what was pushed meanwhile.

    Exit status 1 means that blobs are missing or damaged in the source; 'dtr fsck' shows details.
    """
    with open_registry(config, data_dir) as registry:
        done = asyncio.run(_copy(registry, source, target, at_once, is_dry_run=dry_run))
    if as_json:
        show_json({"dry_run": dry_run, **asdict(done)})
    else:
        for digest in done.damaged:
            echo(f"damaged or missing: {digest}")
        verb = "Would copy" if dry_run else "Copied"
        echo(
            f"{verb} blobs: {done.copied} ({_readable(done.copied_bytes)}). "
            f"There already: {done.present} ({_readable(done.present_bytes)})."
        )
    if done.damaged:
        raise typer.Exit(1)


async def _copy(
    registry: Registry, source: str | None, target: str, at_once: int, *, is_dry_run: bool
) -> BlobsCopied:
    opened: list[BlobStore] = []

    def store_at(url: str) -> BlobStore:
        directory, options = registry.settings.data.directory, storage_options(registry.settings)
        store = open_blob_store(url, directory, options)
        opened.append(store)
        return store

    try:
        taken_from = registry.store if source is None else store_at(source)
        given_to = store_at(target)
        await given_to.check_by_use()
        copying = BlobCopy(
            registry.database, taken_from, given_to, at_once=at_once, is_dry_run=is_dry_run
        )
        _, size = await copying.total()
        with Progress(*_COLUMNS, console=_CONSOLE, transient=True) as shown:
            bar = shown.add_task("Looking" if is_dry_run else "Copying", total=size)
            return await copying.run(lambda count: shown.advance(bar, count))
    finally:
        for store in (*opened, registry.drivers.store):
            await store.close()


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"

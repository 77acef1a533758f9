"""`dtr import`."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dtr.cli.context import ConfigOption, DataDirOption, Registry, open_registry
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, fail, new_console, show, show_json
from dtr.model.access import Visibility
from dtr.model.errors import UnavailableError
from dtr.remote import Credentials, Targets
from dtr.server.app import registry_settings
from dtr.server.passwords import read_password
from dtr.storage import FilesystemBlobStore
from dtr.storage.hard_links import link_file
from dtr.transfer.distribution import DistributionDirectory
from dtr.transfer.importer import Imported, Importer, ImportSettings, Link
from dtr.transfer.remote import RemoteRegistry
from dtr.transfer.source import Source

_CONSOLE = new_console(stderr=True)
_SHOWN_PROBLEMS = 100


def import_registry(
    place: Annotated[
        str,
        typer.Option(
            "--from-distribution",
            metavar="DIR|URL",
            help="A docker-registry's data directory, or a running registry: https://HOST[:PORT].",
        ),
    ],
    repositories: Annotated[
        list[str] | None,
        typer.Option(
            "--repository",
            help="Import this repository only, by its name at the source. May be repeated.",
        ),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Namespace for all imported repositories: NAME becomes PREFIX/NAME.")
    ] = "",
    owner: Annotated[
        str | None,
        typer.Option(help="User who gets the level admin on the imported namespaces."),
    ] = None,
    visibility: Annotated[
        Visibility, typer.Option(help="Visibility of repositories that are created.")
    ] = Visibility.PRIVATE,
    link: Annotated[
        bool,
        typer.Option(
            "--link/--no-link",
            help="Use hard links instead of copies, if the directory is on the same file system.",
        ),
    ] = True,
    overwrite_tags: Annotated[
        bool,
        typer.Option(
            "--overwrite-tags", help="Also move tags that clients pushed to this registry."
        ),
    ] = False,
    username: Annotated[str | None, typer.Option(help="User name at the source registry.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password at the source registry.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept any TLS certificate of a running registry.")
    ] = False,
    token_services: Annotated[
        list[str] | None,
        typer.Option(
            "--token-service",
            metavar="HOST[:PORT]",
            help="Another server that may get the password, to issue tokens. May be repeated.",
        ),
    ] = None,
    networks: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-network",
            metavar="NETWORK",
            help="Private network that the registry may redirect to: 10.0.0.0/8. May be repeated.",
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(help="Maximum number of blobs transferred at the same time.", min=1, max=64),
    ] = 4,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be imported; change nothing.")
    ] = False,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Import the content of a docker-registry: repositories, manifests, tags and blobs.

    All content is verified. The command can run while this registry serves, and can be repeated:
    content that is already here is skipped. A tag that moved at the source moves here, too, unless
    a client pushed it here since.

    Repositories keep their names, so clients only change the host. The first part of a name is the
    namespace; it is created if it does not exist. Exit status 1 means that something was not
    imported. It is listed with the reason.
    """
    settings = ImportSettings(
        prefix, owner, visibility, overwrite_tags, dry_run=dry_run, concurrency=concurrency
    )
    with open_registry(config, data_dir) as registry:
        if not dry_run:
            registry.require_writable()
        credentials = _credentials(username, password_file)
        if place.startswith(("http://", "https://")):
            targets = Targets.parse(place, token_services or (), networks or ())
            source: Source = RemoteRegistry(targets, credentials=credentials, verify=not insecure)
        else:
            source = DistributionDirectory(Path(place))
        linker = _link(registry) if link else None
        done, ended = asyncio.run(_import(registry, source, settings, repositories or (), linker))
    if as_json:
        show_json({"dry_run": dry_run, "ended_early": ended, **asdict(done)})
    else:
        _show(done, dry_run=dry_run)
    if ended:
        fail(f"{ended}. Run it again: it goes on where it was.")
    if done.problems:
        raise typer.Exit(1)


async def _import(
    registry: Registry,
    source: Source,
    settings: ImportSettings,
    repositories: Sequence[str],
    link: Link | None,
) -> tuple[Imported, str]:
    """Return what was done, and why it ended before its end, if it did."""
    try:
        await source.check()
        with _CONSOLE.status("Importing") as status:
            importer = Importer(
                source,
                registry.database,
                registry.store,
                registry_settings(registry.settings),
                settings,
                link=link,
                observe=lambda done: status.update(f"Imported {_counts(done)}"),
            )
            try:
                await importer.run(repositories)
            except UnavailableError as error:
                return importer.done, str(error)
            return importer.done, ""
    finally:
        await source.close()
        await registry.drivers.store.close()


def _credentials(username: str | None, password_file: Path | None) -> Credentials | None:
    if (username is None) != (password_file is None):
        fail("--username and --password-file go together.")
    if username is None or password_file is None:
        return None
    return Credentials(username, read_password(password_file))


def _link(registry: Registry) -> Link | None:
    """Return what makes links, where the storage is a directory."""
    store = registry.store
    return partial(link_file, store) if isinstance(store, FilesystemBlobStore) else None


def _show(done: Imported, *, dry_run: bool) -> None:
    shown = done.problems[:_SHOWN_PROBLEMS]
    columns: dict[str, Callable[..., str]] = {
        "REPOSITORY": lambda problem: problem.repository,
        "NOT IMPORTED": lambda problem: problem.subject,
        "WHY": lambda problem: problem.reason,
    }
    if shown:
        show(shown, columns, as_json=False)
    if len(done.problems) > len(shown):
        echo(f"... and {len(done.problems) - len(shown)} more; --json lists all.")
    echo(f"{'Would import' if dry_run else 'Imported'} {_counts(done)}.")
    if done.problems:
        echo(f"Not imported: {len(done.problems)}.", err=True)


def _counts(done: Imported) -> str:
    linked = f", {done.blobs_linked} of them links" if done.blobs_linked else ""
    return (
        f"{done.repositories} repositories, {done.tags} tags, {done.manifests} manifests, "
        f"{done.blobs} blobs ({done.bytes / 1e6:.1f} MB{linked}); here before: "
        f"{done.tags_present} tags, {done.manifests_present} manifests"
    )

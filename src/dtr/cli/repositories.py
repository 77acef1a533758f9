"""`dtr repo`."""

import asyncio
from typing import Annotated

import typer

from dtr.cli.completing import levels, namespaces, repository_names, users
from dtr.cli.context import ConfigOption, DataDirOption, open_registry
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, confirm, fail, moment, show
from dtr.model.access import Level, Visibility
from dtr.model.names import RepositoryName
from dtr.registry import manage
from dtr.storage import BlobStore

commands = typer.Typer(no_args_is_help=True, help="Repositories and grants.")
NewName = Annotated[str, typer.Argument(help="The repository's name, as NAMESPACE/NAME.")]
Name = Annotated[
    str,
    typer.Argument(
        help="The repository's name, as NAMESPACE/NAME.", autocompletion=repository_names
    ),
]
Target = Annotated[
    str,
    typer.Argument(
        help="The repository, or with --namespace the namespace.", autocompletion=repository_names
    ),
]
Public = Annotated[
    bool, typer.Option("--public/--private", help="Public: everybody can pull, without logging in.")
]
User = Annotated[str, typer.Argument(help="The user.", autocompletion=users)]
WholeNamespace = Annotated[
    bool,
    typer.Option(
        "--namespace", help="NAME is a namespace: the grant is for all of its repositories."
    ),
]


@commands.command("list")
def list_repositories(
    namespace: Annotated[
        str | None,
        typer.Argument(help="Only repositories of this namespace.", autocompletion=namespaces),
    ] = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """List repositories.

    Content that several repositories have is counted in the bytes of each. A manifest is untagged
    if no tag leads to it, directly or through an index, a subject or a referrer. The setting
    collect.untagged decides whether such manifests are deleted.
    """
    with open_registry(config, data_dir) as registry:
        manage.finish_edges(registry.database)
        show(
            registry.database.read_now(manage.list_repositories, namespace),
            {
                "name": lambda repository: repository.name,
                "visibility": lambda repository: repository.visibility,
                "tags": lambda repository: repository.tags,
                "manifests": lambda repository: repository.manifests,
                "bytes": lambda repository: repository.bytes,
                "untagged": lambda repository: repository.untagged.manifests,
                "untagged bytes": lambda repository: repository.untagged.bytes,
                "pulls": lambda repository: repository.pulls,
                "last pulled": lambda repository: moment(repository.last_pulled_at),
            },
            as_json=as_json,
        )


@commands.command("create")
def create(
    name: NewName,
    public: Public = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Create a repository; a push to your own namespace creates it, too."""
    with open_registry(config, data_dir) as registry:
        repository = RepositoryName.parse(name)
        registry.database.write_now(manage.create_repository, repository, _visibility(public))
        echo(f"Created {name}, {_visibility(public)}.")


@commands.command("set")
def set_visibility(
    name: Name,
    public: Public,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a repository public or private."""
    with open_registry(config, data_dir) as registry:
        repository = RepositoryName.parse(name)
        registry.database.write_now(manage.set_visibility, repository, _visibility(public))
        echo(f"{name} is {_visibility(public)} now.")


@commands.command("rm")
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a repository with its tags and manifests; garbage collection frees the bytes."""
    with open_registry(config, data_dir) as registry:
        repository = RepositoryName.parse(name)
        registry.require_writable()
        registry.database.read_now(manage.require_repository, repository)
        confirm(f"Remove {name} with everything in it?", yes=yes)
        store = registry.store  # before anything is gone: it may be another one than the server's
        sessions = registry.database.write_now(manage.remove_repository, repository)
        asyncio.run(_discard(store, sessions))
        echo(f"Removed {name}.")


@commands.command("grant")
def grant(
    name: Target,
    user: User,
    level: Annotated[
        str, typer.Argument(help="read-only, read-write or admin.", autocompletion=levels)
    ],
    whole_namespace: WholeNamespace = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Grant access: pull (read-only), push and delete (read-write), or everything (admin)."""
    try:
        granted = Level.parse(level)
    except ValueError as error:
        fail(str(error))
    with open_registry(config, data_dir) as registry:
        registry.database.write_now(
            manage.grant, name, user, granted, whole_namespace=whole_namespace
        )
        echo(f"{user} has {granted} on {name} now.")


@commands.command("revoke")
def revoke(
    name: Target,
    user: User,
    whole_namespace: WholeNamespace = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Revoke a grant, and show which access the user still has."""
    with open_registry(config, data_dir) as registry:
        taken, left = registry.database.write_now(
            manage.revoke, name, user, whole_namespace=whole_namespace
        )
    where = f"the namespace {name}" if whole_namespace else name
    had = f"Revoked: {user} had {taken} on {where}."
    nothing = f"There was no grant to revoke: {user} had none on {where} itself."
    echo(nothing if taken is Level.NONE else had)
    for way in left:
        echo(f"Still: {user} has {way.level} on {way.where}, {way.reason}.")
    if not left:
        echo(f"{user} has no access to {where} now.")


@commands.command("grants")
def list_grants(
    name: Name,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """List the grants on a repository and on its namespace."""
    with open_registry(config, data_dir) as registry:
        show(
            registry.database.read_now(manage.list_grants, RepositoryName.parse(name)),
            {"user": lambda entry: entry[0], "level": lambda entry: str(entry[1])},
            as_json=as_json,
        )


def _visibility(public: bool) -> Visibility:
    return Visibility.PUBLIC if public else Visibility.PRIVATE


async def _discard(store: BlobStore, uploads: list[str]) -> None:
    try:
        for upload_id in uploads:
            await store.discard(upload_id)
    finally:
        await store.close()

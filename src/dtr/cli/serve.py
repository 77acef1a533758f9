"""`dtr serve`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from dtr.cli.context import (
    ConfigOption,
    DataDirOption,
    failures_as_sentences,
    refuse_password,
    settings_of,
)
from dtr.cli.output import echo
from dtr.server.bootstrap import FirstAdministrator
from dtr.server.serve import Started
from dtr.server.serve import serve as serve_registry


def serve(
    data_dir: DataDirOption = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS:PORT",
            help="Address and port to listen on. Plain HTTP on the loopback address, TLS on "
            "every other. [default: 127.0.0.1:5000]",
            show_default=False,
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            metavar="postgresql://...",
            help="URL of PostgreSQL for the metadata, with all its hosts. It must not have a "
            "password: use DTR_DATABASE__PASSWORD_FILE or ~/.pgpass. [default: SQLite in "
            "the data directory]",
            show_default=False,
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Storage of the blobs: file:///DIRECTORY, "
            "s3://BUCKET/PREFIX?endpoint=...&region=..., "
            "azure://CONTAINER/PREFIX?account=... or gs://BUCKET/PREFIX. Credentials come from "
            "the environment, files or the machine's role. [default: the data directory]",
            show_default=False,
        ),
    ] = None,
    storage_redirect: Annotated[
        bool,
        typer.Option(
            "--storage-redirect",
            help="Redirect pulls of blobs to signed URLs of the object store.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Number of web worker processes. [default: one per core]",
            show_default=False,
            min=0,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate for TLS, with its chain (PEM).")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Private key of the certificate (PEM).")
    ] = None,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Serve plain HTTP on any address.")
    ] = False,
    admin_password_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the first administrator's password. [default: a password is generated]"
        ),
    ] = None,
    drain_seconds: Annotated[
        float | None,
        typer.Option(
            help="Seconds that running requests may take after SIGTERM. [default: 30]",
            show_default=False,
        ),
    ] = None,
    log_format: Annotated[
        str | None,
        typer.Option(
            metavar="text|json", help="Format of the log. [default: text]", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run the registry in the foreground until SIGTERM or Ctrl-C.

    The first start creates the data directory and the administrator 'admin'. If TLS is needed and
    you give no certificate, it also creates a certificate authority, which clients can get at /ca.

    Every setting can also come from the environment (DTR_SECTION__KEY) or from a TOML file. 'dtr
    config sample' prints a file with all settings.
    """
    given: dict[str, dict[str, object | None]] = {
        "server": {
            "listen": listen,
            "workers": workers,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "insecure_http": insecure_http or None,
            "drain_seconds": drain_seconds,
        },
        "database": {"url": database_url},
        "data": {"admin_password_file": admin_password_file},
        "log": {"format": log_format},
        "storage": {"url": storage, "redirect": storage_redirect or None},
    }
    with failures_as_sentences():
        refuse_password(database_url)
        settings = settings_of(
            config,
            data_dir,
            {
                section: {key: value for key, value in values.items() if value is not None}
                for section, values in given.items()
            },
        )
    with failures_as_sentences(settings.data.directory.absolute()):
        serve_registry(settings, _announce)


def _announce(started: Started) -> None:
    host = started.url.partition("://")[2]
    echo(f"Registry at {started.url}")
    if started.ca is not None:
        echo(f"Clients must trust {started.ca}, also served at {started.url}/ca")
    if started.administrator is not None:
        for name, value in _credentials(started.administrator):
            echo(f"{name and '  '}{name:<15}{value}".rstrip())
        echo(
            f"\nTry it:\n  docker login {host} -u {started.administrator.name}\n"
            f"  docker tag IMAGE {host}/admin/hello && docker push {host}/admin/hello\n"
            f"  docker pull {host}/admin/hello\n"
        )


def _credentials(made: FirstAdministrator) -> Iterator[tuple[str, str]]:
    """Yield lines about the first account.

    A password that was made is shown at a terminal only: elsewhere the output is kept in a journal
    or a log, which others may read for years.
    """
    yield "", ""
    yield "Administrator", made.name
    if made.password is None:
        which = "whose hash is in" if made.is_hashed else "in"
        yield "Password", f"the one {which} {made.password_file}"
    elif sys.stdout.isatty():
        yield "Password", made.password
        yield "also kept in", str(made.password_file)
    else:
        yield "Password", f"in {made.password_file}"

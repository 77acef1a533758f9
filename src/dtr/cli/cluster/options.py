"""Options that the cluster's commands share, with the original's names."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dtr.cli.terminal import fail

_MAX_PORT: Final = 65_535
_PEM: Final = "-----BEGIN "
_PRIVATE: Final = "PRIVATE KEY-----"


def refuse_key_argument(
    context: typer.Context, parameter: typer.CallbackParam, value: str | None
) -> str | None:
    """Refuse a private key that stands on the command line, where every user can read it."""
    source = context.get_parameter_source(str(parameter.name))
    if value and _PRIVATE in value and source is not None and source.name == "COMMANDLINE":
        fail(
            "the command line is no place for a private key: other users of this machine can read "
            "it. Name a file with --dtr-key, or put it into DTR_KEY."
        )
    return value


NodeOption = Annotated[
    str | None,
    typer.Option(
        "--ucp-node",
        envvar="UCP_NODE",
        metavar="NAME",
        help="The hostname of the node that it is done on.",
    ),
]
ExistingReplicaOption = Annotated[
    str | None,
    typer.Option(
        "--existing-replica-id",
        envvar="DTR_REPLICA_ID",
        metavar="ID",
        help="ID of an existing replica in a cluster.",
    ),
]
NewReplicaOption = Annotated[
    str | None,
    typer.Option(
        "--replica-id",
        envvar="DTR_INSTALL_REPLICA_ID",
        metavar="ID",
        help="ID of the new replica: 12 hexadecimal digits. Generated when left out.",
    ),
]
HttpsPortOption = Annotated[
    int,
    typer.Option(
        "--replica-https-port",
        envvar="REPLICA_HTTPS_PORT",
        min=1,
        max=_MAX_PORT,
        help="Port of the replica for HTTPS.",
    ),
]
HttpPortOption = Annotated[
    int,
    typer.Option(
        "--replica-http-port",
        envvar="REPLICA_HTTP_PORT",
        min=1,
        max=_MAX_PORT,
        help="Port of the replica for HTTP: health checks; everything else is redirected to HTTPS.",
    ),
]
ExternalUrlOption = Annotated[
    str | None,
    typer.Option(
        "--dtr-external-url",
        envvar="DTR_EXTERNAL_URL",
        metavar="URL",
        help="URL at which clients reach the registry: a replica, or the load balancer.",
    ),
]
CertificateOption = Annotated[
    str | None,
    typer.Option(
        "--dtr-cert",
        envvar="DTR_CERT",
        metavar="PEM|FILE",
        help="The web certificate, with its chain. Without it UCP's authority makes one.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--dtr-key",
        envvar="DTR_KEY",
        metavar="FILE",
        callback=refuse_key_argument,
        help="The private key of --dtr-cert: a file, or PEM in the environment variable.",
    ),
]
AuthorityOption = Annotated[
    str | None,
    typer.Option(
        "--dtr-ca",
        envvar="DTR_CA",
        metavar="PEM|FILE",
        help="The authority of --dtr-cert; it is added to the chain.",
    ),
]
LogLevelOption = Annotated[
    str | None,
    typer.Option("--log-level", envvar="LOG_LEVEL", help="Log level of all replicas."),
]
SettingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--setting",
        metavar="SECTION.KEY=VALUE",
        help="A setting of all replicas, as in dtr.toml; may be repeated.",
    ),
]
NfsOption = Annotated[
    str | None,
    typer.Option("--nfs-storage-url", envvar="NFS_STORAGE_URL", hidden=True),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Show what would be done, or why it would be refused; change nothing."
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", envvar="YES", help="Do not ask.")]


def settings_of(given: list[str] | None, log_level: str | None) -> dict[str, dict[str, Any]]:
    """Return settings by section; values are TOML, and text where they are not."""
    found: dict[str, dict[str, Any]] = {}
    pairs = [*(given or []), *([f"log.level={log_level.lower()}"] if log_level else [])]
    for pair in pairs:
        name, equals, value = pair.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and section and key):
            fail(f"--setting {pair!r} is not of the form SECTION.KEY=VALUE, as in log.level=debug.")
        found.setdefault(section, {})[key] = _value(value.strip())
    return found


def refuse_nfs(url: str | None) -> None:
    """Say what became of the original's option."""
    if url:
        fail(
            "DTR does not mount directories. Mount that NFS directory at the same place on every "
            "node, and pass --storage file:///THE/DIRECTORY --storage-is-shared."
        )


def web_certificate(
    certificate: str | None, key: str | None, authority: str | None
) -> dict[str, str] | None:
    """Return the web certificate and its key; None where none was brought."""
    if certificate is None and key is None:
        if authority is not None:
            fail("--dtr-ca belongs to --dtr-cert, which is not given.")
        return None
    if certificate is None or key is None:
        missing = "--dtr-cert" if certificate is None else "--dtr-key"
        fail(f"--dtr-cert and --dtr-key go together, and {missing} is not given.")
    chain = _pem(certificate, "--dtr-cert")
    if authority is not None:
        added = _pem(authority, "--dtr-ca").strip()
        chain = chain if added in chain else f"{chain.rstrip()}\n{added}\n"
    return {"certificate": chain, "key": _pem(key, "--dtr-key")}


def _pem(text: str, option: str) -> str:
    if _PEM in text:
        return text
    try:
        content = Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        fail(f"{option} is neither PEM nor the name of a file that can be read.")
    if _PEM not in content:
        fail(f"The file that {option} names is not in PEM format.")
    return content


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text

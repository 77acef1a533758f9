"""How commands of `ucp` and `dtr` get at the control plane: options, questions, and a session."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, Final, NoReturn, ParamSpec, TypeVar

import typer
from pydantic import ValidationError

from dtr.cli.terminal import fail
from dtr.model.errors import InvalidError
from dtr.server.passwords import read_password
from dtr.server.settings_sources import unknown_variables
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.authority import AuthorityError
from dtr.ucp.bootstrap import BootstrapError
from dtr.ucp.client import UcpClient, UcpError
from dtr.ucp.model import NodeIdentity, Wanted
from dtr.ucp.tokens import TokenError

P = ParamSpec("P")
R = TypeVar("R")

DATA_DIRECTORY: Final = Path("/var/lib/ucp")
_PEM: Final = "-----BEGIN CERTIFICATE-----"
_STANDARD_INPUT: Final = "-"


def refuse_argument(
    context: typer.Context, parameter: typer.CallbackParam, value: str | None
) -> str | None:
    """Refuse a password that stands on the command line, where every user can read it.

    The callback of options whose environment variable may hold one; `-` means standard input.
    """
    source = context.get_parameter_source(str(parameter.name))
    is_argument = source is not None and source.name == "COMMANDLINE"
    if value is None or value == _STANDARD_INPUT or not is_argument:
        return value
    option, variable = parameter.opts[0], parameter.envvar
    return fail(
        "a password on the command line is refused: other users of this machine can read it. "
        f"Put it into {variable}, or into a file that {option}-file names, or say '{option} -' and "
        "write it to standard input, or leave it out and be asked."
    )


UcpUrlOption = Annotated[
    str | None,
    typer.Option(
        "--ucp-url",
        envvar="UCP_URL",
        metavar="HOST[:PORT]",
        help="URL of UCP, with host and port. Default on a node: its own control plane.",
    ),
]
UcpUsernameOption = Annotated[
    str | None,
    typer.Option(
        "--ucp-username",
        envvar="UCP_USERNAME",
        help="User name of the UCP administrator.",
    ),
]
UcpPasswordOption = Annotated[
    str | None,
    typer.Option(
        "--ucp-password",
        envvar="UCP_PASSWORD",
        metavar="-",
        callback=refuse_argument,
        help="Password of the UCP administrator: only '-', which reads it from standard input. "
        "A terminal asks for it. Other users can read arguments, so a password is refused "
        "here.",
    ),
]
UcpPasswordFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ucp-password-file",
        envvar="UCP_PASSWORD_FILE",
        help="Read the UCP administrator password from the first line of this file.",
    ),
]
UcpCaOption = Annotated[
    str | None,
    typer.Option(
        "--ucp-ca",
        envvar="UCP_CA",
        metavar="PEM|FILE",
        help="CA certificate of UCP. Default on a node: its own.",
    ),
]
UcpInsecureTlsOption = Annotated[
    bool,
    typer.Option(
        "--ucp-insecure-tls",
        envvar="UCP_INSECURE_TLS",
        help="Accept any TLS certificate of UCP.",
    ),
]
UcpDataDirOption = Annotated[
    Path,
    typer.Option(
        "--ucp-data-dir",
        envvar="UCP_DATA_DIR",
        readable=False,  # whoever is not root may enter it, and not list it
        help="Data directory of UCP, if this machine is a node.",
    ),
]


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What a command was told about the control plane; what is missing is asked for."""

    url: str | None = None
    username: str | None = None
    password: str | None = None
    password_file: Path | None = None
    ca: str | None = None
    insecure_tls: bool = False
    data_directory: Path = DATA_DIRECTORY

    def __repr__(self) -> str:
        return f"ConnectionOptions(url={self.url!r}, …)"


_PARAMETERS: Final[dict[str, tuple[str, Any, Any]]] = {
    "ucp_url": ("url", UcpUrlOption, None),
    "ucp_username": ("username", UcpUsernameOption, None),
    "ucp_password": ("password", UcpPasswordOption, None),
    "ucp_password_file": ("password_file", UcpPasswordFileOption, None),
    "ucp_ca": ("ca", UcpCaOption, None),
    "ucp_insecure_tls": ("insecure_tls", UcpInsecureTlsOption, False),
    "ucp_data_dir": ("data_directory", UcpDataDirOption, DATA_DIRECTORY),
}


def takes_connection(command: Callable[Concatenate[ConnectionOptions, P], R]) -> Callable[..., R]:
    """Give a command the `--ucp-…` options; its first parameter receives them together."""

    @functools.wraps(command)
    def called(*args: Any, **given: Any) -> R:
        _refuse_unknown_variables()
        options = {name: given.pop(parameter) for parameter, (name, _, _) in _PARAMETERS.items()}
        return command(ConnectionOptions(**options), *args, **given)

    signature = inspect.signature(command)
    own = list(signature.parameters.values())[1:]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (_, kind, default) in _PARAMETERS.items()
    ]
    kinds = {parameter.name: parameter.annotation for parameter in (*own, *added)}
    called.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own), *added]
    )
    called.__annotations__ = {**kinds, "return": None}
    return called


def _refuse_unknown_variables() -> None:
    unknown = unknown_variables(os.environ, with_control_plane=True)
    problems = [f"{each.key}: {each.message}" for each in unknown]
    if problems:
        fail("\n".join(["The environment is not usable:", *problems]))


def connect(options: ConnectionOptions) -> UcpClient:
    """Return a session with the control plane, asking at a terminal for what is missing.

    Raises:
        UcpError: it cannot be reached or trusted, or refuses the name and password.
        InvalidError: the password file cannot be used.

    """
    client = client_of(options)
    try:
        log_in(client, options)
    except BaseException:
        client.close()
        raise
    return client


def log_in(client: UcpClient, options: ConnectionOptions) -> None:
    """Begin a client's session, asking at a terminal for what is missing.

    Raises:
        UcpError: no controller answers, or the name and password are refused.
        InvalidError: the password file cannot be used.

    """
    username = options.username or ask("ucp-username", "The UCP administrator username")
    client.login(username, _password(options))


@contextmanager
def connected(options: ConnectionOptions) -> Iterator[UcpClient]:
    """Give a session for the length of a command; what goes wrong in it becomes one sentence."""
    with ucp_failures_as_sentences(), connect(options) as client:
        yield client


@contextmanager
def ucp_failures_as_sentences() -> Iterator[None]:
    """Turn what the control plane refuses into one message and exit status 1.

    A variable that names nothing of ours ends the command before it begins.
    """
    _refuse_unknown_variables()
    try:
        yield
    except (UcpError, InvalidError, AuthorityError, BootstrapError, TokenError) as error:
        fail(str(error), is_sentence=isinstance(error, UcpError))


def ask(
    name: str,
    description: str = "",
    *,
    default: str | None = None,
    hidden: bool = False,
    variable: str = "",
) -> str:
    """Ask at the terminal for an option that was not given: `name (description): `.

    Without a terminal it fails, naming the option and its environment variable, which is called as
    the option is where nothing else is said. Questions go to standard error, so that what a
    script captures is the answer only.
    """
    if not sys.stdin.isatty():
        _not_asked(name, variable or name.upper().replace("-", "_"))
    text = f"{name} ({description})" if description else name
    return str(typer.prompt(text, default=default, hide_input=hidden, err=True)).strip()


def _not_asked(name: str, variable: str) -> NoReturn:
    file = f", or name a file with --{name}-file" if name.endswith(("password", "token")) else ""
    how = f"Set {variable}{file}."
    if not name.endswith("password"):
        how = f"Pass --{name}, or set {variable}{file}."
    fail(f"--{name} is needed, and there is no terminal to ask at. {how}")


def identity_of(directory: Path) -> NodeIdentity | None:
    """Return which node this machine is, if it is one that this user may look at.

    Raises:
        UcpError: its `node.json` is damaged.

    """
    path = NodeDirectory(directory).identity
    try:
        return NodeIdentity.model_validate_json(path.read_bytes())
    except OSError:
        return None
    except ValidationError:
        raise UcpError(
            f"The file {path} is not one that UCP wrote.",
            "Restore it from a backup of this machine, or name another --ucp-data-dir.",
        ) from None


def client_of(options: ConnectionOptions, *, trusts_anybody: bool = False) -> UcpClient:
    """Return a client that is not logged in.

    Raises:
        UcpError: the address or the authority is none.

    """
    identity = identity_of(options.data_directory)
    ca_pem = None if options.ca is None else _pem(options.ca)
    if ca_pem is None and identity is not None:
        ca_pem = _readable(NodeDirectory(options.data_directory).ca)
    addresses = [options.url] if options.url else _own_controllers(options, identity)
    if not addresses:
        addresses = [ask("ucp-url", "The UCP URL including domain and port")]
    return UcpClient(
        addresses[0],
        ca_pem=ca_pem,
        insecure=options.insecure_tls or trusts_anybody,
        others=addresses[1:],
    )


def _own_controllers(options: ConnectionOptions, identity: NodeIdentity | None) -> list[str]:
    """Return what this node knows of controllers, its own first."""
    if identity is None:
        return []
    found = identity.controllers
    try:
        path = NodeDirectory(options.data_directory).wanted
        found = Wanted.model_validate_json(path.read_bytes()).controllers or found
    except (OSError, ValidationError):
        pass  # Only root may read it, and a new node has none; what it began with is good, too.
    own = identity.host_address
    return sorted(found, key=lambda each: each.rpartition(":")[0].strip("[]") != own)


def _password(options: ConnectionOptions) -> str:
    if options.password_file is not None:
        return read_password(options.password_file)
    if options.password == _STANDARD_INPUT:
        return sys.stdin.readline().rstrip("\n")
    return options.password or ask("ucp-password", hidden=True)


def _pem(text: str) -> str:
    if _PEM in text:
        return text
    content = _readable(Path(text))
    if content is None:
        raise UcpError(
            f"The file {text[:200]} that --ucp-ca names cannot be read.",
            "Give the PEM itself, or the name of a file that has it.",
        )
    return content


def _readable(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        return None

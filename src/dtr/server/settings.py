"""All settings: what can be configured, and within which bounds.

The models below are the only description of a setting: `settings_sources` reads their values, and
`settings_pages` writes the sample file and docs/configuration.md from them.
"""

import functools
import ipaddress
import os
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo

from dtr.model.errors import InvalidError
from dtr.model.location import StorageLocation
from dtr.model.names import parse_account_name
from dtr.model.timing import check_timing

_DAY: Final = 86_400
_MIB: Final = 2**20
_MAX_PORT: Final = 65_535
_SERVICE: Final = re.compile(r"[A-Za-z0-9._:/-]{1,255}")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Secret(SecretStr):
    """A text that no log, traceback or error message can show: its `repr` and `str` are `***`."""

    def _display(self) -> str:
        return "***" if self.get_secret_value() else ""

    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An IP address and a TCP port to listen on.

    >>> ListenAddress.parse("[::1]:5000")
    ListenAddress(host='::1', port=5000)
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `ADDRESS:PORT`; IPv6 addresses stand in brackets, `localhost` means 127.0.0.1.

        Raises:
            ValueError: it is not of that form, and the message says what is wrong.
        """
        host, _, port = text.rpartition(":")
        host = "127.0.0.1" if host == "localhost" else host
        bracketed = host.startswith("[") and host.endswith("]")
        if not host or host == "*":
            raise ValueError(f"{text!r} names no address: write 0.0.0.0:PORT for every interface")
        if not (port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= _MAX_PORT):
            raise ValueError(f"{text!r} must end in :PORT, a number from 1 to {_MAX_PORT}")
        try:
            address = ipaddress.ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            raise ValueError(f"{text!r} does not start with an IP address") from None
        if bracketed != (address.version == 6):  # noqa: PLR2004 (IPv6)
            raise ValueError(f"{text!r} must have brackets around an IPv6 address, and only there")
        return cls(str(address), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _listen(value: object) -> ListenAddress:
    if isinstance(value, ListenAddress):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text of the form ADDRESS:PORT")  # noqa: TRY004 (pydantic's way)
    return ListenAddress.parse(value)


def _optional_listen(value: object) -> ListenAddress | None:
    return None if value in ("", None) else _listen(value)


def _expanded(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value or "\0" in value:
        raise ValueError("must be a path")
    return os.path.expanduser(value)  # noqa: PTH111 (Path.expanduser fails for an unknown user)


def _optional_path(value: object) -> object:
    return None if value in ("", None) else _expanded(value)


def _networks(value: object) -> object:
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError("must be a list of networks such as 10.0.0.0/8")  # noqa: TRY004
    return tuple(_network(str(item)) for item in items if item != "")


def _network(text: str) -> Network:
    # From text because the module would take a bare integer for an address.
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("must be a list of networks such as 10.0.0.0/8") from None
    raise ValueError(f"names an address within a network: write {meant}")


def _public_url(value: str) -> str:
    try:
        url = urllib.parse.urlsplit(value.rstrip("/"))
        is_plain = url.scheme in ("http", "https") and url.hostname and "@" not in url.netloc
        _ = url.port  # fails where it is not a port
    except ValueError:
        is_plain = False
    if value and not (is_plain and not url.path and not url.query and not url.fragment):
        raise ValueError(
            "must be http:// or https://, a host and, optionally, a port, without a path"
        )
    return url.geturl()


def _service(value: str) -> str:
    if not _SERVICE.fullmatch(value):
        raise ValueError("must be 1 to 255 letters, digits and the characters . _ : / -")
    return value


def _path_prefix(value: str) -> str:
    prefix = value.rstrip("/")
    if prefix and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", prefix, re.ASCII):
        raise ValueError("must be a path such as /registry, of letters, digits and . _ ~ -")
    if {".", ".."} & set(prefix.split("/")):
        raise ValueError("must not have . or .. as a part")
    return prefix


def _origins(value: object) -> object:
    items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError("must be a list of sites such as https://ui.example")  # noqa: TRY004
    found = tuple(str(item) for item in items if item != "")
    for item in found:
        if item != "*" and (not item or _public_url(item) != item):
            raise ValueError("must be sites such as https://ui.example, or *")
    return found


def _cron(value: str) -> str:
    return check_timing(value) if value else value


def _storage_url(value: str) -> str:
    return str(StorageLocation.parse(value)) if value else ""


def _account_name(value: str) -> str:
    try:
        return parse_account_name(value)
    except InvalidError as error:
        raise ValueError(str(error)) from None


_StorageUrl = Annotated[str, AfterValidator(_storage_url)]
_Listen = Annotated[ListenAddress, PlainValidator(_listen)]
_OptionalListen = Annotated[ListenAddress | None, PlainValidator(_optional_listen)]
_AccountName = Annotated[str, AfterValidator(_account_name)]
_Path = Annotated[Path, BeforeValidator(_expanded)]
_OptionalPath = Annotated[Path | None, BeforeValidator(_optional_path)]
_Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks)]
_PathPrefix = Annotated[str, AfterValidator(_path_prefix)]
_Origins = Annotated[tuple[str, ...], BeforeValidator(_origins)]
_PublicUrl = Annotated[str, AfterValidator(_public_url)]
_Service = Annotated[str, AfterValidator(_service)]
_Cron = Annotated[str, AfterValidator(_cron)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


class ServerSettings(_Section):
    """Where and how the registry is reached."""

    listen: _Listen = ListenAddress("127.0.0.1", 5000)
    """Address and port to listen on."""
    workers: int = Field(0, ge=0, le=1024)
    """Web worker processes; 0 is one per processor core."""
    tls_cert: _OptionalPath = None
    """PEM file with the certificate and its chain. Empty: DTR makes its own certificate."""
    tls_key: _OptionalPath = Field(None, validate_default=True)
    """PEM file with the private key of `tls_cert`."""
    tls_ca: _OptionalPath = None
    """PEM file with the authority that signed `tls_cert`. Clients can fetch it at /ca."""
    http_listen: _OptionalListen = None
    """Address and port for plain HTTP: /_ping and /health, and a redirect to HTTPS for the rest."""
    proxy_listen: _OptionalListen = None
    """Address and port for balancers that send PROXY protocol 2 (docs/operating.md)."""
    balancers: _Networks = ()
    """Networks (CIDR) of the balancers. Only these may connect to proxy_listen."""
    insecure_http: bool = False
    """Serve plain HTTP. Passwords and tokens are then sent unencrypted."""
    drain_seconds: float = Field(30, ge=0, le=3600)
    """How long running requests may take at shutdown."""
    public_url: _PublicUrl = ""
    """URL that clients use, for the token realm. Empty: taken from the Host header."""
    path_prefix: _PathPrefix = ""
    """Path prefix of the registry, such as /registry. /_ping and /health work without it, too."""
    absolute_locations: bool = False
    """Whether Location and Link have scheme and host, for clients that need absolute URLs."""
    cors_origins: _Origins = ()
    """Sites whose pages may call the registry (CORS), such as https://ui.example. *: every site."""
    trusted_proxies: _Networks = ()
    """Networks (CIDR) of the proxies whose X-Forwarded-* or Forwarded headers are used."""
    forwarded_header: Literal["auto", "x-forwarded", "forwarded"] = "auto"
    """Which header the proxies write. auto: X-Forwarded-* if present, else Forwarded."""
    header_read_seconds: float = Field(10, ge=0.1, le=600)
    """How long a client may take to send its headers, from the first byte on."""
    keep_alive_seconds: float = Field(120, ge=0.1, le=86_400)
    """How long a connection may be idle between requests. Balancers need a shorter limit."""
    body_idle_seconds: float = Field(60, ge=0.1, le=3600)
    """How long a client may pause while it sends a body or reads an answer."""
    small_body_seconds: float = Field(60, ge=0.1, le=3600)
    """How long a manifest or a login request may take to arrive completely."""
    transfer_seconds: float = Field(21_600, ge=1, le=7 * _DAY)
    """How long any body or answer may take in total."""
    least_bytes_per_second: int = Field(1024, ge=0, le=_MIB)
    """Minimum speed of bodies and answers, averaged over body_idle_seconds. 0: no minimum."""
    connections: int = Field(4096, ge=16, le=100_000)
    """Maximum number of connections of each web worker."""
    connections_per_address: int = Field(256, ge=0, le=100_000)
    """Maximum per client address (IPv6: /64), proxies and balancers excepted. 0: no limit."""
    metrics_public: bool = False
    """Whether /metrics answers without authentication."""

    @field_validator("tls_key")
    @classmethod
    def _come_in_pairs(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if "tls_cert" in info.data and (value is None) != (info.data["tls_cert"] is None):
            missing = "tls_key" if value is None else "tls_cert"
            raise ValueError(f"tls_cert and tls_key go together, and {missing} is not set")
        return value

    @field_validator("tls_ca")
    @classmethod
    def _belongs_to_a_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert", value) is None:
            raise ValueError("belongs to tls_cert, which is not set: DTR's own authority is at /ca")
        return value

    @field_validator("http_listen", "proxy_listen")
    @classmethod
    def _is_another_address(
        cls, value: ListenAddress | None, info: ValidationInfo
    ) -> ListenAddress | None:
        others = ("listen",) if info.field_name == "http_listen" else ("listen", "http_listen")
        for name in others:
            if value is not None and value.port == getattr(info.data.get(name), "port", 0):
                raise ValueError(f"must have another port than server.{name}")
        return value

    @field_validator("insecure_http")
    @classmethod
    def _exclude_tls(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if value and info.data.get("tls_cert") is not None:
            raise ValueError("cannot be combined with tls_cert: remove one of the two")
        return value


class DataSettings(_Section):
    """Where metadata and blobs are kept."""

    directory: _Path = Path("data")
    """The data directory. It is created if it is missing."""
    admin_password_file: _OptionalPath = None
    """File with the first administrator's password. Empty: a password is generated."""
    admin_password_hash_file: _OptionalPath = None
    """File with the argon2id hash of that password, in place of the password itself."""
    admin_username: _AccountName = "admin"
    """Name of the first administrator. Used only while the registry has no account."""

    @field_validator("admin_password_hash_file")
    @classmethod
    def _instead_of_a_password(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("admin_password_file") is not None:
            raise ValueError("cannot be combined with admin_password_file: remove one of the two")
        return value


class DatabaseSettings(_Section):
    """The metadata."""

    url: Secret = Secret("")
    """libpq URL of PostgreSQL, with all hosts (a replica's has none). Empty: built-in SQLite."""
    password_file: _OptionalPath = None
    """File with the database's password. The URL then needs no password."""
    failover_wait_seconds: float = Field(60, ge=1, le=3600)
    """How long a request waits for a database that does not answer, before it gets 503."""
    stale_after_seconds: float = Field(2, ge=0.1, le=60)
    """How long a pull waits for the primary before a standby answers."""
    connections: int = Field(4, ge=1, le=100)
    """Maximum connections of each process for writing, and the same number for reading."""


class LogSettings(_Section):
    """What the server logs."""

    format: Literal["text", "json"] = "text"
    """text: lines for people. json: one JSON object per line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is written."""
    access: bool = True
    """Whether a line is written for each request."""


class LimitSettings(_Section):
    """Limits on what a client may send or request."""

    manifest_bytes: int = Field(4 * _MIB, ge=1024, le=64 * _MIB)
    """Maximum size of a manifest."""
    blob_bytes: int = Field(0, ge=0, le=2**63 - 1)
    """Maximum size of a blob. 0: unlimited (up to 2^63-1)."""
    manifest_references: int = Field(40_000, ge=1, le=1_000_000)
    """Maximum number of descriptors in a manifest or index. 4 MiB cannot hold more."""
    json_nesting: int = Field(32, ge=8, le=512)
    """Maximum nesting depth of a manifest's JSON."""
    json_tokens: int = Field(320_000, ge=1000, le=10_000_000)
    """Maximum of braces, brackets, commas and colons in a manifest's JSON, strings included."""
    page_entries: int = Field(1000, ge=1, le=100_000)
    """Maximum number of entries in a page of tags, catalog or referrers."""
    header_bytes: int = Field(32_768, ge=1024, le=_MIB)
    """Maximum size of one header, such as Authorization."""
    url_bytes: int = Field(8192, ge=512, le=65_536)
    """Maximum length of path and query."""
    upload_sessions_per_account: int = Field(1000, ge=1, le=1_000_000)
    """Maximum number of open upload sessions of an account."""


class RegistrySettings(_Section):
    """How pushes behave."""

    missing_references: Literal["accept", "refuse"] = "accept"
    """Whether a manifest may refer to content that its repository lacks (OCI: sparse content)."""
    create_on_push: bool = True
    """Whether a push creates a repository that does not exist."""
    upload_ttl_seconds: int = Field(_DAY, ge=60, le=365 * _DAY)
    """How long an idle upload session is kept."""
    empty_upload_ttl_seconds: int = Field(900, ge=60, le=365 * _DAY)
    """The same for a session without a byte. At most upload_ttl_seconds."""


class AuthSettings(_Section):
    """Logins and tokens."""

    service: _Service = "dtr"
    """Name of the service for which tokens are issued (their audience)."""
    token_seconds: int = Field(300, ge=60, le=_DAY)
    """How long a bearer token is valid."""
    refresh_token_seconds: int = Field(30 * _DAY, ge=60, le=3650 * _DAY)
    """How long a refresh token is valid."""
    refresh_tokens_per_user: int = Field(500, ge=1, le=100_000)
    """Maximum refresh tokens of a user. Beyond it, those unused for longest are invalidated."""
    refresh_tokens: Literal["offer", "withhold"] = "offer"
    """offer: docker login stores a refresh token. withhold: the password (docs/accounts.md)."""
    access_token_max_seconds: int = Field(365 * _DAY, ge=0, le=3650 * _DAY)
    """Maximum and default validity of a new access token. 0: no maximum."""
    key_rotation_seconds: int = Field(30 * _DAY, ge=3600, le=3650 * _DAY)
    """Age at which the signing key of tokens is replaced."""
    credential_cache_seconds: int = Field(60, ge=0, le=3600)
    """How long a verified password is not verified again. 0: each one is verified."""
    failed_logins_before_delay: int = Field(5, ge=1, le=1000)
    """Number of failed logins of one name from one address before the next one must wait."""
    failed_login_delay_seconds: float = Field(1, ge=0, le=3600)
    """The first wait. It doubles with each further failure."""
    failed_login_delay_max_seconds: float = Field(300, ge=0, le=_DAY, validate_default=True)
    """The maximum wait."""

    @field_validator("failed_login_delay_max_seconds")
    @classmethod
    def _not_below_the_first(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("failed_login_delay_seconds", 0):
            raise ValueError("must not be less than failed_login_delay_seconds")
        return value


class CollectSettings(_Section):
    """Garbage collection. It runs while the registry serves."""

    enabled: bool = True
    """Whether collection runs by schedule. false: only with dtr gc or dtr jobs run collect."""
    interval_seconds: float = Field(300, ge=0.1, le=30 * _DAY)
    """Pause between two collections."""
    schedule: _Cron = ""
    """Cron expression in UTC, such as 30 3 * * *, in place of interval_seconds."""
    grace_seconds: int = Field(_DAY, ge=0, le=3650 * _DAY)
    """How long a blob is kept after nothing refers to it any more, or a client last used it."""
    untagged: Literal["keep", "collect"] = "keep"
    """What happens to manifests that no tag leads to: kept, or deleted by collection."""
    untagged_grace_seconds: int = Field(7 * _DAY, ge=0, le=3650 * _DAY)
    """Minimum time for which such a manifest is kept."""
    batch: int = Field(50, ge=1, le=10_000)
    """Number of rows per transaction."""


_ON_DISK = frozenset({"", "file", "replicated"})


class StorageSettings(_Section):
    """Where blobs are, and how they are written and read."""

    url: _StorageUrl = ""
    """file:///, s3://, azure://, gs:// or replicated: (docs/storage.md). Empty: data directory."""
    wait_seconds: float = Field(60, ge=0, le=3600)
    """How long to retry if the object store fails, or if too few replicas answer."""
    connections: int = Field(64, ge=1, le=4096)
    """Maximum number of simultaneous requests of a process to the object store."""
    redirect: bool = Field(False, validate_default=True)
    """Whether pulls of blobs are redirected to signed URLs of the object store."""
    cache_bytes: int = Field(0, ge=0, le=2**50)
    """Disk space for a local cache of blobs from storage.url. 0: no cache."""
    sweep_interval_seconds: float = Field(_DAY, ge=1, le=365 * _DAY)
    """Pause between two sweeps, which delete files without metadata."""
    copies: int = Field(3, ge=1, le=100)
    """With replicated: number of replicas that hold a blob in the end; at least a majority."""
    scrub_interval_seconds: float = Field(14 * _DAY, ge=1, le=365 * _DAY)
    """With replicated: time within which every blob on a disk is read and verified once."""
    sync_every_bytes: int = Field(32 * _MIB, ge=_MIB, le=2**40)
    """Number of bytes of an upload between two syncs to disk."""

    @field_validator("redirect")
    @classmethod
    def _needs_an_object_store(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if value and info.data.get("url", "").partition(":")[0] in _ON_DISK:
            raise ValueError("needs an object store: clients cannot reach a disk")
        return value

    @field_validator("cache_bytes")
    @classmethod
    def _needs_storage_elsewhere(cls, value: int, info: ValidationInfo) -> int:
        if value and not info.data.get("url"):
            raise ValueError("needs storage.url: blobs in the data directory are on this disk")
        return value


class ClusterSettings(_Section):
    """For replicas of a cluster. UCP writes this section."""

    members_file: _OptionalPath = None
    """File with the list of replicas, read again when it changes. Empty: not a replica."""
    certificate: _OptionalPath = None
    """PEM file with this replica's certificate for connections to the other replicas."""
    key: _OptionalPath = None
    """PEM file with the private key of `certificate`."""
    ca: _OptionalPath = None
    """PEM file with the authority that signed the certificates of all replicas."""
    peer_listen: _Listen = ListenAddress("127.0.0.1", 8445)
    """Address and port for the other replicas, over mutual TLS (with storage.url = replicated:)."""
    status_file: _OptionalPath = None
    """File with the answer of /api/v0/meta/cluster_status. The node's agent updates it."""
    clock_file: _OptionalPath = None
    """File with the error of this machine's clock. The node's agent updates it."""
    balancers_file: _OptionalPath = None
    """File with more balancer addresses, one per line. Read again when it changes."""
    drain_file: _OptionalPath = None
    """While this file exists, /health answers 503, so that balancers send no new connections."""


class JobsSettings(_Section):
    """The queue of background jobs, which all servers of a registry share."""

    slots: int = Field(4, ge=1, le=64)
    """Maximum number of jobs that this server runs at the same time."""
    poll_seconds: float = Field(1, ge=0.05, le=60)
    """Pause between two checks of the queue for new jobs and cancellations."""
    heartbeat_limit_seconds: float = Field(30, ge=1, le=3600)
    """Time without a heartbeat of a runner after which others take over its jobs."""
    keep_seconds: int = Field(7 * _DAY, ge=60, le=3650 * _DAY)
    """How long a job and its log are kept after it has ended."""
    keep_ended: int = Field(100, ge=1, le=100_000)
    """Maximum number of ended jobs of each kind that are kept."""


class Settings(_Section):
    """Every setting of one server, valid and immutable."""

    server: ServerSettings = ServerSettings()
    data: DataSettings = DataSettings()
    database: DatabaseSettings = DatabaseSettings()
    log: LogSettings = LogSettings()
    limits: LimitSettings = LimitSettings()
    registry: RegistrySettings = RegistrySettings()
    auth: AuthSettings = AuthSettings()
    collect: CollectSettings = CollectSettings()
    storage: StorageSettings = StorageSettings()
    jobs: JobsSettings = JobsSettings()
    cluster: ClusterSettings = ClusterSettings()


@functools.cache
def setting_fields() -> dict[str, FieldInfo]:
    """Every setting by its key, `section.name`, in the order of the models."""
    return {
        f"{section}.{name}": field
        for section, model in setting_sections()
        for name, field in model.model_fields.items()
    }


def setting_sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield every section by its name, in the order of the models."""
    for section, field in Settings.model_fields.items():
        model = field.annotation
        assert isinstance(model, type) and issubclass(model, _Section)  # noqa: S101, PT018
        yield section, model


def variable_of(key: str) -> str:
    """Return the environment variable of a setting."""
    return "DTR_" + key.replace(".", "__").upper()

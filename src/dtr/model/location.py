"""Where blobs are: what `storage.url` may say, as a value."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

_PARAMETERS: Final = {
    "file": frozenset[str](),
    "s3": frozenset({"endpoint", "region"}),
    "azure": frozenset({"account", "endpoint"}),
    "gs": frozenset[str](),
    "replicated": frozenset[str](),
}
_CONTAINER = re.compile(r"[a-z0-9A-Z][a-zA-Z0-9._-]{1,221}\Z", re.ASCII)
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+\Z", re.ASCII)
_VALUE = re.compile(r"[a-zA-Z0-9-]+\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class StorageLocation:
    """A place for blobs: a directory, or a prefix in a bucket of an object store.

    It never holds a credential, so it may be shown and logged as it is.

    >>> StorageLocation.parse("s3://backups/registry?region=eu-west-1").prefix
    'registry'
    """

    scheme: str
    container: str = ""
    """The bucket, or Azure's container; empty for a directory."""
    prefix: str = ""
    """Where in the bucket, without a slash at either end; or the directory."""
    endpoint: str = ""
    region: str = ""
    account: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `file:///DIRECTORY`, `s3://BUCKET/PREFIX?…`, `azure://…`, `gs://…`, `replicated:`.

        Raises:
            ValueError: it is none of these, or holds a credential; the message, one sentence, says
                so without repeating more of it than its scheme and the names of its parameters.

        """
        try:
            url = urlsplit(text)
        except ValueError:  # the library's sentence may repeat a credential
            raise ValueError(
                "is not a URL: write file:///DIRECTORY or s3://BUCKET/PREFIX"
            ) from None
        _refuse_credentials(url)
        if url.scheme not in _PARAMETERS:
            found = _shown(url.scheme)
            raise ValueError(
                "must be replicated: or begin with file:///, s3://, azure:// or gs://"
                f"{f'; {found}: is no storage' if found else ''}"
            )
        parameters = _parameters(url)
        if url.scheme == "file":
            return cls("file", prefix=_directory(url))
        if url.scheme == "replicated":
            if url.netloc or url.path:
                raise ValueError(
                    "must have nothing after it: it means the replicas' data directories"
                )
            return cls("replicated")
        location = cls(url.scheme, url.netloc, _prefix(url), **parameters)
        location._check()
        return location

    @property
    def directory(self) -> Path:
        """The directory of a `file` location."""
        return Path(self.prefix)

    def __str__(self) -> str:
        """Show the location as a URL."""
        if self.scheme == "file":
            return f"file://{self.prefix}"
        if self.scheme == "replicated":
            return "replicated:"
        named = (("endpoint", self.endpoint), ("region", self.region), ("account", self.account))
        query = "&".join(f"{name}={value}" for name, value in named if value)
        path = f"/{self.prefix}" if self.prefix else ""
        return f"{self.scheme}://{self.container}{path}{'?' if query else ''}{query}"

    def _check(self) -> None:
        noun = "container" if self.scheme == "azure" else "bucket"
        if not self.container:
            raise ValueError(f"must name a {noun}: {self.scheme}://NAME/PREFIX")
        if not _CONTAINER.match(self.container):
            raise ValueError(
                f"names a {noun} that cannot be one: a name has 2 to 222 letters, digits, '.', '_' "
                "and '-', and begins with a letter or digit"
            )
        if self.scheme == "azure" and not self.account:
            raise ValueError("must name the storage account: azure://CONTAINER?account=NAME")
        for name, value in (("region", self.region), ("account", self.account)):
            if value and not _VALUE.match(value):
                raise ValueError(f"its {name} may have letters, digits and hyphens only")
        if self.endpoint:
            _check_endpoint(self.endpoint)


def _refuse_credentials(url: SplitResult) -> None:
    if "@" in url.netloc or (url.scheme != "file" and ":" in url.netloc):
        raise ValueError(
            "must hold no credentials: give them in the environment, "
            "in a file or by the role of the machine"
        )


def _parameters(url: SplitResult) -> dict[str, str]:
    allowed = _PARAMETERS[url.scheme]
    found: dict[str, str] = {}
    for name, value in parse_qsl(url.query, keep_blank_values=True):
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise ValueError(
                f"does not take {_named(name)} with {url.scheme}:// (it takes: {known}); "
                "credentials belong into the environment, a file or the role of the machine"
            )
        if name in found:
            raise ValueError(f"names the parameter {name} twice")
        found[name] = value.rstrip("/") if name == "endpoint" else value
    if url.fragment:
        raise ValueError("must have no part after '#'")
    return found


def _directory(url: SplitResult) -> str:
    path = unquote(url.path)
    if url.netloc not in {"", "localhost"} or not path.startswith("/") or "\0" in path:
        raise ValueError("must name a directory from the root on: file:///DIRECTORY")
    return str(Path(path))


def _prefix(url: SplitResult) -> str:
    prefix = url.path.strip("/")
    for segment in prefix.split("/") if prefix else ():
        if not _SEGMENT.match(segment) or segment in {".", ".."}:
            raise ValueError(
                "its prefix may have letters, digits, '.', '_' and '-' between slashes only"
            )
    return prefix


def _check_endpoint(endpoint: str) -> None:
    try:
        url = urlsplit(endpoint)
        is_good = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        is_good = False
    if is_good and "@" in url.netloc:
        raise ValueError("must hold no credentials, also not in its endpoint")
    if not is_good or url.query or url.fragment:
        raise ValueError("its endpoint must be http:// or https://, a host and, optionally, a port")


def _named(parameter: str) -> str:
    found = _shown(parameter)
    return f"the parameter {found}" if found else "a parameter that it has"


def _shown(name: str) -> str:
    """Repeat a name only where it cannot be a secret that somebody pasted, else nothing."""
    return name if len(name) <= 32 and name.replace("_", "").isalpha() else ""  # noqa: PLR2004

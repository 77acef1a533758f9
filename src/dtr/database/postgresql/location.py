"""Where PostgreSQL is: a libpq URL, which may name several hosts."""

import re
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

from dtr.database.migrations import APPLICATION_NAME
from dtr.model.errors import InvalidError

# A server that is gone without a word (no RST) is noticed after these; design 5.6 and the tests of
# outages depend on them. A URL may say otherwise.
_DEFAULTS: Final = {
    "connect_timeout": "2",
    "tcp_user_timeout": "3000",
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "3",
}
# A process that is frozen inside a transaction would keep its locks; nobody waits for it longer.
_SERVER_OPTIONS: Final = (
    "-c idle_in_transaction_session_timeout=10s -c lock_timeout=10s "
    "-c default_transaction_isolation=read\\ committed"
)
_MOST_OF_NAME: Final = 40  # PostgreSQL cuts at 63
_SCHEMES: Final = ("postgresql", "postgres")
_PASSWORD: Final = re.compile(r"(//[^/@]*?:)[^/@]*@|([?&]password=)[^&]*")


@dataclass(frozen=True, slots=True)
class Location:
    """What psycopg needs to connect to any of the hosts; its `repr` shows no password."""

    url: str
    parameters: dict[str, Any]

    @classmethod
    def parse(cls, url: str, password: str | None = None) -> Self:
        """Read a libpq URL; hosts, ports and every other parameter are as libpq has them.

        `password` stands in for one that the URL does not have.

        Raises:
            InvalidError: it is not one; the message does not repeat it.

        """
        import psycopg  # noqa: PLC0415 - an embedded registry does without it
        from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

        if urlsplit(url).scheme not in _SCHEMES:
            raise InvalidError(
                "the database URL must begin with postgresql://, as in "
                "postgresql://dtr@db1.example,db2.example/dtr"
            )
        try:
            given = {
                key: value for key, value in conninfo_to_dict(url).items() if value is not None
            }
        except psycopg.Error as error:
            raise InvalidError(f"the database URL is not valid: {error}") from None
        # The last words say which schema this program has (`dtr migrate --after`).
        own_name = str(given.get("application_name", ""))[:_MOST_OF_NAME]
        given["application_name"] = f"{own_name} {APPLICATION_NAME}".strip()
        if password is not None:
            given.setdefault("password", password)
        given["options"] = " ".join((_SERVER_OPTIONS, str(given.get("options", "")))).strip()
        return cls(url, {**_DEFAULTS, **given})

    @property
    def hosts(self) -> list[dict[str, Any]]:
        """The same parameters for each host alone, in the URL's order."""
        names = _listed(self.parameters.get("host"))
        addresses = _listed(self.parameters.get("hostaddr"))
        count = max(len(names), len(addresses), 1)
        ports = _listed(self.parameters.get("port"))
        ports = ports * count if len(ports) == 1 else ports
        found = []
        for number in range(count):
            one = dict(self.parameters)
            for key, values in (("host", names), ("hostaddr", addresses), ("port", ports)):
                if number < len(values):
                    one[key] = values[number]
            found.append(one)
        return found

    def __str__(self) -> str:
        """Return the URL without its password."""
        return _PASSWORD.sub(r"\1\2***@" if "@" in self.url else r"\1\2***", self.url)

    def __repr__(self) -> str:
        return f"Location({self})"


def _listed(value: Any) -> list[str]:
    return [] if value is None else str(value).split(",")

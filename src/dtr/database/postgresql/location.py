"""Where PostgreSQL is: a libpq URL, which may name several hosts or leave them to the members."""

import re
from dataclasses import dataclass
from typing import Any, Final, Self

from dtr.database.migrations import APPLICATION_NAME
from dtr.model.errors import InvalidError
from dtr.model.members import Member, MembersFile

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
_SCHEMES: Final = ("postgresql://", "postgres://")
_USER_INFORMATION: Final = re.compile(r"\A\w+://[^@/]*@")  # as libpq finds its end
_EXAMPLE: Final = "postgresql://dtr@db1.example,db2.example/dtr"
_PLACES: Final = ("host", "hostaddr")


@dataclass(frozen=True, slots=True)
class Location:
    """What psycopg needs to connect to any of the hosts; its `repr` shows no password."""

    parameters: dict[str, Any]
    members: MembersFile | None = None
    """Where the hosts are the replicas of a cluster, and may be others in a moment."""

    @classmethod
    def parse(
        cls, url: str, password: str | None = None, members: MembersFile | None = None
    ) -> Self:
        """Read a libpq URL; hosts, ports and every other parameter are as libpq has them.

        `password` stands in for one that the URL does not have, `members` for hosts.

        Raises:
            InvalidError: it is not one, the message repeats nothing that may be a password; or
                there are no members to be read.

        """
        given = _parameters_of(url)
        # The last words say which schema this program has (`dtr migrate --after`).
        own_name = str(given.get("application_name", ""))[:_MOST_OF_NAME]
        given["application_name"] = f"{own_name} {APPLICATION_NAME}".strip()
        if password is not None:
            given.setdefault("password", password)
        given["options"] = " ".join((_SERVER_OPTIONS, str(given.get("options", "")))).strip()
        given["client_encoding"] = "UTF8"
        has_hosts = any(key in given for key in _PLACES)
        found = cls({**_DEFAULTS, **given}, None if has_hosts else members)
        if found.members is None:
            found._check_lists()
        else:
            found.members.read()
        return found

    @property
    def hosts(self) -> list[dict[str, Any]]:
        """The same parameters for each host alone: in the URL's order, or the own replica first."""
        own, others = self.own_and_others
        return own + others

    @property
    def own_and_others(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The hosts, as in `hosts`: the own replica, where this is one, and all others.

        Members of every state are listed. One that is draining may be primary until somebody else
        is; and the registry of one that is joining starts beside its database.
        """
        if self.members is None:
            return [], self._listed_hosts()
        found = self.members.read()
        own = () if found.own is None else (found.own,)
        return [self._at(each) for each in own], [self._at(each) for each in found.peers]

    def _at(self, member: Member) -> dict[str, Any]:
        return {
            **self.parameters,
            "host": member.address,
            "port": str(member.database_port),
        }

    def _listed_hosts(self) -> list[dict[str, Any]]:
        lists = {key: self._listed(key) for key in ("host", "hostaddr", "port")}
        found = []
        for number in range(self._count):
            one = dict(self.parameters)
            for key, values in lists.items():
                if values:
                    one[key] = values[number if len(values) > 1 else 0]
            found.append(one)
        return found

    @property
    def may_have_standbys(self) -> bool:
        """Whether there is anybody to ask but a primary, now or later."""
        return self.members is not None or self._count > 1

    @property
    def _count(self) -> int:
        return max(len(self._listed("host")), len(self._listed("hostaddr")), 1)

    def _listed(self, key: str) -> list[str]:
        value = self.parameters.get(key)
        return [] if value is None else str(value).split(",")

    def _check_lists(self) -> None:
        """Refuse what libpq would refuse later, with parts of a misplaced password in its words."""
        names, addresses = len(self._listed("host")), len(self._listed("hostaddr"))
        if names and addresses and names != addresses:
            raise InvalidError(f"the database URL has {names} hosts and {addresses} addresses")
        ports = self._listed("port")
        if len(ports) not in {0, 1, self._count}:
            raise InvalidError(f"the database URL has {self._count} hosts and {len(ports)} ports")
        if not all(port == "" or (port.isascii() and port.isdigit()) for port in ports):
            raise InvalidError(
                "a port in the database URL is not a number; in a password write / as %2F"
            )

    def __str__(self) -> str:
        """Return the URL as far as it tells where the database is: without options, password."""
        places = [
            f"{each.get('host') or each.get('hostaddr', '')}:{each.get('port', '')}".rstrip(":")
            for each in self.hosts
        ]
        user = f"{self.parameters['user']}@" if "user" in self.parameters else ""
        return f"postgresql://{user}{','.join(places)}/{self.parameters.get('dbname', '')}"

    def __repr__(self) -> str:
        return f"Location({self})"


_WRONG: Final = {
    "percent-encoded token": "a % in it must be written as %25",
    "key/value separator": "a parameter behind the ? has no value",
    'missing "="': "a parameter behind the ? has no value",
    "URI query parameter": "a parameter behind the ? is not one of libpq's",
    "unexpected character": "something follows an address in brackets",
    'matching "]"': "the ] of an address is missing",
}
"""What libpq says, and what it means."""


def _parameters_of(url: str) -> dict[str, Any]:
    """Return what libpq reads in a URL."""
    import psycopg  # noqa: PLC0415 - an embedded registry does without it
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    if not url.startswith(_SCHEMES):
        raise InvalidError(f"the database URL must begin with postgresql://, as in {_EXAMPLE}")
    places = _USER_INFORMATION.sub("", url, count=1)
    if "@" in places.partition("?")[0]:
        raise InvalidError("the database URL has more than one @; in a password write it as %40")
    try:
        found = conninfo_to_dict(url)
    except psycopg.Error as error:
        # libpq's own sentence quotes what it does not understand, which may be the password.
        said = str(error)
        why = next((meaning for words, meaning in _WRONG.items() if words in said), "not a URL")
        raise InvalidError(
            f"the database URL is not valid: {why}; write it as {_EXAMPLE}"
        ) from None
    return {key: value for key, value in found.items() if value is not None}

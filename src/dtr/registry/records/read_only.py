"""Statements about whether the registry takes pushes."""

import json
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import bindparam, delete, insert, select

from dtr.database import Lookup, Reader, Writer
from dtr.database.schema import settings
from dtr.model.errors import InvalidError, ReadOnlyError

READ_ONLY_KEY: Final = "registry.read_only"
FIND_SETTING: Final = Lookup(select(settings.c.value).where(settings.c.key == bindparam("key")))
_MOST_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class ReadOnlyMode:
    """That only pulls are served: why, since when (Unix time), and who said so."""

    reason: str
    since: float
    by: str

    @classmethod
    def new(cls, reason: str, since: float, by: str) -> "ReadOnlyMode":
        """Return the mode with a reason that can be shown to whoever pushes.

        Raises:
            InvalidError: there is no reason, or it is too long or has control characters.

        """
        text = reason.strip()
        if not text or len(text) > _MOST_REASON or not text.isprintable():
            raise InvalidError(f"give a reason of 1 to {_MOST_REASON} printable characters")
        return cls(text, since, by)

    @property
    def sentence(self) -> str:
        """What whoever is refused is told."""
        return f"the registry serves pulls only at the moment: {self.reason}"

    @classmethod
    def parse(cls, value: str) -> "ReadOnlyMode":
        """Read what `set_read_only` wrote."""
        return cls(**json.loads(value))


def read_only_mode(reader: Reader) -> ReadOnlyMode | None:
    """Return the mode; None where pushes are taken."""
    found = reader.first(FIND_SETTING, {"key": READ_ONLY_KEY})
    return None if found is None else ReadOnlyMode.parse(found[0])


def require_writable(reader: Reader) -> None:
    """Return where content may be changed.

    Raises:
        ReadOnlyError: the registry serves pulls only.

    """
    mode = read_only_mode(reader)
    if mode is not None:
        raise ReadOnlyError(mode.sentence, reason=mode.reason)


def set_read_only(writer: Writer, mode: ReadOnlyMode | None) -> None:
    """Turn the mode on, or off with None; every process follows within a second."""
    writer.execute(delete(settings).where(settings.c.key == READ_ONLY_KEY))
    if mode is not None:
        value = json.dumps(asdict(mode))
        writer.execute(insert(settings).values(key=READ_ONLY_KEY, value=value))

"""That a registry serves pulls only, as an administrator wants it."""

import json
from dataclasses import asdict, dataclass
from typing import Final

from dtr.model.errors import InvalidError, ReadOnlyError

READ_ONLY_KEY: Final = "registry.read_only"
"""The key among the settings in the metadata; without it pushes are taken."""
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

    @property
    def error(self) -> ReadOnlyError:
        """What to raise where something would be changed."""
        return ReadOnlyError(self.sentence, reason=self.reason)

    @classmethod
    def parse(cls, value: str) -> "ReadOnlyMode":
        """Read what `str` wrote.

        >>> mode = ReadOnlyMode.new("a move", 5.0, "root")
        >>> ReadOnlyMode.parse(str(mode)) == mode
        True
        """
        return cls(**json.loads(value))

    def __str__(self) -> str:
        return json.dumps(asdict(self))

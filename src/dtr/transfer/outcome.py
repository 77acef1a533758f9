"""What became of something that an import wanted, and whether that is for good."""

from dataclasses import dataclass
from enum import Enum, auto

from dtr.model.errors import DigestInvalidError, TooLargeError
from dtr.model.failures import reason_of
from dtr.transfer.source import LostError

_FOR_GOOD = (LostError, DigestInvalidError, TooLargeError)


class Outcome(Enum):
    """Whether a manifest is here now, with everything that it needs."""

    HERE = auto()
    """Also an index without the parts that its source has lost."""
    LOST = auto()
    """The source does not have it whole, or this registry would refuse it: for good."""
    FAILED = auto()
    """Something could not be had this time. Another import may bring it."""


@dataclass(frozen=True, slots=True)
class Lack:
    """Why something could not be brought; `is_lost` if another import would not bring it either."""

    reason: str
    is_lost: bool = False

    @classmethod
    def of(cls, error: Exception) -> "Lack":
        """Return what an error says."""
        return cls(said(error), is_lost=isinstance(error, _FOR_GOOD))


def said(error: Exception) -> str:
    """Return an error as the end of a sentence."""
    if isinstance(error, OSError):
        return f"it cannot be read: {error.strerror or reason_of(error)}"
    return str(error)

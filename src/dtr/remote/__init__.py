"""Client of other registries: the one way by which anything here asks a stranger for something."""

from dtr.remote.challenge import Credentials
from dtr.remote.client import Answer, RemoteClient
from dtr.remote.errors import BrokenOffError, RemoteError, TooMuchError
from dtr.remote.targets import Origin, Targets

__all__ = [
    "Answer",
    "BrokenOffError",
    "Credentials",
    "Origin",
    "RemoteClient",
    "RemoteError",
    "Targets",
    "TooMuchError",
]

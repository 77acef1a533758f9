"""What can go wrong with a server that others run."""

from dtr.model.errors import InvalidError, UnavailableError


class RemoteError(InvalidError):
    """The other server refuses, or says what is not believed; asking again changes nothing."""


class TooMuchError(RemoteError):
    """The other server says more than is taken."""


class BrokenOffError(UnavailableError):
    """The other server began to answer and broke off; it may end its answer when asked again."""

"""What can go wrong with a server that others run."""

from dtr.model.errors import InvalidError


class RemoteError(InvalidError):
    """The other server refuses, or says what is not believed; asking again changes nothing."""

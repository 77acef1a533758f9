"""Pieces of an upload that are gathered until they are written, however tiny they come."""

from typing import Final

_TINY_BYTES: Final = 4096
_FULL_BYTES: Final = 64 << 10

Pieces = list[bytes | bytearray]


def add_piece(pieces: Pieces, piece: bytes) -> None:
    """Append a piece; tiny ones are put together.

    An object for each would take twenty times as much as what is in it, where a client sends two
    bytes at a time.
    """
    if len(piece) >= _TINY_BYTES:
        pieces.append(piece)
        return
    last = pieces[-1] if pieces else None
    if type(last) is bytearray and len(last) < _FULL_BYTES:
        last += piece
    else:
        pieces.append(bytearray(piece))

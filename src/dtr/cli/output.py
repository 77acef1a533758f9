"""The one way to the terminal: nothing that others wrote can steer it.

Names, labels, reports of nodes and messages of servers may hold escape sequences, which move the
cursor, change the title or hide lines, and characters that turn the direction of writing. Lint
forbids commands to print in another way.
"""

import unicodedata
from typing import Any, Final, Self

import rich.text
import typer

_KEPT: Final = "\n\t"
_ESCAPED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""Return a text with every character escaped that a terminal may act on; lines stay lines.

    >>> printable("a\x1b[2Jb\u202ec\r"), printable("a\nb…")
    ('a\\x1b[2Jb\\u202ec\\r', 'a\nb…')
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character in _KEPT or _is_harmless(character) else _escape(character)
        for character in text
    )


def one_line(text: str) -> str:
    r"""Return a printable text in which line breaks are escaped, too.

    For what others wrote inside of an output of several lines: it could else add lines of its own.

    >>> one_line("a\nNo problems.")
    'a\\nNo problems.'
    """
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def echo(message: Any = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text, harmless, to standard output or standard error."""
    typer.echo(printable(str(message)), err=err, nl=nl)  # noqa: TID251 - the one place


class Text(rich.text.Text):  # noqa: TID251 - the one place
    """A text with a style for tables and displays; whatever it is given is made harmless."""

    def __init__(self, text: str = "", *arguments: Any, **options: Any) -> None:
        super().__init__(printable(text), *arguments, **options)

    def append(self, text: Any, style: Any = None) -> Self:
        """Add a text to the end."""
        super().append(printable(text) if isinstance(text, str) else text, style)
        return self


def cell(value: Any, style: str = "") -> Text:
    """Return what a cell of a table shows: one line, and no markup."""
    return Text(one_line(str(value)), style=style)


def _is_harmless(character: str) -> bool:
    return unicodedata.category(character) not in _ESCAPED


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()

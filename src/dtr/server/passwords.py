"""Passwords that an operator keeps in files."""

from collections.abc import Callable
from pathlib import Path

from dtr.model.errors import InvalidError


def read_password(path: Path) -> str:
    """Return the first line of a password file.

    Raises:
        InvalidError: it cannot be read or is empty.

    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidError(
            f"The password file {path} cannot be read: {error.strerror or type(error).__name__}. "
            "Name a file that this user may read."
        ) from None
    except UnicodeDecodeError:
        raise InvalidError(
            f"The password file {path} is not text in UTF-8. Write the password on its first line."
        ) from None
    password = content.splitlines()[0] if content else ""
    if not password:
        raise InvalidError(
            f"The password file {path} is empty. Write the password on its first line."
        )
    return password


def read_usable(path: Path, use: Callable[[str], str]) -> str:
    """Return what `use` makes of a password file's first line.

    Raises:
        InvalidError: it cannot be read, or `use` refuses it; the message names the file.

    """
    try:
        return use(read_password(path))
    except InvalidError as error:
        message = str(error)
        if str(path) in message:
            raise
        raise InvalidError(f"The file {path} cannot be used: {message}.") from None

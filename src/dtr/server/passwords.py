"""Passwords that an operator keeps in files."""

import os
from pathlib import Path

from dtr.model.errors import InvalidError


def read_password(path: Path) -> str:
    """Return the first line of a password file.

    Raises:
        InvalidError: it cannot be read or is empty.

    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise InvalidError(f"the password file {path} cannot be read: {reason}") from None
    password = content.splitlines()[0] if content else ""
    if not password:
        raise InvalidError(f"the password file {path} is empty")
    return password

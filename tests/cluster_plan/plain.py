"""What no message for people has in it: the words of libraries and the forms of objects."""

import re
from typing import Final

_STRANGE: Final = re.compile(
    r"""
    \bobject\ at\ 0x | <[a-z_.]+[\ .] | \[?Errno | Traceback | \bNone\b | \bTrue\b | \bFalse\b
    | \w+(?:Error|Exception)\b | \[Connect\ call | ssl: | _ssl\.c | b'[^s ] | \{\}
    | \{' | \('[0-9] | \[\]
    | \b(?:asyncio|aiohttp|pydantic|psycopg|httpx|cryptography)\b | \n | \x1b | \s\s | \ $ | ^\s
    | \.\. | :\s*$ | :\s*\. | \(\)
    """,
    re.VERBOSE,
)


def strange(text: str) -> str:
    """Return what of a message is no plain words; empty where nothing is.

    >>> strange("for the registry on node4: ssl:<ssl.SSLContext object at 0x7f> [Connect call")
    'ssl:'
    >>> strange("Replica 1 is not healthy: nothing listens there. See dtr status.")
    ''
    """
    found = _STRANGE.search(text)
    return found.group() if found else ""


def wrong_form(message: str) -> str:
    """Return what is wrong with the message of a phase that waits or has ended."""
    return strange(message)


def wrong_sentence(text: str) -> str:
    """Return what is wrong with a sentence; an error, a warning or a problem is one or more."""
    if text and not text.endswith("."):
        return "it does not end with a full stop"
    return strange(text)

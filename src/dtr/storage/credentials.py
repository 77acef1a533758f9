"""Where the credentials for an object store come from: never from our settings.

obstore finds those in the environment (`AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_ACCOUNT_KEY`,
`GOOGLE_APPLICATION_CREDENTIALS`, …), of a web identity, a container or an instance by itself. It
does not read the files of Amazon's command line (`~/.aws`), which botocore does.
"""

import os
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obstore.store import S3Credential

_LIFETIME = timedelta(minutes=10)
_FILES = (("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config"))


def s3_credentials() -> "Callable[[], Coroutine[Any, Any, S3Credential]] | None":
    """Return what reads Amazon's files, or None where obstore is to look for itself."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return None
    own = Path("~/.aws").expanduser()
    files = [Path(os.environ.get(variable, own / name)) for variable, name in _FILES]
    if "AWS_PROFILE" not in os.environ and not any(file.exists() for file in files):
        return None
    return _from_files


async def _from_files() -> "S3Credential":
    """Ask botocore, which also knows profiles, roles to assume and single sign-on."""
    from aiobotocore.session import get_session  # noqa: PLC0415 - 40 MiB, rarely needed

    found = await get_session().get_credentials()
    if found is None:
        raise PermissionError("no credentials for S3: none in the environment or in ~/.aws")
    frozen = await found.get_frozen_credentials()
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        "token": frozen.token,
        "expires_at": datetime.now(UTC) + _LIFETIME,
    }

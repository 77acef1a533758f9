"""Take files of the same file system over as blobs, without copying a byte."""

import errno
import hashlib
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

from dtr.model.digest import Digest
from dtr.model.errors import DigestInvalidError
from dtr.storage.filesystem import FilesystemBlobStore

# Another file system, or one without links; too many of them; the file belongs to somebody else.
_CANNOT: Final = frozenset(
    {errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK, errno.EPERM, errno.EACCES, errno.ENOSYS}
)


async def link_file(store: FilesystemBlobStore, source: Path, digest: Digest) -> str | None:
    """Make a file a blob under both its names; return its key, or None where links cannot be made.

    Its bytes are verified first. Whoever knows the other name must not write to it: the registry
    trusts that what it verified once stays as it is. Unlinking that name does no harm.

    Raises:
        DigestInvalidError: the bytes have another digest; nothing became readable.

    """
    upload_id = str(uuid.uuid4())
    staged = store.upload_path(upload_id)
    key = f"{digest.algorithm}/{digest.encoded[:2]}/{digest.encoded}.{upload_id}"

    def link() -> str | None:
        try:
            os.link(source, staged, follow_symlinks=False)
            # A sweep takes bytes that no metadata knows by their age, which begins here.
            os.utime(staged)
            descriptor = os.open(staged, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _CANNOT:
                return None
            raise
        with os.fdopen(descriptor, "rb") as file:
            hasher = hashlib.file_digest(file, digest.algorithm.hasher)
            found = Digest(f"{digest.algorithm}:{hasher.hexdigest()}")
            if found != digest:
                raise DigestInvalidError(digest=str(digest), found=str(found))
            store.place(staged, key)
            os.fsync(descriptor)
        store.sync_place(key)
        return key

    try:
        return await store.run("link", link)
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)

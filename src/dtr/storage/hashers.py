"""Hash states of uploads that may continue in this process: they cannot leave it."""

from collections import OrderedDict
from typing import Protocol

from dtr.model.digest import Algorithm
from dtr.storage.port import Progress

_MOST = 256


class Hasher(Protocol):
    """The part of a hashlib object that is used."""

    @property
    def name(self) -> str:
        """The algorithm."""
        ...

    def update(self, content: bytes | memoryview, /) -> None:
        """Take more content."""
        ...

    def hexdigest(self) -> str:
        """Return the digest of all content so far."""
        ...


class KeptHashers:
    """The states of the uploads that were continued last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[int, Hasher]] = OrderedDict()

    def keep(self, upload_id: str, offset: int, hasher: Hasher) -> None:
        """Remember a hash state for whoever resumes the upload in this process."""
        self._kept[upload_id] = (offset, hasher)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    def take(self, upload_id: str, algorithm: Algorithm, progress: Progress) -> Hasher | None:
        """Return the hash state of the upload's bytes, if what is recorded of them agrees.

        Another process may have written other bytes up to the same offset since.
        """
        kept_offset, hasher = self._kept.pop(upload_id, (0, algorithm.hasher()))
        if not progress.offset:
            return algorithm.hasher()
        is_same = kept_offset == progress.offset and hasher.name == algorithm
        found = f"{hasher.name}:{hasher.hexdigest()}"
        return hasher if is_same and found == progress.digest else None

    def forget(self, upload_id: str) -> None:
        """Drop the state of an upload that is over."""
        self._kept.pop(upload_id, None)

"""What a registry must have, whatever collection, crashes and other clients do meanwhile.

Nothing here knows how the registry works: only what it acknowledged, and how long each
acknowledgement is worth. What is not owed may be there or not.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

FOREVER = math.inf


@dataclass
class Manifest:
    """A manifest or index that was acknowledged; owed until then even if nothing reaches it.

    `references` are the digests that it names in any position but `subject`, whatever they are of;
    `optional` those that it names as nondistributable only.
    """

    payload: bytes
    media_type: str
    until: float
    references: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    subject: str | None = None

    @property
    def named(self) -> frozenset[str]:
        """Everything that it names."""
        return self.references | ({self.subject} if self.subject else set())


@dataclass
class Shelf:
    """One repository."""

    grace: float
    untagged_grace: float
    manifests: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, float] = field(default_factory=dict)
    """Blobs that are known to be here, and how long that is owed even if nothing names them."""

    def owed_manifests(self, now: float, *, but_for_its_time: str = "") -> set[str]:
        """Return what must be here: recently pushed, tagged, or reached by such.

        Of one manifest its own time can be left out: it is then here only if it is reached.
        """
        owed = {digest for digest, found in self.manifests.items() if found.until > now}
        owed -= {but_for_its_time}
        tagged = set(self.tags.values())
        owed |= tagged
        owed |= {
            found.subject
            for digest, found in self.manifests.items()
            if digest in tagged and found.subject in self.manifests
        } - {None}
        while more := set(self._reached(owed)) - owed:
            owed |= more
        return owed

    def owed_blobs(self, now: float) -> set[str]:
        """Return what must be here: recently pushed, or needed by what must."""
        owed = {digest for digest, until in self.blobs.items() if until > now}
        for digest in self.owed_manifests(now):
            owed |= self.manifests[digest].named & self.blobs.keys()
        return owed

    def forget_blobs(self, now: float) -> None:
        """Drop blobs that are not owed any more: they may be gone from now on."""
        self.blobs = {digest: self.blobs[digest] for digest in self.owed_blobs(now)}

    def accept(self, found: Manifest) -> None:
        """Conclude what must be here from that a manifest was taken, where nothing may be missing.

        What is not a manifest that the model knows is then a blob.
        """
        for digest in found.references - found.optional - self.manifests.keys():
            self.blobs.setdefault(digest, 0)

    def change(self, now: float) -> "Change":
        """Return a context for something that may let manifests go: they get their grace."""
        return Change(self, now)

    def reached_manifests(self, now: float) -> set[str]:
        """Return what must be here whatever its own time."""
        return {
            digest
            for digest in self.manifests
            if digest in self.owed_manifests(now, but_for_its_time=digest)
        }

    def is_referred_to(self, digest: str) -> bool:
        """Tell whether a manifest that may be here names it."""
        return any(digest in found.references for found in self.manifests.values())

    def keep_blob(self, digest: str, until: float) -> None:
        """Count on a blob until then at least."""
        self.blobs[digest] = max(self.blobs.get(digest, 0), until)

    def forget(self, digest: str) -> None:
        """Drop a manifest that is gone, with its tags."""
        del self.manifests[digest]
        self.tags = {tag: found for tag, found in self.tags.items() if found != digest}

    def _reached(self, owed: set[str]) -> Iterator[str]:
        for digest in owed:
            yield from self.manifests[digest].references & self.manifests.keys()
        for digest, found in self.manifests.items():
            if found.subject in owed:
                yield digest


class Change:
    """Whatever was reached before it and is not after it is owed for its grace from now."""

    def __init__(self, shelf: Shelf, now: float) -> None:
        self._shelf = shelf
        self._now = now
        self._before: set[str] = set()

    def __enter__(self) -> None:
        self._before = self._shelf.reached_manifests(self._now)

    def __exit__(self, *_error: object) -> None:
        shelf, until = self._shelf, self._now + self._shelf.untagged_grace
        after = shelf.reached_manifests(self._now)
        for digest in (self._before & shelf.manifests.keys()) - after:
            found = shelf.manifests[digest]
            found.until = max(found.until, until)
            for blob in found.named & shelf.blobs.keys():
                shelf.keep_blob(blob, until)

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
    """A manifest or index that was acknowledged; owed until then even if nothing reaches it."""

    payload: bytes
    media_type: str
    until: float
    blobs: frozenset[str] = frozenset()
    children: frozenset[str] = frozenset()
    subject: str | None = None


@dataclass
class Shelf:
    """One repository."""

    grace: float
    untagged_grace: float
    manifests: dict[str, Manifest] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, float] = field(default_factory=dict)

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
            owed |= self.manifests[digest].blobs
        return owed

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
        """Tell whether an index that may be here has it as a child."""
        return any(digest in found.children for found in self.manifests.values())

    def keep_blob(self, digest: str, until: float) -> None:
        """Count on a blob until then at least."""
        self.blobs[digest] = max(self.blobs.get(digest, 0), until)

    def forget(self, digest: str) -> None:
        """Drop a manifest that is gone, with its tags."""
        del self.manifests[digest]
        self.tags = {tag: found for tag, found in self.tags.items() if found != digest}

    def _reached(self, owed: set[str]) -> Iterator[str]:
        for digest in owed:
            yield from self.manifests[digest].children & self.manifests.keys()
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
            for blob in found.blobs:
                shelf.keep_blob(blob, until)

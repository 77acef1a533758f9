"""What clients were told, and what the registry therefore owes them.

A client writes down a request before it sends it (then either state is possible) and its answer
when it has all of it (then one is). Every time is taken before the request that it belongs to, so
that the registry's own reckoning is never earlier. `until` is how long content is owed; the clock
is the machine's, which the server reads too.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

FOREVER = math.inf
MARGIN_SECONDS = 0.25


def digest_of(content: bytes) -> str:
    """Return the sha256 digest."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Owed:
    """Content that was acknowledged: owed until a time, or gone, or nobody knows."""

    content: bytes
    until: float = 0
    is_gone: bool = False
    """Its deletion was acknowledged."""
    blobs: tuple[str, ...] = ()

    def acknowledged(self, until: float) -> None:
        """Count on it until then at least."""
        self.until, self.is_gone = max(self.until, until), False

    def doubted(self) -> None:
        """Count on it no more: its deletion is on its way."""
        self.until = 0

    def deleted(self) -> None:
        """Expect it gone: its deletion was acknowledged."""
        self.until, self.is_gone = 0, True


@dataclass
class Session:
    """An upload in its course: bytes acknowledged, and whether its end was asked for."""

    location: str
    content: bytes
    offset: int = 0
    is_ending: bool = False


@dataclass
class Repository:
    """One repository, which one client alone changes."""

    name: str
    grace: float
    untagged_grace: float
    blobs: dict[str, Owed] = field(default_factory=dict)
    manifests: dict[str, Owed] = field(default_factory=dict)
    tags: dict[str, set[str | None]] = field(default_factory=dict)
    """What each tag may point at; None is no tag. One entry: that is known."""
    sessions: list[Session] = field(default_factory=list)

    def blob_acknowledged(self, content: bytes, sent: float) -> None:
        """Count on a blob whose push or mount was acknowledged."""
        owed = self.blobs.setdefault(digest_of(content), Owed(content))
        owed.acknowledged(sent + self.grace)

    def blob_is_needed(self, digest: str) -> bool:
        """Tell whether any manifest that may be here refers to the blob."""
        return any(digest in m.blobs and not m.is_gone for m in self.manifests.values())

    def blob_is_surely_needed(self, digest: str) -> bool:
        """Tell whether a manifest that a tag is surely on refers to the blob."""
        sure = [next(iter(found)) for found in self.tags.values() if len(found) == 1]
        return any(found is not None and digest in self.manifests[found].blobs for found in sure)

    def put_sent(self, tag: str, payload: bytes, blobs: Iterable[str], sent: float) -> str:
        """Expect the tag where it was or on a manifest that is on its way; return its digest."""
        digest = digest_of(payload)
        owed = self.manifests.setdefault(digest, Owed(payload, blobs=tuple(blobs)))
        owed.is_gone = False
        before = self.tags.setdefault(tag, {None})
        self._let_go(before - {digest}, sent)
        before.add(digest)
        return digest

    def put_acknowledged(self, tag: str, digest: str) -> None:
        """Count on the manifest and the tag on it."""
        self.tags[tag] = {digest}
        self.manifests[digest].acknowledged(FOREVER)

    def untag_sent(self, tag: str, sent: float) -> None:
        """Expect the tag or none: its deletion is on its way."""
        before = self.tags[tag]
        self._let_go(before, sent)
        before.add(None)

    def untag_acknowledged(self, tag: str) -> None:
        """Expect no tag."""
        self.tags[tag] = {None}

    def delete_sent(self, digest: str, sent: float) -> None:
        """Expect the manifest with its tags, or neither; its blobs have their grace either way."""
        self.manifests[digest].doubted()
        self._owe_blobs(digest, sent + self.grace)
        for targets in self.tags.values():
            if digest in targets:
                targets.add(None)

    def delete_acknowledged(self, digest: str) -> None:
        """Expect neither the manifest nor its tags."""
        self.manifests[digest].deleted()
        for targets in self.tags.values():
            if digest in targets:
                targets.discard(digest)
                targets.add(None)

    def found_tag(self, tag: str, digest: str | None) -> None:
        """After a crash the tag is seen where it is: now that is known."""
        self.tags[tag] = {digest}
        if digest is not None:
            self.manifests[digest].acknowledged(FOREVER)

    def forget(self, now: float) -> None:
        """Drop what is not owed any more, so that collection may have it unobserved."""
        tagged = set().union(*self.tags.values()) if self.tags else set()
        for digest in [d for d, owed in self.manifests.items() if owed.until < now - 5]:
            if digest not in tagged:
                del self.manifests[digest]
        for digest in [d for d, owed in self.blobs.items() if owed.until < now - 5]:
            if not self.blob_is_needed(digest):
                del self.blobs[digest]

    def _let_go(self, targets: Iterable[str | None], sent: float) -> None:
        """Manifests that lose a tag are owed for a while, unless another tag is sure."""
        for digest in targets:
            if digest is None or digest not in self.manifests:
                continue
            sure = sum(found == {digest} for found in self.tags.values())
            if sure < 2:
                self.manifests[digest].until = min(
                    self.manifests[digest].until, sent + self.untagged_grace
                )
                self._owe_blobs(digest, sent + self.untagged_grace)

    def _owe_blobs(self, digest: str, until: float) -> None:
        for blob in self.manifests[digest].blobs:
            self.blobs[blob].until = max(self.blobs[blob].until, until)

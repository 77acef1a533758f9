"""How much a generated registry holds, and how it is shared out among its repositories."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

FULL_MANIFESTS: Final = 1_000_000
REPOSITORIES_PER_NAMESPACE: Final = 100
_PUBLIC_SHARE: Final = 0.01
_LARGEST_SHARE_OF_MANIFESTS: Final = 20
_SKEW: Final = 1.2


@dataclass(frozen=True, slots=True)
class Scale:
    """Counts of a registry; `largest_tags` are those of its first repository."""

    manifests: int = FULL_MANIFESTS
    tags: int = 5_000_000
    blobs: int = 3_000_000
    repositories: int = 20_000
    largest_tags: int = 1_000_000
    users: int = 1_000
    seed: int = 1

    def divided(self, by: int) -> "Scale":
        """Return the same registry, so many times smaller."""
        return Scale(
            manifests=self.manifests // by,
            tags=self.tags // by,
            blobs=self.blobs // by,
            repositories=self.repositories // by,
            largest_tags=self.largest_tags // by,
            users=max(1, self.users // by),
            seed=self.seed,
        )

    @property
    def problem(self) -> str | None:
        """Why there is no such registry, or None where there is one."""
        if self.repositories < 2 or self.users < 1:
            return "there must be two repositories and a user"
        largest = self.manifests // _LARGEST_SHARE_OF_MANIFESTS
        if largest < 1 or self.manifests - largest < self.repositories - 1:
            return "every repository must have a manifest"
        if self.blobs < self.manifests or self.largest_tags < largest:
            return "every manifest must have a blob and a tag"
        if self.tags - self.largest_tags < self.manifests - largest:
            return "every manifest must have a tag"
        return None


class Part(NamedTuple):
    """One repository's share: it has the numbers from `first_…` on."""

    number: int
    namespace: str
    name: str
    visibility: str
    first_manifest: int
    manifests: int
    first_blob: int
    blobs: int
    tags: int


def parts(scale: Scale) -> Iterator[Part]:
    """Share everything out: most repositories are small, few are large, the first is the largest.

    Every manifest has at least one tag and one blob of its own. The same scale gives the same
    parts.
    """
    source = random.Random(scale.seed)
    count = scale.repositories - 1
    weights = [source.paretovariate(_SKEW) for _ in range(count)]
    largest = scale.manifests // _LARGEST_SHARE_OF_MANIFESTS
    manifests = [largest, *_besides([1] * count, scale.manifests - largest, weights)]
    blobs = _besides(manifests, scale.blobs, manifests)
    source.shuffle(weights)
    tags = [
        scale.largest_tags,
        *_besides(manifests[1:], scale.tags - scale.largest_tags, weights),
    ]
    firsts = zip(_firsts(manifests), _firsts(blobs), strict=True)
    for index, (first_manifest, first_blob) in enumerate(firsts):
        namespace = namespace_of(index + 1)
        yield Part(
            index + 1,
            namespace,
            f"{namespace}/service-{index + 1:06d}",
            "public" if source.random() < _PUBLIC_SHARE else "private",
            first_manifest,
            manifests[index],
            first_blob,
            blobs[index],
            tags[index],
        )


def namespace_of(repository: int) -> str:
    """Return the namespace of a repository, by its number."""
    return f"team-{(repository - 1) // REPOSITORIES_PER_NAMESPACE:04d}"


def _besides(least: Sequence[int], total: int, weights: Sequence[float]) -> list[int]:
    """Share out exactly `total`: everybody's `least`, and the rest by weight."""
    rest, whole = total - sum(least), sum(weights)
    marks = [round(rest * until / whole) for until in accumulate(weights)]
    more = (mark - before for mark, before in zip(marks, [0, *marks], strict=False))
    return [own + part for own, part in zip(least, more, strict=True)]


def _firsts(counts: Sequence[int]) -> list[int]:
    return [1, *(1 + until for until in accumulate(counts[:-1]))]

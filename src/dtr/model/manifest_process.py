"""A process that parses one large manifest: `python -m dtr.model.manifest_process`.

A thread that parses 4 MiB keeps the interpreter from all others again and again, for most of 200 ms
where a machine is idle and for a second where it is busy. Another process does not. It reads a
request from standard input, writes an answer to standard output, and ends. What it imports is part
of what each such manifest costs.
"""

import signal
import sys
from collections.abc import Iterable
from typing import Any

import orjson

from dtr.model.digest import Digest
from dtr.model.documents import JsonLimits
from dtr.model.errors import ManifestInvalidError
from dtr.model.manifests import Limits, Manifest, parse_manifest


def request_of(payload: bytes, content_type: str, limits: Limits) -> bytes:
    """Return what to send to the process: a line that says how to parse, and the manifest."""
    return orjson.dumps([content_type, limits]) + b"\n" + payload


def answer_to(request: bytes) -> bytes:
    """Parse the manifest in a request; return the answer, also where the manifest is refused."""
    head, _, payload = request.partition(b"\n")
    content_type, limits = orjson.loads(head)
    json = JsonLimits(**limits["json"])
    try:
        found = parse_manifest(payload, content_type, Limits(limits["references"], json))
    except ManifestInvalidError as error:
        return orjson.dumps({"error": str(error), "detail": error.detail})
    return orjson.dumps(
        {
            "media_type": found.media_type,
            "blobs": _joined(found.blobs),
            "children": _joined(found.children),
            "optional": _joined(found.optional),
            "subject": found.subject,
            "artifact_type": found.artifact_type,
            "annotations": found.annotations,
        }
    )


def manifest_of(answer: bytes) -> Manifest:
    """Return the manifest that an answer describes.

    Raises:
        ManifestInvalidError: the manifest was refused.

    """
    found: dict[str, Any] = orjson.loads(answer)
    if "error" in found:
        raise ManifestInvalidError(found["error"], **found["detail"])
    subject = found["subject"]
    return Manifest(
        media_type=found["media_type"],
        blobs=_digests(found["blobs"]),
        children=_digests(found["children"]),
        optional=frozenset(_digests(found["optional"])),
        subject=None if subject is None else Digest(subject),
        artifact_type=found["artifact_type"],
        annotations=found["annotations"],
    )


def _joined(digests: Iterable[Digest]) -> str:
    """Return many digests as one text: to read it back makes no object that is not kept."""
    return " ".join(digests)


def _digests(text: str) -> tuple[Digest, ...]:
    # Not with `map`, which would keep the interpreter from all other threads until the last one.
    return tuple([Digest(each) for each in text.split()])


def main() -> None:
    """Answer one request."""
    # A service that stops asks all of its processes to end, and waits for the request that this
    # one is part of. Whoever started this one ends it if it takes too long.
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)
    sys.stdout.buffer.write(answer_to(sys.stdin.buffer.read()))


if __name__ == "__main__":
    main()

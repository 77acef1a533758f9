"""Images that a load pushes: random layers, some shared, named by their digests."""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_SIZES = (1_000, 20_000, 200_000, 2_000_000)
_WEIGHTS = (4, 4, 2, 1)
_COMMON_LAYERS = 8


@dataclass(frozen=True)
class Image:
    """A manifest and its blobs, by digest."""

    payload: bytes
    blobs: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return digest_of(self.payload)


def digest_of(content: bytes) -> str:
    """Return the sha256 digest."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def random_image(generator: random.Random) -> Image:
    """Make an image of three layers, one of which other images are likely to have too."""
    config = json.dumps({"created": generator.random()}).encode()
    base = random.Random(generator.randrange(_COMMON_LAYERS)).randbytes(50_000)
    layers = [base, *(generator.randbytes(_size(generator)) for _ in range(2))]
    return Image(manifest_of(config, layers), {digest_of(each): each for each in (config, *layers)})


def manifest_of(config: bytes, layers: list[bytes], note: str = "") -> bytes:
    """Return an image manifest."""

    def descriptor(media_type: str, content: bytes) -> dict[str, object]:
        return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(_CONFIG_TYPE, config),
        "layers": [descriptor(_LAYER_TYPE, layer) for layer in layers],
        "annotations": {"note": note},
    }
    return json.dumps(manifest).encode()


def _size(generator: random.Random) -> int:
    return generator.choices(_SIZES, _WEIGHTS)[0]

"""OCI values and rules: digest, name, reference, media type, manifest, access, errors. Pure.

Everything here is parsed once, at the edge; below the routes a digest is a `Digest`, never `str`.
"""

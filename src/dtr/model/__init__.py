"""Values and rules: digest, name, manifest, access, location, timing, members, errors. Pure.

Everything here is parsed once, at the edge; below the routes a digest is a `Digest`, never `str`.
"""

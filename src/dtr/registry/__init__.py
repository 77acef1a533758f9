"""The OCI distribution API: pull, push, uploads, mount, tags, referrers, catalog."""

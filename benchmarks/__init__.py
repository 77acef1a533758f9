"""Benchmarks of the registry against its peers, in one run on one machine."""

"""Shipped suites and builders: the conformance class of each port, an in-memory registry."""

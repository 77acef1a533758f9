"""Garbage collection: online, incremental, and never in the way of a push (design 6)."""

"""Registries that move: metadata from engine to engine, content from other registries."""

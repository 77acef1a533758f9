"""Registries that hold much."""

from tests.scale.filled import filled_template, filled_url

__all__ = ["filled_template", "filled_url"]

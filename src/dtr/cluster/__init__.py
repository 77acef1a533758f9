"""Replicas of the registry on the nodes that UCP manages: decisions, engines, health."""

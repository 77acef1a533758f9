"""What the agent runs on a node for the registry: Patroni, the registry itself, HAProxy."""

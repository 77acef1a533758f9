"""The agent: keeps what UCP wants on this node running, and reports."""

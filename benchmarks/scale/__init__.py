"""How the cost of a request depends on how much the registry holds."""

"""DTR: a trusted container registry that scales by replicas."""

__version__ = "0.1.0"

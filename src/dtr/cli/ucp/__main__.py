"""`python -m dtr.cli.ucp`: how agents start controllers, with the Python that they run on."""

from dtr.cli import ucp

ucp()

"""`python -m dtr.cli.ucp`: how agents start controllers, with the Python that they run on."""

from dtr.cli.ucp.application import main

if __name__ == "__main__":
    main()

"""`python -m dtr`."""

from dtr.cli.application import main

if __name__ == "__main__":
    main()

"""The command lines `dtr` and `ucp`: parse, ask, call, show. No decisions."""

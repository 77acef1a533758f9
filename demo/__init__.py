"""`make demo-cluster`: three machines on one computer, for someone who wants to watch."""

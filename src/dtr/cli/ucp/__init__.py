"""The `ucp` command line: machines, who they are, and the control plane that looks after them."""

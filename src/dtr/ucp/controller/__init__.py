"""The control plane's HTTPS API: who may call what, and what answers."""

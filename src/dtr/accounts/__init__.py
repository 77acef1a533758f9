"""Accounts, credentials, grants, and the gate that every request passes."""

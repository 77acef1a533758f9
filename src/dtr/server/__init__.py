"""The server put together: settings, composition root, error table, process tree."""

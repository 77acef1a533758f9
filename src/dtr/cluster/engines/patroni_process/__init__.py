"""What Patroni is started as; a package, since Patroni's own children import any other module."""

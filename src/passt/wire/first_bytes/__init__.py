"""What a client says first on a connection, as far as it names the server that it wants."""

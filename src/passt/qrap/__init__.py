"""qrap: starts a QEMU that cannot connect to passt by itself, on a connection that we make."""

"""Command line: the option table, port specifications, resolution of defaults."""

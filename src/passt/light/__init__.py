"""Stand-ins for modules of the standard library that cost start-up time."""

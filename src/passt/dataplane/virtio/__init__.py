"""Memory and rings shared with a guest."""

"""pesto: shows and changes the forwarded ports of a running pasta or passt, over its socket (--conf-path)."""

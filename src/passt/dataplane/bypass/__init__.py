"""The local bypass: from loopback to loopback, socket to socket."""

"""The control socket of --control: what the running program is and does, as JSON by HTTP on a UNIX socket.

`server` accepts clients, `client` talks HTTP with one of them (the package h11 knows the protocol), `routes`
is the table of what can be asked, `api` answers. All but `door`, which makes the socket, is imported only if
--control is given, and before paths are closed.
"""

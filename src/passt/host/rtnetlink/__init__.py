"""rtnetlink(7): messages, routes, and the socket that speaks them."""

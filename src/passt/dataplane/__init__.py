"""The compiled plane: event loop, links, flows, TCP, UDP and ping translation."""

"""The host: interfaces and routes, resolvers, ports, the tap, UNIX sockets, system calls."""

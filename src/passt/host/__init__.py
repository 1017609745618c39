"""The host: rtnetlink, namespaces, tun, listeners, process life."""

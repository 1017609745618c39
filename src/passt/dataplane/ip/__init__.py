"""IP: fragments, path MTU, ICMP errors."""

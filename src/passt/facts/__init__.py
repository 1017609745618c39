"""Frozen facts that every room may read: settings, host, guest, addresses, contracts."""

"""Bytes to values and back for control traffic; no I/O."""

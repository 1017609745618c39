"""Where a new flow goes: pure policy over frozen facts."""

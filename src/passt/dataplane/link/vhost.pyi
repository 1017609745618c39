"""Typing of the compiled link to a machine that shares its memory: what the control plane asks of it."""

OFFERED_FEATURES: int
MAX_QUEUE_PAIRS: int

def inflight_size(n_rings: int, ring_size: int) -> int:
    """Tell the bytes that record the descriptors in use of *n_rings* rings of *ring_size* descriptors."""

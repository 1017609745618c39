"""Typing of what a vhost-user session has to know of its device, which `Engine.attach_vhost` makes."""

OFFERED_FEATURES: int
MAX_QUEUE_PAIRS: int

"""Names of the counters, without those that `Engine.stats` has besides."""

VERDICT_NAMES: tuple[str, ...]

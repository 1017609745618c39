"""Names of the counters, without those that `Engine.counters` adds."""

VERDICT_NAMES: tuple[str, ...]

"""What all of the data plane stands on: system declarations, counters, memory budget, hash."""

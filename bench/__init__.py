"""The benchmark: ours, every installed peer and bare loopback, measured in one run."""

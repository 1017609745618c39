"""The host as it changes while the program runs: what is watched, what follows from it."""

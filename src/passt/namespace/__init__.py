"""Namespaces: made, entered, set up, watched, and the first process in them."""

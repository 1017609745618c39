"""Frames of the guest: where each goes."""

"""Servers on the guest's link: control frames in, reply frames out; no I/O, no clock."""

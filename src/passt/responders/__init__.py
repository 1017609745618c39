"""Control frames in, reply frames out; no I/O, no clock."""

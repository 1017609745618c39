"""Port rules over a UNIX socket (`-c`): what both ends say (`messages`), and our program's end (`server`).

The other end is `passt.pesto`, or the program of that name that comes with the C program.
"""

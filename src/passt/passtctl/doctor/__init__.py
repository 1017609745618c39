"""`passtctl doctor`: looks for what keeps pasta and passt from working on this machine, and changes nothing.

One file for each thing that is looked at, with a function `check` that returns findings. It takes what it
looks at as arguments, a `machine.Machine` first, so that tests give it a machine that they made up. `report`
has the table of all checks, runs them at once, and writes what they found.
"""

"""`passtctl top`: a view of one instance that fills the terminal and is drawn anew each second.

From bytes to bytes: `sample` reads what the instance tells, `rates` compares two samples, `view` lines
of those, `painter` what a terminal has to be sent for them. `app` does what keys ask for. None of these does
I/O or knows the time. `worker` asks the instance in a thread of its own, `terminal` has the terminal, and
`loop` joins them.
"""

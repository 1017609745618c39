"""Where the program begins in an interpreter of its own: `python -IS .../passt/start.py NAME [ARG]...`.

So do the launcher that pip installs (src/launcher), and `__main__` where the caller's interpreter obeys the
environment. -I keeps the caller's variables and directories out; -S leaves out the module `site`, which
start-up can do without, so the place of the package is added here. NAME is what the caller called, the first
of sys.argv from then on.
"""

import os
import sys

if __name__ == "__main__":
    if sys.flags.no_site:
        sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    del sys.argv[0]

    from passt.cli import main

    sys.exit(main())

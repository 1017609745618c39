"""`python -m passt pasta|passt|qrap [ARG]...`."""

import sys

from passt.cli import main

if __name__ == "__main__":
    sys.exit(main())

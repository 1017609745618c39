"""Entry of `python -m bench`; bench/run is the usual way in."""

import sys

from bench.cli import main

sys.exit(main(sys.argv[1:]))

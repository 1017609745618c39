"""Names of the counters follow the verdicts of the data plane."""

import re
from pathlib import Path

from passt.dataplane.base.stats import VERDICT_NAMES

DECLARED = Path(__file__).parents[3] / "src" / "passt" / "dataplane" / "base" / "stats.pxd"


def test_names_are_those_of_the_verdicts_in_order() -> None:
    declared = DECLARED.read_text(encoding="ascii")
    match = re.search(r"^cdef enum Verdict:[^\n]*\n(.*?)^    N_VERDICTS$", declared, re.MULTILINE | re.DOTALL)
    assert match
    assert list(VERDICT_NAMES) == [line.split()[0].lower() for line in match[1].splitlines()]

# ruff: noqa: INP001 - a script, in no package
"""Write docs/tcp-states.md, the diagram and the table of the TCP states, from the table that the code obeys.

    python tools/gen_tcp_states.py            rewrite the file in place
    python tools/gen_tcp_states.py --check    exit with 1 if it is out of date

The package has to be built: the table is `TRANSITIONS` in src/passt/dataplane/tcp/states.pyx.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from passt.dataplane.tcp.states import transitions  # noqa: E402 - found by the line above

PAGE = ROOT / "docs" / "tcp-states.md"
HEAD = """\
# TCP states

<!-- Written by tools/gen_tcp_states.py from src/passt/dataplane/tcp/states.pyx, do not edit. -->

The guest's TCP talks to an endpoint of passt's own; behind it stands one socket of the host. These are the
states of that endpoint, with the names of RFC 9293 3.3.2. Two are additions: CONNECTING is a SYN_RECEIVED
that withholds its SYN-ACK until connect(2) to the remote succeeds, HELD an ESTABLISHED in which nothing
passes until the guest's first bytes are judged (`--verify-names`, [egress.md](egress.md#verified-names)). A
connection that the guest opens comes to ESTABLISHED by CONNECTING and SYN_RECEIVED, one that comes to a
forwarded port by SYN_SENT.

The diagram leaves out what cuts a connection short; the table has that, too. `set_state` is the only writer
of a state, and a build with `PASST_DEBUG=1` aborts on a step that is not in the table.

```mermaid
stateDiagram-v2
"""
TABLE = """\
```

| From | To | RFC 9293 | When |
|---|---|---|---|
"""


def is_short_cut(source: str, target: str) -> bool:
    """Tell whether a transition ends a connection that has not come to its own end."""
    return target == "CLOSED" and source != "TIME_WAIT"


def page() -> str:
    """Give the text of the page."""
    steps = transitions()
    drawn = [step for step in steps if not is_short_cut(step[0], step[1])]
    lines = [f"    {source} --> {target}: {event}" for source, target, _, event in drawn]
    rows = [f"| {source} | {target} | {sections} | {event} |" for source, target, sections, event in steps]
    return HEAD + "\n".join(lines) + "\n" + TABLE + "\n".join(rows) + "\n"


def main(argv: list[str]) -> int:
    """Write the page or compare it; returns the exit status."""
    if argv == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
            return 0
        sys.stderr.write(f"{PAGE.relative_to(ROOT)} is out of date: run {Path(__file__).relative_to(ROOT)}\n")
        return 1
    if argv:
        sys.exit(__doc__)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

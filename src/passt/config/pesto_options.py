"""The options of pesto, in the order of its help; the parser, --help and the manual page are made from it."""

from __future__ import annotations

from passt.config.options import ACCUMULATES, GENERAL, PORTS, Option

PESTO = "pesto"
_PESTO_ONLY = (PESTO,)

PESTO_OPTIONS: tuple[Option, ...] = (
    Option(GENERAL, "s", "show", "",
           "Print the rules of all tables, before and after a change. Default without a change.",
           modes=_PESTO_ONLY, available=True),
    Option(GENERAL, "d", "debug", "", "Print what is sent and received on standard error.",
           modes=_PESTO_ONLY, available=True),
    Option(GENERAL, "h", "help", "", "Print this overview and exit.", modes=_PESTO_ONLY, available=True),
    Option(GENERAL, "", "version", "", "Print the version and exit.", modes=_PESTO_ONLY, available=True),

    Option(PORTS, "A", "add", "",
           "Add the rules of the port options that follow; one that overlaps a rule that is there is an"
           " error.",
           modes=_PESTO_ONLY, available=True),
    Option(PORTS, "D", "delete", "",
           "Delete the rules of the port options that follow; each has to be there, word for word.",
           modes=_PESTO_ONLY, available=True),
    Option(PORTS, "C", "clear", "TABLE", "Delete all rules of TABLE: HOST, or SPLICE in pasta.",
           modes=_PESTO_ONLY, repeat=ACCUMULATES, available=True),
    Option(PORTS, "t", "tcp-ports", "SPEC",
           "Forward TCP ports of the host to the guest (table HOST); SPEC as for pasta and passt. Without"
           " --add or --delete in front, the first use of -t or -u replaces the whole table, and further ones"
           " add to it.", modes=_PESTO_ONLY, repeat=ACCUMULATES, available=True),
    Option(PORTS, "u", "udp-ports", "SPEC", "The same for UDP ports.", modes=_PESTO_ONLY, repeat=ACCUMULATES,
           available=True),
    Option(PORTS, "T", "tcp-ns", "SPEC",
           "Forward TCP ports of the namespace's loopback to the host's (table SPLICE, pasta only); the first"
           " use of -T or -U replaces that table.", modes=_PESTO_ONLY, repeat=ACCUMULATES, available=True),
    Option(PORTS, "U", "udp-ns", "SPEC", "The same for UDP ports.", modes=_PESTO_ONLY, repeat=ACCUMULATES,
           available=True),
)

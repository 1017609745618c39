"""Lets all names be asked for, and tells which were and what they have (--learn). Pure, no I/O.

It stands where `name_rules.NameRules` does, and answers HTTPS and SVCB empty as that does: the hints in them
are addresses that nobody has asked for, and a run with rules would not have them either.
"""

from __future__ import annotations

from passt.names.name_rules import MAX_ADDRESSES, Pin, find_addresses, is_hint
from passt.wire.dns.message import show_name

MAX_TEXT_LEN = 255                 # what is longer has bytes that no rule can have

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.wire.dns.message import DnsView


class NameLearner:
    """Judges names as `NameRules` does, with no rules."""

    def may_ask(self, _name: bytes) -> bool:
        """Tell whether the guest may ask for *_name*."""
        return True

    def is_empty(self, query: DnsView) -> bool:
        """Tell whether *query* is answered that there is no such record."""
        return is_hint(query)

    def pins(self, name: bytes, answer: DnsView) -> list[Pin]:
        """Return what *answer* to a question for *name* leads to; a pin without an address if to nothing."""
        addresses = list(find_addresses(name, answer)[1])[:MAX_ADDRESSES]
        text = show_name(name).encode("ascii")[:MAX_TEXT_LEN]
        return [Pin(0, address, 0, text) for address in addresses or (b"",)]

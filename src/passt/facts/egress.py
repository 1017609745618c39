"""Rules of egress: which flows the guest may open, as options or a file gave them."""

from __future__ import annotations

from passt.light.values import IntEnum, NamedTuple, Value

ANY_PROTOCOL, TCP, UDP, ICMP = "", "tcp", "udp", "icmp"
PROTOCOLS = (TCP, UDP, ICMP)
MAX_EGRESS_RULES = 4096           # of a run: a table of this size takes 2 MB, and some 30 ms to make
MAX_PORT_RANGES = 64              # of one rule

# Words whose networks are known once the host is: its own addresses, and the servers of names.
HOST, DNS = "host", "dns"
# Words that always mean the same networks: packed address and prefix length.
WORDS: dict[str, tuple[tuple[bytes, int], ...]] = {
    # RFC 1918, RFC 6598, RFC 4193
    "private": ((bytes((10, 0, 0, 0)), 8), (bytes((172, 16, 0, 0)), 12), (bytes((192, 168, 0, 0)), 16),
                (bytes((100, 64, 0, 0)), 10), (b"\xfc" + bytes(15), 7)),
    # RFC 3927, RFC 4291 2.5.6
    "link-local": ((bytes((169, 254, 0, 0)), 16), (b"\xfe\x80" + bytes(14), 10)),
    # What machines of clouds ask for credentials: most of them; ECS of Amazon, and its IPv6; Azure; Alibaba.
    "metadata": ((bytes((169, 254, 169, 254)), 32), (bytes((169, 254, 170, 2)), 32),
                 (bytes.fromhex("fd000ec2000000000000000000000254"), 128),
                 (bytes((168, 63, 129, 16)), 32), (bytes((100, 100, 100, 200)), 32)),
    # RFC 5771, RFC 4291 2.7; and the limited broadcast
    "multicast": ((bytes((224, 0, 0, 0)), 4), (b"\xff" * 4, 32), (b"\xff" + bytes(15), 8)),
    HOST: (),
    DNS: (),
}


class EgressRule(Value):
    """One rule: it allows or denies flows to where one of its parts leads.

    *networks* are pairs of a packed address and a prefix length; *word* is a key of `WORDS`, else empty;
    *name* is in the text form of `domain_name` and in lower case, and stands for all names that end in it,
    itself not among them, with *is_suffix*. A rule has networks, or a name, or *word* is `HOST` or `DNS`.
    """

    allows: bool
    networks: tuple[tuple[bytes, int], ...] = ()
    word: str = ""
    protocol: str = ANY_PROTOCOL
    ports: tuple[tuple[int, int], ...] = ()   # first and last; none: all, and echo requests
    spec: str = ""                            # as given
    name: str = ""
    is_suffix: bool = False

    @property
    def text(self) -> str:
        """The rule for people."""
        return f"{'allow' if self.allows else 'deny'} {self.spec}"


class EgressRules(Value):
    """All rules in the order in which they are tried; the first one that fits decides, else *allows_rest*.

    *learns*: there are none, and what would be needed is noted (--learn). *verifies*: a connection that
    passes by a name alone has to say one that is allowed (--verify-names).
    """

    rules: tuple[EgressRule, ...] = ()
    allows_rest: bool = True
    learns: bool = False
    verifies: bool = False

    @property
    def has_names(self) -> bool:
        """Whether a rule is about a name: then only the forwarder may answer for names."""
        return any(rule.name for rule in self.rules)


class Why(IntEnum):
    """Why a name, or the answer to it, is refused, beside the rule."""

    QUESTION = 0                   # the rule says so
    ALIAS = 1                      # the rule denies an alias that the answer is by
    DOH = 2                        # a server of DNS over HTTPS, which takes a rule with exactly its name
    TOO_MANY = 3                   # the answer has too many addresses
    NOT_PINNED = 4                 # the main process has not taken these


class RefusedName(NamedTuple):
    """A name that was refused, as printable text."""

    place: int
    why: Why
    name: str

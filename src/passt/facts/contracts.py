"""The protocols by which the control plane and the data plane meet.

Addresses cross this border as packed network-order `bytes`: 4 for IPv4, 16 for IPv6.
Protocol numbers are those of IANA (6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6); for echo flows
both "ports" are the echo identifier.
"""

from __future__ import annotations

from passt.light.values import NamedTuple, Protocol, Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from passt.facts.port_rule import PortRule

# The flow table tells the listeners of datagrams apart by 16 bits.
MAX_LISTENERS = 0xfffe
# Tables of port rules, by the names that clients of the control socket know.
HOST_TABLE, NAMESPACE_TABLE = "HOST", "SPLICE"
MAX_RULES = 255                   # of one table
# Pieces of guest memory that one vhost-user session may have; more than the memory slots of usual machines.
MAX_REGIONS = 64


class Target(NamedTuple):
    """What our socket connects to: of an outbound flow the remote, of a bypassed flow the service.

    *lasting* says that the answer holds for all connections between the same addresses at the same listener,
    until one of the guest's addresses changes: the data plane need not ask again. *held*, of a connection
    that the guest opens: the remote gets nothing before `FlowPolicy.judge_opening` lets the first bytes pass.
    """

    address: bytes
    port: int
    scope_id: int = 0
    source: bytes | None = None
    ifname: bytes | None = None
    lasting: bool = False
    held: bool = False


PROHIBITED = Target(b"", 0)
"""What `FlowPolicy.outbound` answers for a flow that a rule forbids: the guest is told so, and at once."""


FORWARDER = b""
"""The address of our forwarder of names for rules of egress: by whatever address it is reached, it is we."""


class InboundTarget(NamedTuple):
    """What the guest sees of a flow that a host-side client opened."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int


class FlowInfo(NamedTuple):
    """A snapshot of one flow: *guest_address* as the guest sees it, *host_address* as our socket has it."""

    proto: int
    state: str
    guest_address: bytes
    guest_port: int
    remote_address: bytes
    remote_port: int
    host_address: bytes
    host_port: int
    inbound: bool


class FlowDetail(NamedTuple):
    """All that is known of one flow; `None` where the kernel or the kind of flow does not tell.

    *number* and *generation* name it as long as the program runs. *guest_address* and *remote_address* are
    its ends as the guest sees them; *peer_address* is the far end of our socket on the host, *local_address*
    the near one, empty where it has none. Bytes are payload, those to the guest as far as it has taken them;
    packets of a connection are those that the host's socket sent and received. *window_guest* is what the
    guest takes, *window_ours* what it may send us, *window_host* what may be on its way to the remote, all in
    bytes. Of a bypassed connection the guest's side is its second socket.
    """

    number: int
    generation: int
    proto: int
    state: str
    bypassed: bool
    inbound: bool
    guest_address: bytes
    guest_port: int
    remote_address: bytes
    remote_port: int
    peer_address: bytes
    peer_port: int
    local_address: bytes
    local_port: int
    age_ns: int
    idle_ns: int | None
    bytes_to_host: int | None
    bytes_to_guest: int | None
    packets_to_host: int | None
    packets_to_guest: int | None
    rtt_guest_us: int | None
    rtt_host_us: int | None
    retransmits_to_guest: int | None
    retransmits_to_host: int | None
    window_guest: int | None
    window_ours: int | None
    window_host: int | None


class FlowWatcher(Protocol):
    """Told of each flow that begins and ends, while somebody looks; must be fast and must not raise."""

    def on_flow_opened(self, flow: FlowDetail) -> None:
        """Take a flow that has begun."""

    def on_flow_ended(self, flow: FlowDetail, why: str) -> None:
        """Take a flow that ends, with what it carried.

        *why* is "finished", "reset", "refused" (by the far end), "idle", "evicted", "port closed" or "asked".
        """

    def on_flow_refused(self, proto: int, source: bytes, source_port: int, destination: bytes,
                        destination_port: int, inbound: bool) -> None:
        """Take it that the policy refused a flow; *inbound*: of a client on the host's side."""

    def on_port_opened(self, listener: ListenerInfo) -> None:
        """Take a listener that was opened."""

    def on_port_closed(self, listener: ListenerInfo) -> None:
        """Take a listener that was closed."""


class ListenerInfo(NamedTuple):
    """An open listener: *port* is the one that it is bound to, *rule* what it was added with."""

    proto: int
    port: int
    rule: object
    namespace: bool


class TurnsMeasured(NamedTuple):
    """How long turns of the loop took, without the wait that each begins with; times in nanoseconds.

    *cpu_in_longest_ns* is what the longest one had of a processor: for the rest of it the thread waited for
    one. *most_cpu_ns* is the most that any one had.
    """

    n: int
    longest_ns: int
    cpu_in_longest_ns: int
    most_cpu_ns: int


class FlowPolicy(Protocol):
    """Asked once per new flow; `None` refuses it. Must be fast and must not raise."""

    def outbound(self, proto: int, source: bytes, source_port: int,
                 destination: bytes, destination_port: int) -> Target | None:
        """Map a flow that the guest opens to what our socket connects to.

        `None` refuses it: a connection is reset, and there is no answer to others. `PROHIBITED` refuses it by
        a rule: others are answered by an ICMP error.
        """

    def judge_opening(self, source: bytes, source_port: int, destination: bytes, destination_port: int,
                      data: bytes, end: str) -> bool | None:
        """Tell whether a connection that is held may go on, of which the guest's first bytes are *data*.

        `None`: more of them have to come; asked again whenever there are more. *end*, if not empty, says why
        none will be waited for: it is refused.
        """

    def inbound(self, proto: int, rule: object, peer: bytes, peer_port: int,
                local: bytes, local_port: int) -> InboundTarget | Target | None:
        """Map a flow accepted on the host's listener that belongs to *rule*.

        An `InboundTarget` says what the guest sees of the flow; with a `Target` the flow bypasses the link,
        and a socket inside the guest's namespace connects to that address.
        """

    def leads_to(self, proto: int, rule: object, address: bytes, port: int) -> bool:
        """Tell whether *rule* leads *port* to the same port of the guest's *address*."""

    def outbound_bypass(self, proto: int, rule: object, peer: bytes, peer_port: int,
                       local: bytes, local_port: int) -> Target | None:
        """Map a flow accepted on the namespace's listener that belongs to *rule* to a service on the host."""

    def guest_visible_source(self, address: bytes) -> bytes | None:
        """Translate the *address* of a remote to the one that the guest sees; `None`: it sees none.

        For a packet that no flow's remote sent: an ICMP error of a router, an answer to a multicast. 0.0.0.0
        and :: mean this host. Asked at most once per error.
        """


class Explained(Value):
    """What a `FlowPolicy` decides, and how.

    *target* is its answer; *why* the name of the row that decided, or why the flow is refused. *steps* are
    lines for people, in the order in which it was decided.
    """

    target: InboundTarget | Target | None
    why: str
    steps: tuple[str, ...]


class FlowExplainer(Protocol):
    """The decisions of a `FlowPolicy` by the same code, step by step; nothing is logged or kept."""

    def explain_outbound(self, proto: int, source: bytes, source_port: int,
                         destination: bytes, destination_port: int) -> Explained:
        """Explain `FlowPolicy.outbound`."""

    def explain_inbound(self, proto: int, rule: object, peer: bytes, peer_port: int,
                        local: bytes, local_port: int) -> Explained:
        """Explain `FlowPolicy.inbound`."""

    def explain_outbound_bypass(self, proto: int, rule: object, peer: bytes, peer_port: int,
                                local: bytes, local_port: int) -> Explained:
        """Explain `FlowPolicy.outbound_bypass`."""


class FrameResponder(Protocol):
    """Answers control frames: ARP, NDP, DHCP, DHCPv6."""

    def respond(self, frame: bytes) -> list[bytes]:
        """Take one Ethernet frame without FCS; return whole frames for the guest, maybe none."""


class GuestEvents(Protocol):
    """Takes what the data plane learns of the guest from plausible frames."""

    def on_guest_address(self, address: bytes) -> None:
        """Take a new source address of the guest (4 or 16 bytes; unicast, never loopback)."""

    def on_guest_mac(self, mac: bytes) -> None:
        """Take the guest's hardware address (6 bytes)."""

    def on_guest_silent(self) -> None:
        """Ask the guest by its addresses: it may be gone."""

    def on_ping_forbidden(self) -> None:
        """Take it that an echo request could not be sent, as the host refuses us ping sockets."""


class ListenerSide(Protocol):
    """Opens and closes listeners while the engine runs, on one side: the host's or the namespace's.

    The host's side opens listeners for -t and -u, the namespace's side for -T and -U: on its loopback, one
    for each enabled family.
    """

    def open_listener(self, rule: object, port: int) -> object:
        """Listen on *port* for *rule*, a `PortRule`, and have the engine serve it.

        Returns what `close_listener` takes. Raises OSError if the port cannot be had.
        """

    def change_rule(self, handle: object, rule: object) -> None:
        """Have a listener serve *rule* from now on; the connections that it accepted stay as they are."""

    def close_listener(self, handle: object) -> None:
        """Close a listener; the connections that it accepted stay."""


class PortChange(NamedTuple):
    """What came of a change of port rules.

    With *faults* nothing was changed; each is one line for the user that names a rule or port and what is
    wrong. Only the *n_lost* ports are closed, which were closed for the change and could not be had again.
    *notes* are lines about ports of optional rules that could not be had. *n_opened* and *n_closed* count
    ports.
    """

    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    n_opened: int = 0
    n_closed: int = 0
    n_lost: int = 0


class PortTables(Protocol):
    """The port rules of a run, which may be changed while the engine runs (`run.port_tables`).

    There is a table for each side that listens: `HOST_TABLE` for -t and -u and, in pasta only,
    `NAMESPACE_TABLE` for -T and -U. Call from the engine's thread: from a callback of the loop. To add or
    remove rules, replace the table by `rules` with some more or some fewer; rules that are in both keep their
    listeners.
    """

    def names(self) -> tuple[str, ...]:
        """List the tables that there are."""

    def rules(self, name: str) -> tuple[PortRule, ...]:
        """Return the rules of a table in their order. A rule of the namespace's table has no `ifname`."""

    def can_follow(self, name: str) -> bool:
        """Tell whether rules of the table may be `auto`."""

    def count_open(self, name: str) -> dict[PortRule, int]:
        """Return on how many ports each rule of a table listens now: all, if it is not optional or `auto`."""

    def explain_closed(self, name: str, proto: int, port: int) -> list[tuple[PortRule, str]]:
        """Return the rules of a table that have *port* but do not listen on it now, and why not."""

    def replace(self, tables: Mapping[str, Sequence[PortRule]]) -> PortChange:
        """Make the rules of the tables that are named those given: all of it, or nothing.

        Listeners of rules that stay are not touched, new ones are opened before old ones are closed, and
        connections through old ones live on. Never raises for what a rule says.
        """


class NamespaceSockets(Protocol):
    """Opens sockets inside the target namespace, at any time (`dataplane.sockets.namespace_thread`)."""

    def open_socket(self, family: int, kind: int, protocol: int) -> int:
        """Open a socket there as by socket(2), close-on-exec; return its descriptor. Raises OSError."""

    def open_listener(self, proto: int, port: int, *, ip4: bool, ip6: bool) -> list[int]:
        """Open listeners on *port* of the namespace's loopback, for the wanted families.

        *proto* is IPPROTO_TCP (listening then) or IPPROTO_UDP. Returns one descriptor or two, for
        `Engine.add_listener` with *namespace* True. Raises OSError; nothing stays open then.
        """


class MemoryRegion(NamedTuple):
    """A piece of the guest's memory that a vhost-user front end shares.

    *guest_address* is where the guest sees it, *user_address* where the front end does; *size* is in bytes.
    It lies *mmap_offset* bytes into the file *fd*, which is -1 where a region is only named.
    """

    guest_address: int
    size: int
    user_address: int
    mmap_offset: int
    fd: int


class WaitLimit(Protocol):
    """As a context, bounds the waits within for what somebody hostile has sent (`dataplane.base.wait_limit`).

    A system call that waits is interrupted every few milliseconds.
    """

    def __enter__(self) -> object:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End."""

    def has_passed(self) -> bool:
        """Tell whether it took so long that a wait would have been interrupted."""

    def tell(self, fd: int) -> bool:
        """Add 1 to the eventfd *fd*; False if that would have waited. No error is raised."""


class PacketFilter(NamedTuple):
    """Which packets a capture takes: those that fit each part; an empty part asks for nothing.

    *protocols* and *families* are sums of SEEN_* below, of which a packet is one; *interfaces* is a sum of
    ON_LINK and ON_BYPASS. One of the packet's ports lies in one of *ports* (first, last), one of its
    addresses in one of *networks* (packed address, prefix length). There are at most MAX_FILTER_PARTS of
    either.
    """

    protocols: int = 0
    families: int = 0
    interfaces: int = 0
    ports: tuple[tuple[int, int], ...] = ()
    networks: tuple[tuple[bytes, int], ...] = ()


# As `dataplane.observe.seen_packet` and `packet_filter` number them.
SEEN_TCP, SEEN_UDP, SEEN_ICMP, SEEN_ICMP6, SEEN_ARP, SEEN_IP4, SEEN_IP6 = 1, 2, 4, 8, 16, 32, 64
ON_LINK, ON_BYPASS = 1, 2
MAX_FILTER_PARTS = 8


class Recorder(Protocol):
    """Packets in memory as pcapng, for a pipe or for who reads them (`dataplane.observe.recorder`).

    A *place* is that of a block; places count on without end.
    """

    @property
    def fd(self) -> int:
        """The pipe to which the recorder writes; negative if there is none."""

    @property
    def is_full(self) -> bool:
        """Whether the pipe did not take all: call `flush` when it is writable again."""

    @property
    def error(self) -> int:
        """The errno that ended the writing to the pipe, 0 while it goes on."""

    @property
    def start(self) -> int:
        """The place of the oldest block."""

    @property
    def end(self) -> int:
        """The place behind the newest block."""

    def counts(self) -> tuple[tuple[int, int, int], ...]:
        """Count, for the link and for the bypass, packets taken, lost, and forgotten for newer ones."""

    def put(self, block: bytes) -> bool:
        """Add a block of any kind; False if there is no room."""

    def read(self, place: int, until: int, limit: int) -> tuple[int, bytes]:
        """Read blocks from *place* on, or what is left of them; return the place behind them, and the blocks.

        None begins at *until* or behind it, and they have at most *limit* bytes, unless there is just one. No
        bytes: there is nothing.
        """

    def forget(self, place: int) -> None:
        """Free the memory of blocks before *place*."""

    def flush(self) -> None:
        """Write to the pipe what it takes; look at `is_full` and `error` then."""

    def ask(self) -> None:
        """Have the callback of `Engine.start_recorder` called once when there is something to read."""

    def close(self) -> None:
        """Close the pipe, and call nobody any more."""


class VhostDevice(Protocol):
    """The device of one vhost-user session: guest memory, rings, features (`dataplane.link.vhost`).

    Ring 2k is the guest's receive queue of pair k, ring 2k + 1 its transmit queue. Buffers are used in order,
    and a ring starts behind the last one that was used, so that nothing is lost or repeated.

    Every method raises ValueError, with a text for the user, for what a front end may not ask, and OSError
    for what the kernel refuses; the session ends then. Where a method takes ownership of a descriptor, it
    does so even if it raises.
    """

    def set_features(self, features: int) -> None:
        """Take the features that the front end acknowledged, those of vhost among them.

        Without VHOST_USER_F_PROTOCOL_FEATURES all rings are enabled from now on.
        """

    def set_memory(self, regions: Sequence[MemoryRegion]) -> None:
        """Map *regions* in place of all others; the caller closes their descriptors."""

    def add_region(self, region: MemoryRegion) -> None:
        """Map one more region; the caller closes its descriptor."""

    def remove_region(self, region: MemoryRegion) -> None:
        """Unmap the region with the same addresses and size; its *fd* is -1."""

    def set_ring_size(self, ring: int, size: int) -> None:
        """Take the number of descriptors of *ring*."""

    def set_ring_base(self, ring: int, base: int) -> None:
        """Take the index of the next available descriptor of *ring*."""

    def set_ring_addresses(self, ring: int, descriptors: int, used: int, available: int,
                           log: int | None) -> None:
        """Take where the parts of *ring* are, as the front end sees them.

        *log* is the guest's address of the used ring if writes to it are to be logged.
        """

    def set_kick(self, ring: int, fd: int) -> None:
        """Take ownership of the eventfd that the guest kicks, and start *ring*; -1: polling was asked for."""

    def set_call(self, ring: int, fd: int) -> None:
        """Take ownership of the eventfd that interrupts the guest, and signal it once; -1: none."""

    def enable_ring(self, ring: int, enabled: bool) -> None:
        """Let frames pass through *ring*, or not."""

    def stop_ring(self, ring: int) -> int:
        """Stop *ring*, close its kick and call, and return the index of the next available descriptor."""

    def set_log(self, fd: int, size: int, offset: int) -> None:
        """Map the log of dirty pages, *size* bytes from *offset* of *fd*; the caller closes *fd*."""

    def set_log_call(self, fd: int) -> None:
        """Take ownership of the eventfd that tells the front end of new dirty pages; -1: none."""

    def reset(self) -> None:
        """Stop all rings and forget the features; the memory stays."""

    def end(self, reason: str) -> None:
        """End the session: the link is detached at the end of this turn, and told the *reason*."""

"""Typing of the compiled engine: the one class of the data plane that Python sees."""

from collections.abc import Callable, Collection, Iterator

from passt.dataplane.base.wait_limit import WaitLimit
from passt.dataplane.sockets.namespace_thread import NamespaceThread
from passt.facts.contracts import (
    FlowDetail,
    FlowInfo,
    FlowPolicy,
    FlowWatcher,
    FrameResponder,
    GuestEvents,
    ListenerInfo,
    PacketFilter,
    Recorder,
    TurnsMeasured,
    VhostDevice,
)

class Engine:
    """Event loop, link, flow table and translators of one instance; owns all of its state.

    One thread only. Exceptions raised by callbacks leave run() unchanged: they are our mistakes.
    """

    def __init__(self, policy: FlowPolicy, responder: FrameResponder, events: GuestEvents, *,
                 our_mac: bytes, mtu: int, max_flows: int = ..., secret: bytes = ...,
                 our_ip4: bytes = ..., udp_timeouts: tuple[int, int] = ...,
                 without: Collection[str] = ..., sockets: object = ...) -> None:
        """Take the deciders; *our_mac* 6 bytes, *mtu* bytes (0: none assigned), *secret* 16 random bytes.

        *our_ip4*, 4 bytes, is the address at which the guest finds the DHCP server (zeros: none).
        *udp_timeouts* are the seconds that an unused UDP flow lives, one without an answer or with one,
        and one that went on. Datagram flows have at most half of the descriptors that the process may
        open, and a quarter of *max_flows*. *without* names what this kernel shall count as lacking, for
        tests of the fallbacks: "peek_off4", "peek_off6", "meminfo", "bytes_acked" (see `Sockets.probe`),
        "pwait2" (epoll_pwait2, Linux 5.11). *sockets*, of the class `sockets.Sockets`, stand in for the
        kernel's; their reactor has *max_flows* + 3 timers.
        """

    def memory_ceiling(self) -> int:
        """Tell the bytes that flows can make the engine use at most, all tables and pools together.

        72 MiB and less with the default *max_flows*; of the tables only the pages that were used are there.
        """

    def switch(self, *, ip4: bool = ..., ip6: bool = ..., tcp: bool = ..., udp: bool = ...,
               icmp: bool = ...) -> None:
        """Switch families and protocols on or off: the guest's packets of one that is off are dropped.

        They are counted as `drop_disabled`. Neighbour discovery and DHCP are control frames and go on.
        """

    def renew(self, our_ip4: bytes) -> None:
        """Forget what the policy and the responder have said: they decide by another network from now on.

        *our_ip4* is as at the start; at its eight predecessors the guest finds the DHCP server, too. Flows
        that there are go where they went.
        """

    def set_neighbours(self, entries: dict[bytes, bytes]) -> None:
        """Let frames from the addresses in *entries* bear the MAC addresses there, from now on; others ours.

        At most 512, packed, as the guest sees them. What the responder answered for those that change is
        forgotten. A frame to a station that has the very MAC address bears ours. Raises ValueError for more,
        or another length.
        """

    def attach_tap(self, fd: int, guest_mac: bytes, offloads: int) -> None:
        """Take ownership of a tap opened by `host.tap`; *offloads* are the TUN_F_* bits granted."""

    def go_without_link(self) -> None:
        """Let flows that bypass the link come, as there will be none; frames for the guest are dropped."""

    def is_guest_known(self) -> bool:
        """Tell whether the guest's MAC address is known: from the tap, or from what came by this client."""

    def attach_stream(self, fd: int, on_end: Callable[[str], None]) -> None:
        """Take ownership of a connected stream socket on which a virtual machine's frames come and go.

        Each has its length in front, 4 bytes in network order (QEMU, `-netdev stream`). When the client
        closes the connection, resets it, or sends a length that no frame has, the socket is closed and
        what was on its way to the guest dropped; then *on_end* is called from the loop with the reason,
        such as "it closed the connection". Flows live on and wait: another socket may be attached then,
        from *on_end* too.

        Raises ValueError while a link is attached and OSError if *fd* cannot be watched, and leaves the
        socket to the caller.
        """

    def attach_vhost(self, on_end: Callable[[str], None]) -> VhostDevice:
        """Attach a link without memory to the device that is returned; a vhost-user session sets that up.

        When the device is told to end, or rings or memory turn out to be wrong, the link is detached at the
        end of the turn and *on_end* is called from the loop with the reason. Flows live on, as with
        `attach_stream`. Raises ValueError while a link is attached.
        """

    def attach_link(self, link: object, on_end: Callable[[str], None] | None) -> None:
        """Take ownership of a `link.Link` that holds descriptors; the other methods that attach do this.

        With *on_end* None, `run` raises HostError when the link ends. Raises ValueError while another link is
        attached and OSError if a descriptor cannot be watched, and leaves all of them to the caller.
        """

    def attach_namespace(self, inside: NamespaceThread) -> None:
        """Take ownership of what opens sockets in the guest's namespace: flows may bypass the link now."""

    def add_listener(self, fd: int, proto: int, rule: object, namespace: bool = ...) -> None:
        """Take ownership of a bound socket (TCP: listening); *rule* is handed to the policy.

        That is `FlowPolicy.inbound`, or `FlowPolicy.outbound_bypass` for a socket opened in the *namespace*.
        Raises OSError, and leaves the socket to the caller, if there are `contracts.MAX_LISTENERS`.
        """

    def change_rule(self, fd: int, rule: object) -> None:
        """Hand another *rule* to the policy for what comes to a listener from now on; KeyError as below.

        TCP connections and UDP flows that there are go where they went.
        """

    def remove_listener(self, fd: int) -> None:
        """Close a listener; KeyError if it is not one of ours.

        TCP connections that it accepted live on; its UDP flows use its socket and end.
        """

    def listeners(self) -> list[ListenerInfo]:
        """All listeners there are, in the order in which they were added."""

    def listeners_at(self, proto: int, port: int) -> list[ListenerInfo]:
        """Find the listeners of one port; what there is of others costs next to nothing."""

    def listener_page(self, start: int = ..., limit: int = ...) -> tuple[list[ListenerInfo], int | None]:
        """Look at *limit* places for listeners; return those that are there, and the start of the next page.

        A listener that is there while all pages are read is found exactly once.
        """

    def add_reader(self, fd: int, callback: Callable[[], None], readable: bool = ...,
                   writable: bool = ...) -> None:
        """Call *callback* from the loop whenever *fd* is *readable*, or *writable* (level-triggered).

        Without an argument: readable. Its end or an error call in any case. A second call for the same
        descriptor takes the place of the first.
        """

    def remove_reader(self, fd: int) -> None:
        """Stop watching *fd*; does not close it."""

    def wait_limit(self) -> WaitLimit:
        """Give what bounds waits for descriptors of a client; of use after `wait_limit.prepare`."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call *callback* once, *delay_s* seconds from now."""

    def send_frame(self, frame: bytes) -> bool:
        """Send one Ethernet frame (checksums complete) to the guest; False if the link refuses it."""

    def start_capture(self, fd: int, on_end: Callable[[int], None]) -> None:
        """Have all frames of the link written to *fd*, which stands behind a pcap file header.

        Takes ownership of *fd*. If it cannot be written, *on_end* is called with the errno and the capture
        is over. See `observe.capture`.
        """

    def end_capture(self) -> tuple[int, int] | None:
        """End the capture; tells the frames written, and those lost as a pipe's reader was too slow.

        None if there was no capture. `close` ends it too.
        """

    def start_recorder(self, packets: PacketFilter, header: bytes, room: int, *, snap_len: int,
                       keeps_newest: bool = ..., fd: int = ...,
                       on_change: Callable[[], None] | None = ...) -> Recorder:
        """Keep packets of the link, and of what bypasses it, as pcapng; see `contracts.Recorder`.

        *room* is in bytes, a multiple of 4 and 128 KiB at least; *snap_len* bytes of a packet are kept. With
        *keeps_newest* the oldest ones make room for new ones, and *header* is not used; else new ones are
        lost while there is no room, and *header*, blocks too, comes first. The recorder owns *fd*, a pipe, if
        that is not negative, and writes to it at the end of each turn. *on_change* is called from the loop:
        when the pipe is full, or takes no more at all; when there is something to read after `Recorder.ask`.
        Raises ValueError and MemoryError, and leaves *fd* to the caller.
        """

    def stop_recorder(self, recorder: Recorder) -> None:
        """Give *recorder* no packets any more, and leave it to the caller to read it and close it."""

    def set_trace(self, flows: Callable[[str], None] | None,
                  frames: Callable[[bytes, int, bool, int, int, int], None] | None = None) -> None:
        """Have *flows* called with a line for each flow state change, and *frames* for each frame.

        The arguments of *frames*: the first 256 bytes, the length, whether it goes to the guest, gso_type and
        gso_size as in its virtio-net header, the number of its flow or -1.
        """

    def trace_flows(self, flows: Callable[[str], None] | None) -> None:
        """Do so for *flows* alone, and leave *frames* as they are."""

    def run(self) -> None:
        """Run until `stop` is called from a callback. Raises HostError if the tap is deleted meanwhile."""

    def stop(self) -> None:
        """Make `run` return at the end of the current turn."""

    def measure_turns(self, wanted: bool = ...) -> TurnsMeasured:
        """Measure turns from now on, or not; return what was measured since the last call.

        The measurement takes two system calls a turn.
        """

    def counters(self) -> dict[str, int]:
        """Frames, bytes, drops by reason, flows by kind; names as in `base.stats`."""

    def udp_sockets(self) -> list[int]:
        """Descriptors of the sockets that UDP flows of the guest leave by: bound, not connected."""

    def flow_page(self, start: int = ..., limit: int = ...) -> tuple[list[FlowInfo], int | None]:
        """Look at *limit* records of the flow table from index *start* on (0: the first).

        Returns snapshots of the flows found there and the *start* of the next page, None behind the last one.
        Flows may come and go between two pages: one that lives all the while is found exactly once.
        """

    def detail_page(self, start: int = ..., limit: int = ...) -> tuple[list[FlowDetail], int | None]:
        """As `flow_page`, with all that is known of each flow: the kernel is asked, so pages are smaller."""

    def set_watcher(self, watcher: FlowWatcher | None) -> None:
        """Tell *watcher* of each flow that begins and ends from now on, and of ports; None: nobody."""

    def n_untold(self) -> int:
        """Return how many events a watcher was not told, as there were more than some 2,000 a second."""

    def close_flow(self, index: int, generation: int) -> bool:
        """End a flow, so that its ends see a reset; False if it is gone. To be called from a callback."""

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return what there is of each thing that has a limit, and the limit."""

    def flows(self) -> Iterator[FlowInfo]:
        """Snapshots of all flows, taken page by page while one iterates."""

    def close(self) -> None:
        """End all flows (far sides see a reset where data is lost) and close every descriptor owned."""

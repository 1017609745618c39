"""Verdicts on frames and the counters that the data plane always keeps.

The counter of a verdict has the verdict's name in lower case. Everything is a monotonic count since
start, but the gauges: the `flows_*` of a kind, and `pipes_open`.
"""

from libc.stdint cimport uint64_t


cdef enum Verdict:               # in the order of VERDICT_NAMES
    VERDICT_OK = 0
    DROP_SHORT                   # less than a header
    DROP_BAD_LENGTH              # a length field contradicts the frame
    DROP_BAD_VERSION             # IP version does not match the EtherType
    DROP_OVERSIZE                # longer than a receive slot
    DROP_FRAGMENT                # IP fragment that makes no sense, or may not be one
    DROP_BAD_ADDRESS             # loopback, multicast or unspecified where none may be
    DROP_BAD_PORT                # port 0
    DROP_ETHERTYPE               # neither ARP nor IP
    DROP_PROTOCOL                # neither TCP, UDP nor ICMP echo
    DROP_EXTENSION_HEADER        # IPv6 header chain that leads nowhere
    DROP_DISABLED                # a family or protocol that is switched off
    DROP_REFUSED                 # the policy refused the flow
    DROP_FLOWS_FULL              # flow table full
    DROP_NO_FD                   # out of descriptors
    DROP_CROWD                   # connections with one remote have most descriptors already
    DROP_SOCKET                  # the host refused the socket operation
    DROP_LINK_FULL               # the link to the guest did not take the frame
    DROP_LINK_DOWN               # the interface of the guest is down
    DROP_TRUNCATED               # datagram larger than the link's frames
    DROP_TCP_SEQUENCE            # TCP segment outside the window
    DROP_TCP_ACK                 # TCP acknowledges what was never sent
    DROP_TCP_FLAGS               # TCP segment that makes no sense in the state
    DROP_TCP_TIMESTAMP           # TCP segment older than others that came, or without a timestamp
    DROP_TCP_MEMORY              # no room to keep it: the guest sends again
    DROP_UNKNOWN_FLOW            # nothing known of it, and nothing to start
    DROP_CONTROL_RATE            # more control frames than are answered (see core)
    DROP_GSO                     # segmentation request that is not possible
    DROP_FRAGMENT_OVERLAP        # IP fragment of a packet whose fragments overlap
    DROP_FRAGMENT_TIME           # IP packet that was not complete in time
    DROP_FRAGMENT_MEMORY         # IP packet pushed out by newer ones before it was complete
    DROP_BAD_CHECKSUM            # damaged, or put together from fragments that do not belong together
    DROP_TOO_BIG                 # implausible "packet too big" from the guest
    DROP_OWN_ECHO                # copy of a datagram that the guest itself sent to a group
    N_VERDICTS


cdef struct Stats:
    uint64_t drops[N_VERDICTS]
    uint64_t frames_from_guest
    uint64_t bytes_from_guest
    uint64_t frames_to_guest
    uint64_t bytes_to_guest
    uint64_t control_frames
    uint64_t control_repeats     # answered as before, without the responder
    uint64_t flows_tcp
    uint64_t flows_udp
    uint64_t flows_ping
    uint64_t flows_splice_tcp
    uint64_t flows_splice_udp
    uint64_t flows_opened
    uint64_t flows_refused
    uint64_t flows_evicted       # they made room for new ones in a full table
    uint64_t tcp_retransmits
    uint64_t tcp_timeouts
    uint64_t tcp_duplicate_acks
    uint64_t tcp_out_of_order    # segments kept though data before them was missing
    uint64_t tcp_reneged         # guests that dropped what they had selectively acknowledged
    uint64_t tcp_challenge_acks
    uint64_t tcp_acks_withheld   # challenges and the like beyond the limit
    uint64_t tcp_acks_followed    # connections that began to be acknowledged as the remote does
    uint64_t tcp_acks_unfollowed  # and that ceased to be
    uint64_t tcp_keep_alives     # probes of silent guests
    uint64_t tcp_short_writes
    uint64_t tcp_resets_sent
    uint64_t splice_bytes_to_guest
    uint64_t splice_bytes_to_host
    uint64_t splice_datagrams_to_guest
    uint64_t splice_datagrams_to_host
    uint64_t splice_connect_failures
    uint64_t splice_copies        # reads of bulk data that no pipe was left for
    uint64_t pipes_open
    uint64_t icmp_errors_to_guest
    uint64_t reassembled         # packets of the guest that came in fragments
    uint64_t fragments_to_guest
    uint64_t paths_narrowed      # in the guest's network, as its routers told
    uint64_t link_stalls
    uint64_t wakeups


cdef inline void count(Stats *stats, Verdict verdict) noexcept nogil:
    stats.drops[<int>verdict] += 1


cdef dict stats_as_dict(const Stats *stats)

"""What passt is as a vhost-user back end: features, limits, the device's configuration."""

from __future__ import annotations

import struct

from passt.facts.settings import DEFAULT_MTU
from passt.light.values import NamedTuple
from passt.vhost_user.messages import ProtocolFeature

# Without CONFIG, as QEMU warns of it at each start of a network card; who asks nevertheless is answered.
PROTOCOL_FEATURES = sum(1 << bit for bit in ProtocolFeature if bit != ProtocolFeature.CONFIG)
F_PROTOCOL_FEATURES = 30           # VHOST_USER_F_PROTOCOL_FEATURES, a bit of GET_FEATURES
MIN_MTU, MAX_MTU = 68, 65535       # virtio 1.2, 5.1.4.1

# struct virtio_net_config (virtio 1.2, 5.1.4): mac, status, max_virtqueue_pairs, mtu, speed, duplex,
# rss_max_key_size, rss_max_indirection_table_length, supported_hash_types.
_NET_CONFIG = struct.Struct("<6sHHHIBBHI")
CONFIG_LEN = _NET_CONFIG.size
_S_LINK_UP = 1
_UNKNOWN_SPEED, _UNKNOWN_DUPLEX = 0xffffffff, 0xff


class Backend(NamedTuple):
    """What a front end is offered.

    *features* are those of GET_FEATURES; *mtu* is what the guest is told to use, 0 for nothing.
    """

    features: int
    max_pairs: int
    max_regions: int
    mtu: int

    @property
    def n_rings(self) -> int:
        """Number of rings: one each way for each pair of queues."""
        return 2 * self.max_pairs

    @property
    def protocol_features(self) -> int:
        """What GET_PROTOCOL_FEATURES tells."""
        return PROTOCOL_FEATURES if self.features >> F_PROTOCOL_FEATURES & 1 else 0

    def may_have_mtu(self, mtu: int) -> bool:
        """Tell whether the guest's card may have *mtu*: a device must not send it longer packets."""
        return max(MIN_MTU, self.mtu or DEFAULT_MTU) <= mtu <= MAX_MTU

    def config(self) -> bytes:
        """Give the configuration space of the device: the link is up, and has no speed.

        The hardware address is the front end's business, so there is none.
        """
        return _NET_CONFIG.pack(bytes(6), _S_LINK_UP, self.max_pairs, self.mtu, _UNKNOWN_SPEED,
                                _UNKNOWN_DUPLEX, 0, 0, 0)

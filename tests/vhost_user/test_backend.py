"""What a front end is offered."""

from __future__ import annotations

import pytest

from passt.vhost_user.messages import ProtocolFeature
from tests.vhost_user.front_end import BACKEND


def test_protocol_features_are_those_that_work() -> None:
    assert {feature for feature in ProtocolFeature if BACKEND.protocol_features >> feature & 1} == {
        ProtocolFeature.MQ, ProtocolFeature.LOG_SHMFD, ProtocolFeature.RARP, ProtocolFeature.REPLY_ACK,
        ProtocolFeature.NET_MTU, ProtocolFeature.INFLIGHT_SHMFD, ProtocolFeature.RESET_DEVICE,
        ProtocolFeature.CONFIGURE_MEM_SLOTS}
    assert BACKEND.protocol_features >> 16 == 0


def test_without_their_bit_there_are_no_protocol_features() -> None:
    assert BACKEND._replace(features=1).protocol_features == 0


@pytest.mark.parametrize(("mtu", "least"), [(1500, 1500), (9000, 9000), (0, 65520), (68, 68)])
def test_card_must_take_what_the_guest_is_sent(mtu: int, least: int) -> None:
    backend = BACKEND._replace(mtu=mtu)
    assert not backend.may_have_mtu(least - 1)
    assert backend.may_have_mtu(least)
    assert backend.may_have_mtu(65535)
    assert not backend.may_have_mtu(65536)


def test_configuration_is_that_of_a_network_card() -> None:
    """Fields of virtio 1.2, 5.1.4: mac, status, max_virtqueue_pairs, mtu, speed, duplex, three of RSS."""
    assert BACKEND.config() == bytes.fromhex("000000000000 0100 0200 dc05 ffffffff ff 00 0000 00000000")

"""Connections that the host cannot make: what the guest is told."""

from __future__ import annotations

import errno

import pytest

from tests.dataplane.tcp.script import CASES, Case, Script

SYN = "S seq=0 win=65535 mss=1460 ws=7"
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
families = pytest.mark.parametrize("family", [4, 6])

UNREACHABLE = {4: 3, 6: 1}
# RFC 1812 5.2.7.1 and RFC 4443 3.1: codes of destination unreachable by errno.
CODES = {
    errno.ENETUNREACH: {4: 0, 6: 0},
    errno.ENETDOWN: {4: 0, 6: 0},
    errno.EAFNOSUPPORT: {4: 0, 6: 0},
    errno.EHOSTUNREACH: {4: 1, 6: 3},
    errno.EHOSTDOWN: {4: 1, 6: 3},
    errno.ENONET: {4: 1, 6: 3},
    errno.EACCES: {4: 13, 6: 1},
    errno.EPERM: {4: 13, 6: 1},
    errno.ENOPROTOOPT: {4: 2},
}
REPORTED = [(number, family) for number, codes in CODES.items() for family in codes]
RESETS = [errno.ECONNREFUSED, errno.EADDRNOTAVAIL, errno.ENOMEM, errno.ENOBUFS, errno.EINVAL, errno.EPROTO]
reported = pytest.mark.parametrize(("number", "family"), REPORTED)


def check_unreachable(s: Script, code: int) -> None:
    """One message that names the guest's SYN, and no segment."""
    s.nothing()
    (error,) = s.errors
    assert (error.kind, error.code) == (UNREACHABLE[s.family], code)
    assert (error.source, error.destination) == (s.peer.remote_address, s.peer.guest_address)
    assert (error.quoted_source, error.quoted_destination) == (s.peer.guest_address, s.peer.remote_address)
    assert (error.quoted_protocol, error.sport, error.dport) == (6, 40000, 80)
    assert error.seq == s.guest_isn
    assert s.count("icmp_errors_to_guest") == 1
    s.ended()


def check_reset(s: Script) -> None:
    """In SYN-SENT a reset counts only if it acknowledges the SYN (RFC 9293 3.10.7.3)."""
    s.host("RA seq=0 ack=1")
    assert not s.errors
    s.ended()


@reported
def test_unreachable_later_reported_by_icmp(number: int, family: int) -> None:
    with Script(family=family) as s:
        s.guest(SYN)
        s.sock.fail(number)
        check_unreachable(s, CODES[number][family])


@reported
def test_unreachable_at_once_reported_by_icmp(number: int, family: int) -> None:
    with Script(family=family) as s:
        s.kernel.connect_results.append(-number)
        s.guest(SYN)
        check_unreachable(s, CODES[number][family])


@reported
def test_no_socket_for_family_or_by_prohibition_reported_by_icmp(number: int, family: int) -> None:
    with Script(family=family) as s:
        s.kernel.open_errors.append(number)
        s.guest(SYN)
        check_unreachable(s, CODES[number][family])


@pytest.mark.parametrize("number", RESETS)
@every_case
def test_refused_later_reset(case: Case, number: int) -> None:
    with Script(**case) as s:
        s.guest(SYN)
        s.sock.fail(number)
        check_reset(s)


@pytest.mark.parametrize("number", RESETS)
@families
def test_refused_at_once_reset(family: int, number: int) -> None:
    with Script(family=family) as s:
        s.kernel.connect_results.append(-number)
        s.guest(SYN)
        check_reset(s)


def test_no_message_for_what_the_family_has_none_for() -> None:
    with Script(family=6) as s:
        s.guest(SYN)
        s.sock.fail(errno.ENOPROTOOPT)
        check_reset(s)


@pytest.mark.parametrize("when", ["later", "at once"])
@families
def test_remote_that_never_answered_reported_by_silence(family: int, when: str) -> None:
    # A reset would read "Connection refused", and no ICMP message says "timed out".
    with Script(family=family) as s:
        if when == "at once":
            s.kernel.connect_results.append(-errno.ETIMEDOUT)
        s.guest(SYN)
        if when == "later":
            s.advance(127_000)
            s.sock.fail(errno.ETIMEDOUT)
        s.nothing()
        assert not s.errors
        s.ended()
        s.guest(SYN)
        assert s.state == "CONNECTING"
        s.guest("R seq=1")


def test_event_without_error_number_reset() -> None:
    with Script() as s:
        s.guest(SYN)
        s.sock.fail(0)
        check_reset(s)


def test_message_lost_on_full_link_next_syn_brings_it() -> None:
    with Script() as s:
        s.guest(SYN)
        s.bench.link.room = 0
        s.peers[41000, 80] = other = s.add_peer(41000, 80)
        other.guest(SYN)
        other.sock.connected()  # its SYN-ACK blocks the link
        s.run()
        s.peer.sock.fail(errno.EHOSTUNREACH)
        s.run()
        assert not s.errors
        s.open_link()
        other.host("SA seq=0 ack=1")
        other.guest("R seq=1")
        s.kernel.connect_results.append(-errno.EHOSTUNREACH)
        s.guest(SYN)
        check_unreachable(s, 1)


def test_syn_repeated_while_connecting_does_not_disturb_outcome() -> None:
    with Script() as s:
        s.guest(SYN)
        for _ in range(3):
            s.advance(1000)
            s.guest(SYN)
        assert len(s.kernel.socks) == 1
        s.sock.fail(errno.EHOSTUNREACH)
        check_unreachable(s, 1)


# A SYN with another number: the guest has forgotten its first attempt.


@every_case
def test_other_syn_while_connecting_replaces_attempt(case: Case) -> None:
    with Script(**case) as s:
        s.guest(SYN)
        first = s.sock
        s.peer.renew(isn=(s.guest_isn + 77_000) & 0xFFFFFFFF)
        s.connect()
        assert first.status == "aborted"
        assert s.sock is not first


@every_case
def test_other_syn_before_handshake_is_complete_replaces_attempt(case: Case) -> None:
    with Script(**case) as s:
        s.guest(SYN)
        first = s.sock
        first.connected()
        s.host("SA seq=0 ack=1")
        s.peer.renew(isn=(s.guest_isn - 77_000) & 0xFFFFFFFF)
        s.connect()
        assert first.status == "aborted"
        assert s.sock is not first


def test_same_syn_before_handshake_is_complete_answered_again() -> None:
    with Script() as s:
        s.guest(SYN)
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest(SYN)
        s.host("SA seq=0 ack=1")
        assert s.sock.is_open


def test_data_in_syn_left_to_be_sent_again() -> None:
    # Not acknowledged by the SYN-ACK, so the guest repeats it (RFC 9293 3.10.7.2; RFC 7413 has it so, too).
    with Script() as s:
        s.guest("S seq=0 win=65535 mss=1460 ws=7 len=10")
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.guest("PA seq=1 ack=1 len=10")
        s.host("A seq=1 ack=11")
        assert s.sock.taken == s.bytes_from_guest(10)

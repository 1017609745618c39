"""Out of descriptors, flows, epoll entries: new connections are refused, no other suffers, nothing spins."""

import errno

import pytest

from tests.dataplane.tcp_script import LISTENER, Script

SYN = "S seq=0 win=65535 mss=1460 ws=7"


def test_no_descriptor_for_guest_connection_reset() -> None:
    with Script() as s:
        s.kernel.open_errors.append(errno.EMFILE)
        s.guest(SYN)
        assert s.take().letters == "RA"
        s.ended()
        assert s.count("drop_no_fd") == 1


def test_other_failure_to_open_reset() -> None:
    with Script() as s:
        s.kernel.open_errors.append(errno.EACCES)
        s.guest(SYN)
        assert s.take().letters == "RA"
        s.ended()
        assert s.count("drop_socket") == 1


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_no_descriptor_for_client_refused_with_spare_listener_not_busy(number: int) -> None:
    with Script() as s:
        s.kernel.accept_errors = [number]
        sock = s.peer.knock()
        s.run()
        assert sock.status == "aborted"
        assert s.count("drop_no_fd") == 1
        assert not s.kernel.events()
        s.peer.sock_fd = None
        s.peer.knock()
        s.host("S seq=0")


def test_client_gone_before_accept_ignored() -> None:
    with Script() as s:
        s.kernel.accept_errors = [errno.ECONNABORTED]
        s.peer.knock()
        s.host("S seq=0")
        assert s.count("drop_socket") == 1


def test_table_full_new_connections_refused_others_go_on() -> None:
    with Script(max_flows=2) as s:
        peers = [s.add_peer(41_000 + i, 80) for i in range(3)]
        for peer in peers[:2]:
            peer.connect()
        peers[2].guest(SYN)
        assert peers[2].take().letters == "RA"
        assert s.count("drop_flows_full") == 1
        peers[0].guest("A seq=1 ack=1 len=1000")
        peers[0].host("A seq=1 ack=1001")
        client = peers[2].knock()
        s.run()
        assert client.status == "aborted"
        assert s.count("drop_flows_full") == 2
        assert not s.kernel.events()
        peers[0].guest("R seq=1001")
        peers[2].renew()
        peers[2].connect()


def test_epoll_refuses_guest_connection_reset() -> None:
    with Script() as s:
        s.kernel.watch_errors = [errno.ENOSPC]
        s.guest(SYN)
        assert s.take().letters == "RA"
        s.ended()
        s.kernel.connect_results = [0]
        s.kernel.watch_errors = [errno.ENOMEM]
        s.guest(SYN)
        assert s.take().letters == "RA"
        s.ended()


def test_epoll_refuses_client_reset() -> None:
    with Script() as s:
        s.kernel.watch_errors = [errno.ENOSPC]
        sock = s.peer.knock()
        s.nothing()
        assert sock.status == "aborted"
        s.ended()


def test_client_cannot_be_prepared_reset() -> None:
    with Script() as s:
        s.kernel.prepare_errors = [errno.EOPNOTSUPP]
        sock = s.peer.knock()
        s.ended()
        assert sock.status == "aborted"


def test_many_clients_at_once_all_taken() -> None:
    with Script(max_flows=200) as s:
        peers = [s.add_peer(41_000, 1000 + i) for i in range(150)]
        first = peers[0]
        first.knock()
        queue = s.kernel.listeners[LISTENER]
        for peer in peers[1:]:
            peer.sock_fd = s.kernel.knock(
                LISTENER, (peer.remote_address, peer.remote_port), (peer.remote_address, 41_000)
            ).fd
        assert len(queue) == 150
        for peer in peers:
            peer.host("S seq=0")
        assert s.bench.n_active == 150


def test_records_used_again_and_again() -> None:
    with Script(max_flows=4) as s:
        for round_ in range(50):
            s.peer.renew(1000 + 100_000 * round_)
            sock = s.connect()
            s.guest("FPA seq=1 ack=1 len=100")
            s.host("A seq=1 ack=102")
            sock.deliver(s.bytes_from_host(100))
            sock.end()
            s.host("PA seq=1 ack=102 len=100", "FA seq=101 ack=102")
            s.guest("A seq=102 ack=102")
            s.ended()
        assert s.count("flows_opened") == 50


def test_event_of_ended_connection_ignored() -> None:
    with Script() as s:
        sock = s.connect()
        s.guest("R seq=1")
        tag = sock.tag
        s.peer.renew(9000)
        s.connect()
        s.run(("socket", tag, 0x2019))
        assert s.state == "ESTABLISHED"


@pytest.mark.parametrize("count", [2, 40])
def test_turn_costs_the_same_with_many_idle_connections(count: int) -> None:
    with Script() as s:
        peers = [s.add_peer(41_000 + i, 80) for i in range(count)]
        socks = [peer.connect() for peer in peers]
        for sock in socks:
            sock.calls.clear()
        peers[0].guest("A seq=1 ack=1 len=1000")
        peers[0].host("A seq=1 ack=1001")
        assert sum(socks[0].calls.values()) > 0
        assert not any(sock.calls for sock in socks[1:])

"""Who gets the address, and what each message is told."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.facts.guest import GuestFamily, GuestNet
from passt.light.values import replace
from passt.responders.dhcpv6 import Dhcpv6Responder
from passt.wire.dhcpv6 import Dhcpv6Message, MessageType
from passt.wire.dhcpv6_options import (
    INFINITY_S,
    ClientFqdn,
    ClientId,
    Dhcpv6Option,
    DnsServers,
    DomainList,
    Ia,
    IaAddress,
    IaNa,
    IaPd,
    IaTa,
    OptionRequest,
    OtherOption,
    Preference,
    RapidCommit,
    ServerId,
    StatusCode,
    StatusOption,
)

T, S = MessageType, StatusCode
SERVERS = IPv6Address("ff02::1:2")
ROUTER = IPv6Address("fe80::1")
ADDRESS = IPv6Address("2001:db8::5")
NEAR, FAR = IPv6Address("2001:db8::6"), IPv6Address("2001:db8:9::5")
DNS = IPv6Address("2001:db8::53")
FAMILY = GuestFamily(ADDRESS, 64, ROUTER, ROUTER, resolvers=(DNS,))
NET = GuestNet(None, FAMILY, "eth0", search=("example.com.", "lan"))
CLIENT = ClientId(b"\0\3client")
OURS = ServerId(bytes.fromhex("000300019a559a559a55"))
ALL = OptionRequest((23, 24))
NOTHING = OptionRequest(())
CONFIGURATION: list[Dhcpv6Option] = [DnsServers((DNS,)), DomainList(("example.com", "lan"))]
GIVEN = IaAddress(ADDRESS, INFINITY_S, INFINITY_S)
NAMED = {T.REQUEST, T.RENEW, T.RELEASE, T.DECLINE}


def responder(family: GuestFamily = FAMILY, search: tuple[str, ...] = NET.search) -> Dhcpv6Responder:
    return Dhcpv6Responder(replace(NET, ip6=family, search=search), family, ROUTER)


RESPONDER = responder()


def ask(
    kind: MessageType,
    *options: Dhcpv6Option,
    requested: OptionRequest | None = NOTHING,
    of: Dhcpv6Responder = RESPONDER,
    destination: IPv6Address = SERVERS,
) -> Dhcpv6Message:
    """Send a message of *kind* with what makes it valid, and *options*; give the answer."""
    named: list[Dhcpv6Option] = [OURS] if kind in NAMED else []
    asked: list[Dhcpv6Option] = [requested] if requested else []
    reply = of.respond(destination, Dhcpv6Message(kind, 77, (CLIENT, *named, *asked, *options)))
    assert reply is not None
    assert reply.transaction_id == 77
    assert reply.options[:2] == (OURS, CLIENT)
    assert Dhcpv6Message.parse(reply.build()) == reply
    return reply


def rest(reply: Dhcpv6Message) -> list[Dhcpv6Option]:
    """Give the options behind the identifiers."""
    return list(reply.options[2:])


def status_of(ia: Dhcpv6Option) -> int:
    assert isinstance(ia, IaNa | IaTa | IaPd)
    (option,) = ia.options
    assert isinstance(option, StatusOption)
    assert option.text
    return option.status


@pytest.mark.parametrize("wish", [(), (IaAddress(ADDRESS),), (IaAddress(FAR, 1, 2),)])
def test_solicit_is_offered_the_address_at_once(wish: tuple[IaAddress, ...]) -> None:
    reply = ask(T.SOLICIT, IaNa(5, 1, 2, wish))
    assert reply.kind == T.ADVERTISE
    assert rest(reply) == [Preference(255), IaNa(5, INFINITY_S, INFINITY_S, (GIVEN,))]


def test_solicit_with_rapid_commit_is_given_it() -> None:
    reply = ask(T.SOLICIT, RapidCommit(), IaNa(5))
    assert reply.kind == T.REPLY
    assert rest(reply) == [RapidCommit(), IaNa(5, INFINITY_S, INFINITY_S, (GIVEN,))]


@pytest.mark.parametrize("kind", [T.REQUEST, T.RENEW, T.REBIND])
@pytest.mark.parametrize("named", [(), (IaAddress(ADDRESS, 7, 8),)])
def test_address_is_given_for_ever(kind: MessageType, named: tuple[IaAddress, ...]) -> None:
    reply = ask(kind, IaNa(5, 1, 2, named))
    assert reply.kind == T.REPLY
    assert rest(reply) == [IaNa(5, INFINITY_S, INFINITY_S, (GIVEN,))]


@pytest.mark.parametrize("kind", [T.SOLICIT, T.REQUEST, T.RENEW, T.REBIND])
def test_no_ia_where_none_was_asked(kind: MessageType) -> None:
    assert [option for option in rest(ask(kind)) if not isinstance(option, Preference)] == []


@pytest.mark.parametrize("stranger", [NEAR, FAR])
def test_request_for_another_address_is_told_so(stranger: IPv6Address) -> None:
    (ia,) = rest(ask(T.REQUEST, IaNa(5, options=(IaAddress(ADDRESS), IaAddress(stranger)))))
    assert isinstance(ia, IaNa)
    assert (ia.iaid, ia.t1_s, ia.t2_s, status_of(ia)) == (5, 0, 0, S.NOT_ON_LINK)


@pytest.mark.parametrize("kind", [T.RENEW, T.REBIND])
def test_renewal_takes_back_other_addresses(kind: MessageType) -> None:
    reply = ask(kind, IaNa(5, options=(IaAddress(FAR, 9, 9), IaAddress(NEAR))))
    assert rest(reply) == [
        IaNa(5, INFINITY_S, INFINITY_S, (GIVEN, IaAddress(FAR, 0, 0), IaAddress(NEAR, 0, 0)))
    ]


@pytest.mark.parametrize(
    ("kind", "address", "prefix"),
    [
        (T.SOLICIT, S.NO_ADDRS_AVAIL, S.NO_PREFIX_AVAIL),
        (T.REQUEST, S.NO_ADDRS_AVAIL, S.NO_PREFIX_AVAIL),
        (T.RENEW, S.NO_BINDING, S.NO_BINDING),
        (T.REBIND, S.NO_BINDING, S.NO_BINDING),
    ],
)
def test_further_ias_get_a_status_of_their_own(
    kind: MessageType, address: StatusCode, prefix: StatusCode
) -> None:
    first, second, temporary, delegated = [
        option
        for option in rest(ask(kind, IaNa(1), IaNa(2), IaTa(3), IaPd(4)))
        if not isinstance(option, Preference)
    ]
    assert first == IaNa(1, INFINITY_S, INFINITY_S, (GIVEN,))
    assert isinstance(second, IaNa)
    assert isinstance(temporary, IaTa)
    assert isinstance(delegated, IaPd)
    assert [one.iaid for one in (second, temporary, delegated)] == [2, 3, 4]
    assert [status_of(one) for one in (second, temporary, delegated)] == [address, address, prefix]


def test_temporary_addresses_alone_are_refused() -> None:
    (ia,) = rest(ask(T.REQUEST, IaTa(3)))
    assert status_of(ia) == S.NO_ADDRS_AVAIL


def test_the_ia_that_has_the_address_keeps_it() -> None:
    first, second = rest(ask(T.RENEW, IaNa(1), IaNa(2, options=(IaAddress(ADDRESS),))))
    assert status_of(first) == S.NO_BINDING
    assert second == IaNa(2, INFINITY_S, INFINITY_S, (GIVEN,))


@pytest.mark.parametrize(
    ("addresses", "status"),
    [
        ((ADDRESS,), S.SUCCESS),
        ((NEAR,), S.NOT_ON_LINK),
        ((FAR,), S.NOT_ON_LINK),
        ((ADDRESS, FAR), S.NOT_ON_LINK),
    ],
)
@pytest.mark.parametrize("cls", [IaNa, IaTa])
def test_confirm(addresses: tuple[IPv6Address, ...], status: StatusCode, cls: type[IaNa | IaTa]) -> None:
    reply = ask(T.CONFIRM, cls(5, options=tuple(map(IaAddress, addresses))), requested=ALL)
    assert reply.kind == T.REPLY
    (option,) = rest(reply)
    assert isinstance(option, StatusOption)
    assert option.status == status


def test_confirm_of_no_address_is_not_answered() -> None:
    assert RESPONDER.respond(SERVERS, Dhcpv6Message(T.CONFIRM, 1, (CLIENT, IaNa(5)))) is None


@pytest.mark.parametrize("kind", [T.RELEASE, T.DECLINE])
def test_release_and_decline_succeed(kind: MessageType) -> None:
    reply = ask(kind, IaNa(5, options=(IaAddress(ADDRESS),)), requested=ALL)
    assert (reply.kind, rest(reply)) == (T.REPLY, [StatusOption(S.SUCCESS)])
    # The next question gets the same address.
    assert IaNa(5, INFINITY_S, INFINITY_S, (GIVEN,)) in rest(ask(T.SOLICIT, IaNa(5)))


@pytest.mark.parametrize("kind", [T.RELEASE, T.DECLINE])
def test_release_of_what_was_never_given_is_told_so(kind: MessageType) -> None:
    status, stranger, temporary = rest(ask(kind, IaNa(5, options=(IaAddress(FAR),)), IaTa(6)))
    assert status == StatusOption(S.SUCCESS)
    assert (status_of(stranger), status_of(temporary)) == (S.NO_BINDING, S.NO_BINDING)


def test_information_request_gets_information_only() -> None:
    assert rest(ask(T.INFORMATION_REQUEST, requested=ALL)) == CONFIGURATION
    anonymous = RESPONDER.respond(SERVERS, Dhcpv6Message(T.INFORMATION_REQUEST, 5, (ALL,)))
    assert anonymous == Dhcpv6Message(T.REPLY, 5, (OURS, *CONFIGURATION))
    named = RESPONDER.respond(SERVERS, Dhcpv6Message(T.INFORMATION_REQUEST, 5, (OURS, ALL)))
    assert named == anonymous


@pytest.mark.parametrize(
    "kind", [T.SOLICIT, T.REQUEST, T.RENEW, T.REBIND, T.INFORMATION_REQUEST], ids=lambda kind: kind.name
)
@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (ALL, CONFIGURATION),
        (None, CONFIGURATION),
        (NOTHING, []),
        (OptionRequest((24, 31, 24)), CONFIGURATION[1:]),
        (OptionRequest((23,)), CONFIGURATION[:1]),
    ],
)
def test_options_are_those_requested(
    kind: MessageType, requested: OptionRequest | None, expected: list[Dhcpv6Option]
) -> None:
    found = [one for one in rest(ask(kind, requested=requested)) if isinstance(one, DnsServers | DomainList)]
    assert found == expected


@pytest.mark.parametrize(
    ("options", "requested", "expected"),
    [
        ([], NOTHING, None),
        ([], OptionRequest((39,)), ClientFqdn(0, "box.example")),
        ([], None, ClientFqdn(0, "box.example")),
        ([ClientFqdn(0, "me", is_complete=False)], NOTHING, ClientFqdn(0, "box.example")),
        ([ClientFqdn(1, "me", is_complete=False)], NOTHING, ClientFqdn(2, "box.example")),
        ([ClientFqdn(4, "me.example")], ALL, ClientFqdn(0, "box.example")),
    ],
)
def test_name_of_the_client_is_told_to_one_who_asks(
    options: list[Dhcpv6Option], requested: OptionRequest | None, expected: ClientFqdn | None
) -> None:
    named = Dhcpv6Responder(replace(NET, fqdn="box.example"), FAMILY, ROUTER)
    assert ask(T.REQUEST, *options, requested=requested, of=named).find(ClientFqdn) == expected
    assert ask(T.REQUEST, *options, requested=requested).find(ClientFqdn) is None


def test_nothing_to_hand_out_is_left_out() -> None:
    bare = responder(replace(FAMILY, resolvers=(IPv4Address("192.0.2.1"),)), search=("", ".", "a..b"))
    assert rest(ask(T.INFORMATION_REQUEST, requested=ALL, of=bare)) == []
    names_only = responder(replace(FAMILY, resolvers=()))
    assert rest(ask(T.INFORMATION_REQUEST, requested=ALL, of=names_only)) == CONFIGURATION[1:]


@pytest.mark.parametrize("kind", sorted(NAMED | {T.INFORMATION_REQUEST}))
def test_message_for_another_server_is_not_answered(kind: MessageType) -> None:
    other = ServerId(OURS.duid[:-1] + b"\0")
    message = Dhcpv6Message(kind, 1, (CLIENT, other))
    assert RESPONDER.respond(SERVERS, message) is None
    assert RESPONDER.respond(ROUTER, message) is None


@pytest.mark.parametrize("kind", sorted(NAMED))
def test_unicast_is_told_to_use_multicast(kind: MessageType) -> None:
    reply = ask(kind, IaNa(5), requested=ALL, destination=ROUTER)
    (status,) = rest(reply)
    assert isinstance(status, StatusOption)
    assert (reply.kind, status.status) == (T.REPLY, S.USE_MULTICAST)


def test_identity_depends_on_nothing_but_our_mac() -> None:
    other = Dhcpv6Responder(replace(NET, mtu=1500), replace(FAMILY, address=NEAR), IPv6Address("fe80::2"))
    assert ask(T.SOLICIT, of=other).find(ServerId) == OURS
    moved = Dhcpv6Responder(replace(NET, our_mac=bytes.fromhex("020000000001")), FAMILY, ROUTER)
    reply = moved.respond(SERVERS, Dhcpv6Message(T.SOLICIT, 1, (CLIENT,)))
    assert reply is not None
    assert reply.find(ServerId) == ServerId(bytes.fromhex("00030001020000000001"))


def test_without_an_address_the_rest_is_still_to_be_had() -> None:
    local = responder(replace(FAMILY, address=None))
    _, ia, *configuration = rest(ask(T.SOLICIT, IaNa(5), requested=ALL, of=local))
    assert status_of(ia) == S.NO_ADDRS_AVAIL
    assert configuration == CONFIGURATION
    (renewed,) = rest(ask(T.RENEW, IaNa(5, options=(GIVEN,)), of=local))
    assert status_of(renewed) == S.NO_BINDING
    (status,) = rest(ask(T.CONFIRM, IaNa(5, options=(GIVEN,)), of=local))
    assert isinstance(status, StatusOption)
    assert status.status == S.NOT_ON_LINK


STALE = st.lists(st.builds(IaAddress, st.ip_addresses(v=6)), max_size=9).map(tuple)
IAS: st.SearchStrategy[Ia] = st.one_of(
    st.builds(IaNa, st.integers(0, 9), options=STALE),
    st.builds(IaTa, st.integers(0, 9), options=STALE),
    st.builds(IaPd, st.integers(0, 9), options=STALE),
)


@given(
    st.sampled_from([T.SOLICIT, T.REQUEST, T.RENEW, T.REBIND, T.RELEASE, T.DECLINE, T.CONFIRM]),
    st.lists(IAS, max_size=40),
    st.integers(3, 130),
)
def test_answer_fits_the_least_mtu_whatever_is_asked(kind: MessageType, ias: list[Ia], duid_len: int) -> None:
    servers = tuple(IPv6Address(int(DNS) + n) for n in range(100))
    search = tuple(f"{'x' * 60}.{n}" for n in range(100))
    family = replace(FAMILY, resolvers=servers)
    big = Dhcpv6Responder(replace(NET, search=search, fqdn=".".join(["x" * 49] * 5)), family, ROUTER)
    named: list[Dhcpv6Option] = [OURS] if kind in NAMED else []
    options = (ClientId(bytes(duid_len)), *named, ALL, *ias)
    reply = big.respond(SERVERS, Dhcpv6Message(kind, 1, options))
    assert reply is None or 40 + 8 + len(reply.build()) <= 1280


def test_search_list_takes_the_room_that_is_left() -> None:
    full = responder(search=tuple(f"{'x' * 60}.{n:03}" for n in range(100)))
    reply = ask(T.SOLICIT, IaNa(5), requested=ALL, of=full)
    assert 1280 - 66 < 40 + 8 + len(reply.build()) <= 1280


def test_unknown_options_are_ignored() -> None:
    assert rest(
        ask(T.REBIND, OtherOption(16, b"\0\0\1\x37" + bytes(8)), IaNa(5, options=(OtherOption(99, b""),)))
    ) == [IaNa(5, INFINITY_S, INFINITY_S, (GIVEN,))]


def test_address_for_a_time_is_renewed_before_it_ends() -> None:
    server = Dhcpv6Responder(NET, FAMILY, ROUTER, lease_s=120)
    renewal = Dhcpv6Message(T.RENEW, 7, (CLIENT, OURS, IaNa(1, options=(IaAddress(FAR),))))
    reply = server.respond(SERVERS, renewal)
    assert reply is not None
    assert list(reply.ias) == [IaNa(1, 60, 96, (IaAddress(ADDRESS, 120, 240), IaAddress(FAR, 0, 0)))]

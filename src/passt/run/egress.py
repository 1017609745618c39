"""The rules of egress at work: what a run with --allow, --deny, --policy or --learn is made of besides.

Without these options nothing of this is loaded (`run.network`).
"""

from __future__ import annotations

import os
from time import monotonic

from passt import log
from passt.errors import ConfigError
from passt.facts.address import IP4_LOOPBACK, IP6_LOOPBACK
from passt.forward.egress import Egress, Ingress
from passt.forward.live_egress import LiveEgress
from passt.forward.pins import Pins
from passt.forward.refusals import RefusalTeller
from passt.host.host_facts import HostReader
from passt.light.values import replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from passt.config.learned_file import LearnedFile
    from passt.dataplane.engine import Engine
    from passt.facts.address import IPAddress
    from passt.facts.guest import GuestNet
    from passt.facts.settings import EgressSettings, Settings
    from passt.forward.learning import Learning
    from passt.forward.openings import Openings
    from passt.names.process import NameForwarder
    from passt.process.background import Background


def read_policy(settings: Settings) -> Settings:
    """Return *settings* with the rules of the file of --policy, if there is one.

    Call with the caller's rights. Raises ConfigError.
    """
    path = settings.egress.policy_file
    if path is None:
        return settings
    from passt.config.policy_file import MAX_LEN, parse_policy
    from passt.config.settings import check_names

    try:
        with open(path, "rb") as file:
            content = file.read(MAX_LEN + 1)
        rules = parse_policy(content)
    except OSError as error:
        raise ConfigError(f"option '--policy' {path}: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(f"option '--policy' {path}: {error}") from None
    if not rules.rules and rules.allows_rest and not (settings.egress.denied or settings.egress.allowed):
        log.warning(f"option '--policy' {path}: it has no rules, or uses none of its profiles: all is"
                    " allowed")
    egress = replace(settings.egress, from_file=rules)
    check_names(settings.names, egress)
    return replace(settings, egress=egress)


def build_egress(asked: EgressSettings, guest: GuestNet, own_names: Iterable[tuple[str, IPAddress]]
                 ) -> Egress | None:
    """Build what judges flows of the guest, if there are rules. Raises HostError.

    *own_names* are those of --dns-hosts. The host's addresses are read, by a netlink socket.
    """
    if not asked.has_rules:
        return None
    teller = RefusalTeller(lambda text: log.limited(log.INFO, "egress", text), monotonic,
                           lambda text: log.limited(log.INFO, "egress names", text))
    pins = None
    if guest.names is not None:    # rules by name may come later
        pins = Pins(monotonic, ((name, address.packed) for name, address in own_names))
    return Egress(asked.rules, _read_addresses(), resolvers_of(guest), teller.note, pins, networks_of(guest),
                  teller.note_answer, teller.note_name, asked.nat64_prefixes)


def build_openings(egress: Egress | None) -> Openings | None:
    """Build what judges first bytes of connections by *egress*, which may be wanted later."""
    if egress is None:
        return None
    from passt.forward.openings import Openings

    return Openings(egress)


def open_learned(asked: EgressSettings, background: Background) -> LearnedFile | None:
    """Open the file of --learn, if it is asked for. Call with the caller's rights. Raises ConfigError."""
    if asked.learn_file is None:
        return None
    from passt.config.learned_file import LearnedFile

    background.expect_file()
    return LearnedFile(asked.learn_file, background.has_made)


def build_learning(asked: EgressSettings, guest: GuestNet, own_names: Iterable[tuple[str, IPAddress]]
                   ) -> Learning | None:
    """Build what notes where flows of the guest go, if it is wanted; as for `build_egress`."""
    if asked.learn_file is None:
        return None
    from passt.facts.egress import EgressRule, EgressRules
    from passt.forward.learning import Learning

    by_name = EgressRules((EgressRule(True, name="."),))   # as the rules that will be written
    judge = Egress(by_name, _read_addresses(), resolvers_of(guest), networks=networks_of(guest),
                   nat64=asked.nat64_prefixes)
    own = {address.packed for _, address in own_names}
    return Learning(lambda address: address not in own and judge.is_inner(address))


def build_ingress(asked: EgressSettings) -> Ingress | None:
    """Build what judges clients of forwarded ports, if not all may connect."""
    if not asked.allow_from:
        return None
    return Ingress(asked.allow_from)


def build_live_egress(asked: EgressSettings, egress: Egress, engine: Engine, names: NameForwarder | None,
                      renew: Callable[[], None]) -> LiveEgress:
    """Build what changes the rules of *egress*; *renew* has *engine* forget what they have decided."""
    path = asked.policy_file
    return LiveEgress(
        egress, engine, set_names=names.set_rules if names is not None else None,
        doors=lambda: [(door.address, door.port) for door in names.doors.values()] if names else [],
        renew=renew, tell=log.info, path=os.path.abspath(path) if path is not None else None,
        compose=lambda rules: replace(asked, from_file=rules).rules, verifies=asked.verify_names)


def resolvers_of(guest: GuestNet) -> set[bytes]:
    """Return where the guest's queries for names go on the host's side."""
    found = set(guest.names.servers) if guest.names is not None else set()
    addresses: set[bytes] = set()
    for family, loopback in ((guest.ip4, IP4_LOOPBACK), (guest.ip6, IP6_LOOPBACK)):
        if family is None:
            continue
        found.update(family.resolvers)
        if family.dns_match is not None:
            # Without a server the host itself is asked, as of resolv.conf(5).
            addresses.add(family.dns_host.packed if family.dns_host is not None else loopback)
        if family.map_host_loopback in family.resolvers:
            addresses.add(loopback)
    return addresses | {address.packed for address in found}


def networks_of(guest: GuestNet) -> set[tuple[bytes, int]]:
    """Return the networks that the host is in, by the addresses that the guest shares with it."""
    found = set()
    for family in (guest.ip4, guest.ip6):
        if family is None:
            continue
        if family.address is not None:
            found.add((family.address.packed, family.prefix_len))
        found.update((each.address.packed, each.prefix_len) for each in family.copied_addresses)
    return {(packed, prefix_len) for packed, prefix_len in found if prefix_len}


def _read_addresses() -> frozenset[bytes]:
    with HostReader() as reader:
        return reader.addresses()

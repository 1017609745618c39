"""A QEMU command line with its network replaced by one card on a descriptor; pure.

All network options are removed: `-net`, `-netdev`, `-nic` and the devices that belong to them. One virtio-net
card on a `socket` back end takes their place. Other devices keep their addresses, as management tools count
on them, so the card gets a free address, in the numbering of the machine type:

* q35: every slot is a bus of its own, "pci.N", made by a root port with that ID. If a free number has no
  port, a port is added.
* pc: slots of the one bus `pci.0`. Devices without an address take the first free slots, and so does the
  display adapter that QEMU adds by itself.
* s390: device numbers of the channel subsystem.

For another machine type, or none, QEMU places the card, unless other devices are on buses like those of q35.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from passt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

NET_OPTIONS = ("net", "netdev", "nic")
CARDS = frozenset((
    "virtio-net", "virtio-net-pci", "virtio-net-pci-transitional", "virtio-net-pci-non-transitional",
    "virtio-net-ccw", "e1000", "e1000e", "rtl8139",
))
BACK_END = "hostnet0"
_TX_BURST = 4096
_PORTS = range(3, 31)       # of q35: management tools use the lowest for their own devices
_SLOTS = range(2, 31)       # of pc: 0 is the host bridge, 1 the south bridge
_DEVICE_NUMBERS = range(1, 16)
_CHASSIS_BASE = 100         # chassis numbers of ports that we add; management tools count from 1


class Device(NamedTuple):
    """The value of a `-device` option: its *properties*, and *is_json* for the JSON spelling."""

    driver: str
    properties: Mapping[str, object]
    is_json: bool


class Placement(NamedTuple):
    """The place of the card: its *driver*, its *address*, and a *port* to add for it, if any."""

    driver: str
    address: Mapping[str, str]
    port: Mapping[str, str]


def needs_network(arguments: Sequence[str]) -> bool:
    """Tell whether *arguments* start a virtual machine; questions and the machine type "none" do not."""
    for name, value in _options(arguments):
        if name in {"h", "help", "version"} or value in {"help", "?"} or value.endswith((",help", ",?")):
            return False
    return _machine(arguments) != "none"


def patch(arguments: Sequence[str], fd: int) -> list[str]:
    """Replace the network in QEMU's *arguments* by a card on descriptor *fd*.

    Raises ConfigError if the virtual machine has no free address for it.
    """
    kept: list[str] = []
    devices: list[Device] = []
    uses_json = False
    words = iter(arguments)
    for word in words:
        name = _option_name(word)
        if name not in {*NET_OPTIONS, "device"}:
            kept.append(word)
            continue
        value = next(words, None)
        if name == "device" and value is not None:
            device = parse_device(value)
            uses_json = uses_json or device.is_json
            if device.driver in CARDS or "netdev" in device.properties:
                continue
            devices.append(device)
        if name == "device":
            kept += [word] if value is None else [word, value]
    has_display = "nodefaults" not in {_option_name(word) for word in arguments}
    return kept + _card(place(_machine(arguments), devices, has_display=has_display), fd, as_json=uses_json)


def parse_device(text: str) -> Device:
    """Read the value of a `-device` option, in either spelling; one that cannot be read has no driver."""
    if text.lstrip().startswith("{"):
        import json

        try:
            read = json.loads(text)
        except ValueError:
            read = {}
        return Device(str(read.get("driver", "")), read, is_json=True)
    properties: dict[str, object] = {}
    for index, item in enumerate(_split(text)):
        key, equals, value = item.partition("=")
        if index == 0 and not equals:
            key, value = "driver", item
        properties[key] = value
    return Device(str(properties.get("driver", "")), properties, is_json=False)


def place(machine: str, devices: Sequence[Device], *, has_display: bool) -> Placement:
    """Find a free address for the card among *devices*; ConfigError if there is none.

    *has_display* says that QEMU adds a display adapter before all other devices.
    """
    if machine.startswith("s390-ccw"):
        return _place_channel(devices)
    if machine == "q35" or machine.startswith("pc-q35"):
        return _place_port(devices)
    if machine == "pc" or machine.startswith("pc-"):
        return _place_slot(devices, has_display=has_display)
    if any(number in _PORTS for number in _buses(devices, "bus")):
        return _place_port(devices)
    return Placement("virtio-net-pci", {}, {})


def _place_port(devices: Sequence[Device]) -> Placement:
    used, made = _buses(devices, "bus"), _buses(devices, "id")
    free = [number for number in _PORTS if number not in used]
    if not free:
        raise ConfigError(f"no place for a network card: {_full('buses', 'pci.', _PORTS)}")
    ready = [number for number in free if number in made]
    number = (ready or free)[0]
    port: dict[str, str] = {}
    if not ready and (made or not used):
        port = {"driver": "pcie-root-port", "id": f"pci.{number}", "chassis": f"{_CHASSIS_BASE + number}"}
    return Placement("virtio-net-pci", {"bus": f"pci.{number}", "addr": "0x0"}, port)


def _place_slot(devices: Sequence[Device], *, has_display: bool) -> Placement:
    on_bus = [device for device in devices if device.properties.get("bus", "pci.0") in {"pci.0", "pci"}]
    used = {slot for device in on_bus if (slot := _slot(device.properties.get("addr"))) is not None}
    n_placed_by_qemu = has_display + sum("addr" not in device.properties for device in on_bus)
    number = _first_free(_SLOTS, used, n_placed_by_qemu)
    if number is None:
        raise ConfigError(f"no place for a network card: {_full('slots', 'pci.0,addr=', _SLOTS)}")
    return Placement("virtio-net-pci", {"bus": "pci.0", "addr": f"{number:#x}"}, {})


def _place_channel(devices: Sequence[Device]) -> Placement:
    used = {number for device in devices
            if (number := _device_number(device.properties.get("devno"))) is not None}
    number = _first_free(_DEVICE_NUMBERS, used, 0)
    if number is None:
        raise ConfigError(f"no place for a network card: {_full('devices', 'fe.0.', _DEVICE_NUMBERS)}")
    return Placement("virtio-net-ccw", {"devno": f"fe.0.{number:x}"}, {})


def _first_free(numbers: Iterable[int], used: set[int], n_skipped: int) -> int | None:
    free = [number for number in numbers if number not in used]
    return free[n_skipped] if n_skipped < len(free) else None


def _full(what: str, prefix: str, numbers: range) -> str:
    return f"all {what} from {prefix}{numbers[0]:x} to {prefix}{numbers[-1]:x} are in use"


def _card(placement: Placement, fd: int, *, as_json: bool) -> list[str]:
    card: dict[str, str | int] = {"driver": placement.driver, **placement.address,
                                  "netdev": BACK_END, "x-txburst": _TX_BURST}
    if not as_json:
        port = ["-device", _join(placement.port)] if placement.port else []
        return [*port, "-device", _join(card), "-netdev", f"socket,fd={fd},id={BACK_END}"]
    from json import dumps

    back_end = {"type": "socket", "fd": str(fd), "id": BACK_END}
    port = ["-device", dumps({**placement.port, "chassis": int(placement.port["chassis"])},
                             separators=(",", ":"))] if placement.port else []
    return [*port, "-device", dumps(card, separators=(",", ":")),
            "-netdev", dumps(back_end, separators=(",", ":"))]


def _join(properties: Mapping[str, str | int]) -> str:
    return ",".join(str(value) if key == "driver" else f"{key}={value}" for key, value in properties.items())


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each option with the word after it, which is its value if it takes one."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if name := _option_name(word):
            yield name, following


def _option_name(word: str) -> str:
    """Return the name of an option with one dash or two; "" if the word is no option."""
    return word[1 + word.startswith("--"):] if word.startswith("-") else ""


def _machine(arguments: Sequence[str]) -> str:
    """Return the machine type of the last `-machine` or `-M`; "" if there is none."""
    machine = ""
    for name, value in _options(arguments):
        if name not in {"machine", "M"}:
            continue
        for index, item in enumerate(_split(value)):
            key, equals, text = item.partition("=")
            if (equals and key == "type") or (index == 0 and not equals):
                machine = text if equals else item
    return machine


def _split(text: str) -> list[str]:
    """Split at commas; a doubled one stands for itself."""
    return [item.replace("\0", ",") for item in text.replace(",,", "\0").split(",")]


def _buses(devices: Iterable[Device], key: str) -> set[int]:
    """Return the numbers N of all "pci.N" that devices have as their property *key*."""
    names = (str(device.properties.get(key, "")) for device in devices)
    return {int(name[4:]) for name in names if name.startswith("pci.") and name[4:].isdecimal()} - {0}


def _slot(address: object) -> int | None:
    """Read the slot of `addr`: SLOT or SLOT.FUNCTION in hexadecimal, in JSON maybe a device number."""
    if isinstance(address, int):
        return address >> 3
    try:
        return int(str(address).partition(".")[0], 16)
    except ValueError:
        return None


def _device_number(text: object) -> int | None:
    """Read the last part of `devno`, hexadecimal, of our subsystem: fe.0.N."""
    subsystem, _, number = str(text).rpartition(".")
    try:
        return int(number, 16) if subsystem == "fe.0" else None
    except ValueError:
        return None

"""QEMU command lines with their network replaced."""

from __future__ import annotations

import json

import pytest

from passt.errors import ConfigError
from passt.qrap.qemu_command import needs_network, parse_device, patch

BACK_END = ["-netdev", "socket,fd=5,id=hostnet0"]
TAIL = "netdev=hostnet0,x-txburst=4096"
PORTS = [word for number in range(1, 9)
         for word in ("-device", f"pcie-root-port,chassis={number},id=pci.{number},bus=pcie.0")]


def card(text: str) -> list[str]:
    return ["-device", f"{text},{TAIL}", *BACK_END]


def port(number: int) -> list[str]:
    return ["-device", f"pcie-root-port,id=pci.{number},chassis={100 + number}"]


@pytest.mark.parametrize(("arguments", "expected"), [
    # Every network option goes, whatever the number of its dashes; the rest keeps its order.
    ("-m 5 -netdev user,id=a -net nic,model=virtio --net user -nic none -smp 1", "-m 5 -smp 1"),
    ("-device virtio-net-pci,netdev=a,mac=52:54:00:12:34:56 -netdev tap,id=a", ""),
    ("-device virtio-net-ccw -device e1000,x=1 -device e1000e -device rtl8139 -device virtio-net", ""),
    ("-device usb-net,netdev=a -device usb-tablet,bus=usb.0", "-device usb-tablet,bus=usb.0"),
    ("-device driver=e1000,netdev=a -device id=x,driver=virtio-net-pci", ""),
    ("-device e1000x,id=a", "-device e1000x,id=a"),
    ("-name guest=e1000,debug-threads=on", "-name guest=e1000,debug-threads=on"),
])
def test_network_is_taken_out_and_a_card_put_in(arguments: str, expected: str) -> None:
    assert patch(arguments.split(), 5) == [*expected.split(), *card("virtio-net-pci")]


@pytest.mark.parametrize(("machine", "devices", "address"), [
    ("pc-q35-7.2,accel=kvm", "virtio-blk-pci,bus=pci.3,addr=0x0", "pci.4"),
    ("pc-q35-7.2", "a,bus=pci.4 b,bus=pci.3 c,bus=pci.6", "pci.5"),
    ("pc-q35-7.2", "a,bus=pci.1 b,bus=pci.2", "pci.3"),
    ("type=pc-q35-7.2,accel=tcg", "a,bus=pci.3", "pci.4"),
    ("accel=tcg,type=q35", "a,bus=pci.3", "pci.4"),
    ("q35", "virtio-net-pci,bus=pci.3,addr=0x0,netdev=n b,bus=pci.4", "pci.3"),
    ("microvm", "a,bus=pci.3", "pci.4"),
    ("", "a,bus=pci.3 b,bus=pci.x c,bus=pci.", "pci.4"),
])
def test_q35_gives_the_first_free_bus(machine: str, devices: str, address: str) -> None:
    words = [word for device in devices.split() for word in ("-device", device)]
    arguments = ["-machine", machine, *words] if machine else words
    assert patch(arguments, 5)[-4:] == card(f"virtio-net-pci,bus={address},addr=0x0")


def test_q35_prefers_a_bus_whose_port_exists() -> None:
    used = ["-device", "virtio-blk-pci,bus=pci.3", "-device", "virtio-balloon-pci,bus=pci.4"]
    arguments = ["-machine", "pc-q35-7.2", *PORTS, *used]
    assert patch(arguments, 5) == [*arguments, *card("virtio-net-pci,bus=pci.5,addr=0x0")]


def test_q35_gets_a_port_where_none_is_free() -> None:
    used = [word for number in range(3, 9) for word in ("-device", f"a,bus=pci.{number}")]
    arguments = ["-M", "q35", *PORTS, *used]
    assert patch(arguments, 5) == [*arguments, *port(9), *card("virtio-net-pci,bus=pci.9,addr=0x0")]
    assert patch(["-M", "q35"], 5) == ["-M", "q35", *port(3), *card("virtio-net-pci,bus=pci.3,addr=0x0")]


@pytest.mark.parametrize(("arguments", "slot"), [
    ("-nodefaults -device a,bus=pci.0,addr=0x2", "0x3"),
    ("-nodefaults -device a,bus=pci.0,addr=0x3", "0x2"),
    ("-nodefaults -device a,addr=2.1 -device b,bus=pci.0,addr=0x3.0 -device c,bus=pci.0,addr=0x4", "0x5"),
    ("-nodefaults -device a,bus=usb.0,addr=0x2", "0x2"),
    ("-nodefaults -device a,bus=pci.0,addr=odd", "0x2"),
    # QEMU places these in the first free slots, and its display adapter before them.
    ("-nodefaults -device a -device b", "0x4"),
    ("-device a,bus=pci.0,addr=0x2 -device b", "0x5"),
    ("", "0x3"),
    ('-nodefaults -device {"driver":"a","bus":"pci.0","addr":"0x2"} -device {"driver":"b","addr":24}', "0x4"),
])
def test_pc_gives_the_first_free_slot(arguments: str, slot: str) -> None:
    got = patch(["-machine", "pc-i440fx-7.2,usb=off", *arguments.split()], 5)
    if "{" in arguments:
        assert json.loads(got[-3])["addr"] == slot
    else:
        assert got[-4:] == card(f"virtio-net-pci,bus=pci.0,addr={slot}")


@pytest.mark.parametrize(("devices", "number"), [
    ("", "1"),
    ("-device virtio-blk-ccw,devno=fe.0.1 -device a,devno=fe.0.3", "2"),
    ("-device virtio-net-ccw,devno=fe.0.1,netdev=n", "1"),
    ("-device a,devno=fe.1.1 -device b,devno=odd -device c,devno=fe.0.x", "1"),
    (" ".join(f"-device a,devno=fe.0.{number:x}" for number in range(1, 15)), "f"),
])
def test_s390_gives_the_first_free_device_number(devices: str, number: str) -> None:
    got = patch(["-machine", "s390-ccw-virtio-7.2", *devices.split()], 5)
    assert got[-4:] == card(f"virtio-net-ccw,devno=fe.0.{number}")


@pytest.mark.parametrize(("machine", "devices", "message"), [
    ("q35", [f"a,bus=pci.{number}" for number in range(3, 31)], "all buses from pci.3 to pci.1e"),
    ("pc", [f"a,bus=pci.0,addr={number:#x}" for number in range(3, 31)], "all slots from pci.0,addr=2 to"),
    ("s390-ccw-virtio", [f"a,devno=fe.0.{number:x}" for number in range(1, 16)], "all devices from fe.0.1"),
])
def test_full_machine_is_refused(machine: str, devices: list[str], message: str) -> None:
    words = [word for device in devices for word in ("-device", device)]
    with pytest.raises(ConfigError, match=message):
        patch(["-machine", machine, *words], 5)


def test_json_is_answered_in_json() -> None:
    disk = '{"driver": "virtio-blk-pci", "bus": "pci.3", "addr": "0x0"}'
    arguments = ["-machine", "pc-q35-7.2", "-device", disk,
                 "-device", '{"netdev":"n","driver":"virtio-net-pci","bus":"pci.1"}',
                 "-netdev", '{"type":"user","id":"n"}']
    assert patch(arguments, 7) == [
        "-machine", "pc-q35-7.2", "-device", disk,
        "-device",
        '{"driver":"virtio-net-pci","bus":"pci.4","addr":"0x0","netdev":"hostnet0","x-txburst":4096}',
        "-netdev", '{"type":"socket","fd":"7","id":"hostnet0"}']


def test_port_is_made_in_json_too() -> None:
    got = patch(["-machine", "q35", "-device", '{"driver":"e1000"}'], 5)
    assert got[2:4] == ["-device", '{"driver":"pcie-root-port","id":"pci.3","chassis":103}']


@pytest.mark.parametrize("text", ["{", '{"driver"', "{'driver': 'e1000'}"])
def test_json_that_cannot_be_read_is_left_to_qemu(text: str) -> None:
    assert patch(["-device", text], 5)[:2] == ["-device", text]


def test_doubled_comma_is_part_of_a_value() -> None:
    device = parse_device("virtio-blk-pci,drive=a,,b,bus=pci.3")
    assert (device.driver, device.properties["drive"], device.properties["bus"]) == (
        "virtio-blk-pci", "a,b", "pci.3")


@pytest.mark.parametrize("option", ["-device", "-netdev", "-net"])
def test_option_without_its_value_does_no_harm(option: str) -> None:
    kept = ["-device"] if option == "-device" else []
    assert patch(["-m", "5", option], 5) == ["-m", "5", *kept, *card("virtio-net-pci")]


def test_last_machine_counts() -> None:
    got = patch(["-machine", "q35", "-M", "s390-ccw-virtio", "-machine", "accel=tcg"], 5)
    assert got[-4:] == card("virtio-net-ccw,devno=fe.0.1")


@pytest.mark.parametrize(("arguments", "needed"), [
    ("-version", False), ("--version", False), ("-help", False), ("-m 5 -h", False),
    ("-device help", False), ("-device virtio-net-pci,help", False), ("-cpu ?", False),
    ("-machine none,accel=kvm:tcg -S", False), ("-M none", False), ("-machine help", False),
    ("-machine none -machine q35", True), ("-m 5", True), ("disk.img", True), ("-name help", False),
])
def test_questions_need_no_network(arguments: str, needed: bool) -> None:
    assert needs_network(arguments.split()) is needed

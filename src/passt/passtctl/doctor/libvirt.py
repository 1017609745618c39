"""libvirt and QEMU: versions that know passt, the passt that libvirt finds, and what AppArmor permits it."""

from __future__ import annotations

import os
import shlex

from passt.passtctl.doctor.finding import NOTE, OK, WARNING, Finding
from passt.passtctl.doctor.machine import parse_version

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.passtctl.doctor.machine import Machine

# First versions that know <backend type='passt'/>, and that with shared memory; that have -netdev stream.
PASST_SINCE, SHARED_SINCE, STREAM_SINCE = (9, 0), (11, 1), (7, 2)
LOCAL_PROFILE = "/etc/apparmor.d/local/usr.sbin.libvirtd"
PROFILE = "/etc/apparmor.d/usr.sbin.libvirtd"
_OF_SYSTEM = ("/usr/bin/", "/bin/")
_QEMU = ("qemu-system-x86_64", "qemu-system-aarch64", "qemu-kvm")


def check(machine: Machine) -> list[Finding]:
    """Look at both."""
    return [*_qemu(machine), *_libvirt(machine)]


def _qemu(machine: Machine) -> list[Finding]:
    program = next((found[0] for name in _QEMU if (found := machine.find_programs(name))), None)
    if program is None:
        return [Finding(OK, "QEMU", "it is not installed")]
    version = parse_version((machine.run([program, "--version"]) or "").partition("\n")[0])
    if version is None:
        return [Finding(NOTE, "QEMU", f"{program} does not tell its version")]
    text = f"{program} is {_dotted(version)}"
    if version < STREAM_SINCE:
        return [Finding(NOTE, "QEMU", f"{text}: before 7.2 it cannot connect to passt by itself, but by qrap",
                        ("qrap 5 qemu-system-x86_64 -net socket,fd=5 -net nic,model=virtio DISK",))]
    return [Finding(OK, "QEMU", text)]


def _libvirt(machine: Machine) -> list[Finding]:
    program = next((found[0] for name in ("libvirtd", "virtqemud", "virsh")
                    if (found := machine.find_programs(name))), None)
    if program is None:
        return [Finding(OK, "libvirt", "it is not installed")]
    version = parse_version(machine.run([program, "--version"]) or "")
    if version is None:
        return [Finding(NOTE, "libvirt", f"{program} does not tell its version")]
    if version < PASST_SINCE:
        return [Finding(NOTE, "libvirt", f"{_dotted(version)} does not know passt: 9.0 does where the"
                        " distribution left it in (Debian 12 did not), with shared memory 11.1")]
    shared = "" if version >= SHARED_SINCE else "; interfaces of type vhostuser take 11.1"
    passt = machine.find_programs("passt")
    if not passt:
        return [Finding(WARNING, "libvirt", f"{_dotted(version)} finds no passt in PATH")]
    return [Finding(OK, "libvirt", f"{_dotted(version)} takes the first passt in its PATH; in this one it is"
                    f" {passt[0]}{shared}"), *_profile(machine, passt[0])]


def _profile(machine: Machine, passt: str) -> list[Finding]:
    """Look whether libvirtd's AppArmor profile lets it start a passt that is not the distribution's."""
    if not machine.exists(PROFILE) or passt.startswith(_OF_SYSTEM):
        return []
    if "passt" in (machine.read(LOCAL_PROFILE) or ""):
        return []
    rules = f'"{os.path.realpath(passt)}" PUx,', 'signal (send) set=("kill", "term") peer=passt-python,'
    return [Finding(WARNING, "libvirt", f"libvirtd's AppArmor profile does not let it start {passt}",
                    (f"printf '%s\\n' {' '.join(map(shlex.quote, rules))} >>{LOCAL_PROFILE}",
                     f"apparmor_parser -r {PROFILE}"), as_root=True)]


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))

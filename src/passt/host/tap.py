"""The tap interface: created in the calling thread's network namespace, with all offloads it can have.

A tap with IFF_VNET_HDR carries a 10-byte virtio-net header (struct virtio_net_hdr of
linux/virtio_net.h, native byte order) in front of every frame, both ways. TUNSETOFFLOAD says what we accept
in frames from the kernel: partial checksums and TCP or UDP data that is not cut into segments yet. Offloads
that the kernel does not know are dropped from the request step by step (UDP segmentation: Linux 6.2).

Two rights are needed. Opening /dev/net/tun is checked against the caller's user on the host; TUNSETIFF takes
CAP_NET_ADMIN in the user namespace that owns the network namespace. A process that has entered a user
namespace keeps the first (root inside a namespace of its own is still the owner of a node with mode 0600) and
gains the second.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from passt.errors import HostError
from passt.host import syscalls

TUN_DEVICE = "/dev/net/tun"
IFNAMSIZ = 16
VNET_HDR_LEN = 10

# linux/if_tun.h
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_USO4 = 0x20
TUN_F_USO6 = 0x40

ALL_OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6

# In the order of giving up; the kernel grants USO4 and USO6 only together, and ECN only with TSO.
_GIVE_UP = (TUN_F_USO4 | TUN_F_USO6, TUN_F_TSO_ECN, TUN_F_TSO6, TUN_F_TSO4, TUN_F_CSUM)

_IFREQ = struct.Struct(f"{IFNAMSIZ}sH22x")
_INT = struct.Struct("i")


def open_tap(ifname: str, *, allow: int = ALL_OFFLOADS, device: str = TUN_DEVICE) -> tuple[int, int]:
    """Create the tap *ifname*; return its descriptor (non-blocking, close-on-exec) and the TUN_F_* granted.

    The interface is down and goes away with the last descriptor. *allow* limits the offloads asked for.
    Raises HostError that names the cause.
    """
    fd = _open_device(device)
    try:
        _check_driver(fd, device)
        _create(fd, ifname)
        return fd, negotiate_offloads(fd, allow)
    except BaseException:
        os.close(fd)
        raise


def negotiate_offloads(fd: int, allow: int) -> int:
    """Ask for the offloads in *allow*, fewer at every refusal; return the TUN_F_* bits granted."""
    wanted = _consistent(allow & ALL_OFFLOADS)
    for step in (0, *_GIVE_UP):
        wanted = _consistent(wanted & ~step)
        try:
            fcntl.ioctl(fd, syscalls.TUNSETOFFLOAD, wanted)
        except OSError as error:
            if error.errno != errno.EINVAL or not wanted:
                raise HostError(f"cannot set the offloads of the tap interface: {error.strerror}") from None
        else:
            return wanted
    raise AssertionError("the last step asks for nothing")


def _consistent(offloads: int) -> int:
    """Leave out bits that need another bit which *offloads* lacks."""
    if not offloads & TUN_F_CSUM:
        return 0
    if not offloads & (TUN_F_TSO4 | TUN_F_TSO6):
        offloads &= ~TUN_F_TSO_ECN
    both = TUN_F_USO4 | TUN_F_USO6
    return offloads if offloads & both == both else offloads & ~both


def _open_device(device: str) -> int:
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except (PermissionError, FileNotFoundError, OSError) as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            text = (f"{device} is missing: load the driver with 'modprobe tun', or in a container give the "
                    "device to it with '--device /dev/net/tun'")
        elif error.errno in (errno.EACCES, errno.EPERM):
            text = _explain_denied(device)
        else:
            text = f"cannot open {device}: {error.strerror}"
        raise HostError(text) from None


def _explain_denied(device: str) -> str:
    """Word why opening *device* was not permitted."""
    try:
        status = os.stat(device)
    except OSError:
        return f"{device} cannot be reached: a directory above it is closed to this user"
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o666 != 0o666:
        # The owner is left out: inside a user namespace every unmapped owner shows as nobody.
        return (f"{device} may not be opened by this user: its mode is {mode:04o}; "
                f"'chmod 0666 {device}' as root opens it to all")
    return (f"{device} may not be opened, though its mode {mode:04o} permits it: a device policy (cgroup, "
            "container without '--device /dev/net/tun', 'nodev' mount, or security module) forbids it")


def _check_driver(fd: int, device: str) -> None:
    try:
        # The number has its top bit set, so in C it is a negative int.
        features = _INT.unpack(fcntl.ioctl(fd, syscalls.TUNGETFEATURES & 0xFFFF_FFFF, _INT.pack(0)))[0]
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise HostError(f"cannot use {device}: {error.strerror}") from None
        raise HostError(f"{device} is not the device of the tun driver; as root, remove it and run "
                        f"'mknod -m 0666 {device} c 10 200'") from None
    if not features & IFF_VNET_HDR:
        raise HostError("the tun driver of this kernel has no IFF_VNET_HDR, which is needed")


def _create(fd: int, ifname: str) -> None:
    name = os.fsencode(ifname)
    if not 0 < len(name) < IFNAMSIZ:
        raise HostError(f"interface name '{ifname}' must have 1 to {IFNAMSIZ - 1} bytes")
    try:
        fcntl.ioctl(fd, syscalls.TUNSETIFF, _IFREQ.pack(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(fd, syscalls.TUNSETVNETHDRSZ, _INT.pack(VNET_HDR_LEN))
    except OSError as error:
        raise HostError(_explain_create(error, ifname)) from None


def _explain_create(error: OSError, ifname: str) -> str:
    """Word why TUNSETIFF failed."""
    if error.errno in (errno.EBUSY, errno.EEXIST):
        return (f"interface name '{ifname}' is taken in the target namespace; "
                "choose another one with --ns-ifname")
    if error.errno == errno.EINVAL:
        # The name of an interface that is no tap, or one that the kernel refuses ("a/b", ".").
        return (f"interface '{ifname}' cannot be created: the name is not valid or belongs to an interface "
                "of another kind; choose another one with --ns-ifname")
    if error.errno == errno.EPERM:
        return (f"interface '{ifname}' cannot be created: no CAP_NET_ADMIN in the user namespace that owns "
                "the network namespace")
    return f"interface '{ifname}' cannot be created: {error.strerror}"

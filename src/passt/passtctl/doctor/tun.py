"""/dev/net/tun: there, the right device, its driver loaded, and open to this user.

It is opened only if the driver is loaded, as opening would load it.
"""

from __future__ import annotations

import errno
import os
import stat

from passt.host.tap import TUN_DEVICE
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, Finding

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.passtctl.doctor.machine import Machine

SUBJECT = TUN_DEVICE
NUMBER = os.makedev(10, 200)      # Linux' Documentation/networking/tuntap.rst
_MAKE = f"mkdir -p /dev/net && mknod -m 0666 {TUN_DEVICE} c 10 200"
_LOAD = "modprobe tun"
_MAX_LIST = 1 << 23               # bytes of a list of modules


def try_open(path: str) -> OSError | None:
    """Open the device and close it again; return what forbids it. No interface is made."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error
    return None


def check(machine: Machine, status: Callable[[str], os.stat_result] = os.stat,
          opening: Callable[[str], OSError | None] = try_open, release: str = "") -> list[Finding]:
    """Look at the device and its driver; *release* is that of the kernel, as `uname -r` prints it."""
    driver = _driver(machine, release or os.uname().release)
    try:
        found = status(machine.path(TUN_DEVICE))
    except FileNotFoundError:
        return [_missing(machine, driver)]
    except OSError as error:
        return [Finding(ERROR, SUBJECT, f"it cannot be reached: {error.strerror}", ("chmod 0755 /dev/net",),
                        as_root=True)]
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != NUMBER:
        return [Finding(ERROR, SUBJECT, "it is not the device of the tun driver",
                        (f"mv {TUN_DEVICE} {TUN_DEVICE}.old", _MAKE), as_root=True)]
    if driver != "loaded":
        return [_without_driver(driver)]
    return _opened(machine, stat.S_IMODE(found.st_mode), opening(machine.path(TUN_DEVICE)))


def _driver(machine: Machine, release: str) -> str:
    """Say of the driver "loaded", "module", "none", or "unknown" if the list of modules cannot be read."""
    # Documentation/filesystems/proc.rst: minor numbers and names of drivers with major number 10.
    misc = machine.read("/proc/misc")
    if misc is None or any(line.split() == ["200", "tun"] for line in misc.splitlines()):
        return "loaded"
    modules = machine.read(f"/lib/modules/{release}/modules.dep", _MAX_LIST)
    if modules is None:
        return "unknown"
    return "module" if "/tun.ko" in modules else "none"


def _missing(machine: Machine, driver: str) -> Finding:
    if machine.is_container():
        return Finding(ERROR, SUBJECT, "it is missing: the container has to be given it",
                       ("podman run --device /dev/net/tun IMAGE",))
    if driver == "loaded":
        return Finding(ERROR, SUBJECT, "it is missing, though the driver is loaded", (_MAKE,), as_root=True)
    if driver == "none":
        return _without_driver(driver)
    # udev makes the file; where there is none, the second command does.
    return Finding(ERROR, SUBJECT, "it is missing: the driver is not loaded",
                   (_LOAD, f"test -e {TUN_DEVICE} || ({_MAKE})"), as_root=True)


def _without_driver(driver: str) -> Finding:
    if driver == "none":
        return Finding(ERROR, SUBJECT, "the kernel has no driver for it (CONFIG_TUN), as kernel or as module:"
                       " install the rest of the kernel's modules, or another kernel")
    if driver == "module":
        return Finding(OK, SUBJECT, "its driver will be loaded with the first use")
    return Finding(ERROR, SUBJECT, "its driver is not loaded, and the modules of the running kernel are not"
                   " there: start the machine anew if the kernel was updated", (_LOAD,), as_root=True)


def _opened(machine: Machine, mode: int, refusal: OSError | None) -> list[Finding]:
    opens = (f"chmod 0666 {TUN_DEVICE}",)
    is_open = mode & 0o006 == 0o006
    if refusal is None:
        found = [Finding(OK, SUBJECT, "this user may open it")]
        if machine.is_root and not is_open:
            found.append(Finding(NOTE, SUBJECT, f"its mode is {mode:04o}: plain users may not open it", opens,
                                 as_root=True))
        return found
    if refusal.errno in {errno.EACCES, errno.EPERM}:
        if not is_open:
            return [Finding(ERROR, SUBJECT, f"its mode is {mode:04o}: this user may not open it", opens,
                            as_root=True)]
        return [Finding(ERROR, SUBJECT, "it may not be opened, though its mode permits it: a device policy"
                        " (cgroup, mount with 'nodev') or a security module forbids it",
                        ("podman run --device /dev/net/tun IMAGE",) if machine.is_container() else ())]
    if refusal.errno in {errno.ENODEV, errno.ENXIO}:
        return [Finding(ERROR, SUBJECT, "its driver is not loaded", (_LOAD,), as_root=True)]
    return [Finding(ERROR, SUBJECT, f"it cannot be opened: {refusal.strerror}")]

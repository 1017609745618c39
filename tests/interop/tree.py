"""A Debian 13 in the place of the host's file system, where real clients run.

Theory of operation. `tools/interop-tree` makes the tree on disk, with the clients and this package,
built there. A `Tree` is a place of the lab: it lies in the network namespace of another place, and has
mount and PID namespaces of its own whose root is the tree. It is entered by pivot_root(2), because a
process that is merely chrooted may not make user namespaces. Nothing that runs there changes the tree:
what is written to (homes, /run, /tmp, /var) is a file system in memory. The cgroup file system is
the version 2 alone, which container runtimes want. When the init ends, everything does.

*which* picks the passt and pasta that clients find: a directory of `HELPERS` goes to the head of PATH.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab import PATH, TREE, UID, Lab, LabError, Place
from tests.support.processes import children
from tests.support.switches import INTEROP_SUITE

SUITE = INTEROP_SUITE or "trixie"
ROOT = TREE / ".interop" / ("tree" if SUITE == "trixie" else f"tree-{SUITE}")
RUNTIME = f"/run/user/{UID}"
HOME = "/home/lab"
OURS = "/opt/helpers"
PEER = "/usr/bin"  # Debian's passt and pasta

# Arguments: the tree; the lab's directory; one that is shown as /srv, or nothing; the command to go on with.
ENTER = """
set -e
root=$1 lab=$2 shown=$3
shift 3
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "dev/${node%:*}" c 1 "${node#*:}"
done
mknod -m 666 dev/tty c 5 0
mkdir dev/net dev/pts dev/shm
mknod -m 666 dev/net/tun c 10 200
mknod -m 666 dev/fuse c 10 229
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777 shm dev/shm
for name in run tmp home var/tmp; do
    mount -t tmpfs tmpfs "$name"
done
chmod 1777 tmp var/tmp
mkdir -m 1777 run/lock
mkdir run/user
install -d -m 700 -o "$UID_" -g "$UID_" "run/user/$UID_" home/lab
cp "$lab/etc/resolv.conf" run/resolv.conf
mount --bind run/resolv.conf etc/resolv.conf
cp "$lab"/*.py tmp/
[ -z "$shown" ] || mount --bind -o ro "$shown" srv
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
exec "$@"
"""

INIT = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""


@dataclass
class Tree(Place):
    """The tree in the network of a place; clients take passt and pasta from the directory *helpers*."""

    helpers: str = OURS

    @classmethod
    def enter(cls, lab: Lab, place: Place, helpers: str = OURS) -> Tree:
        """Make one in the network namespace of *place*. Raises LabError if there is no tree."""
        if not (ROOT / "opt" / "package.made").exists():
            raise LabError(f"there is no tree of Debian {SUITE}: 'make interop' makes it")
        return cls.enter_root(lab, place, ROOT, helpers)

    @classmethod
    def enter_root(cls, lab: Lab, place: Place, root: Path, helpers: str, shown: str = "") -> Tree:
        """Make one of the tree *root*; the directory *shown*, if any, is /srv there, to be read."""
        holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "nsenter", "-t", str(place.init), "--net", "--mount",
             "unshare", "--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child=KILL", "--mount-proc",
             "sh", "-c", ENTER, "sh", str(root), str(lab.directory), shown,
             "/usr/bin/python3", "-I", "-c", INIT],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env={"PATH": PATH, "UID_": str(UID)},
        )
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"ready\n":
            raise LabError(f"cannot enter the tree: {holder.stderr.read().decode().strip()}")
        return cls(holder, children(holder.pid)[0], lab.directory, helpers=helpers)

    def command(self, argv: list[str], *, user: bool, cwd: str = "/") -> list[str]:  # type: ignore[override]
        """Full command line that runs *argv* in the tree, as root or as the plain user."""
        enter = ["nsenter", "-t", str(self.init), "--net", "--mount", "--ipc", "--uts", "--pid",
                 f"--wdns={cwd}", "env", *self.environment(user=user)]
        if not user:
            return [*enter, *argv]
        return [*enter, "setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups", "--inh-caps=-all",
                "--", *argv]

    def environment(self, *, user: bool) -> list[str]:
        """Assignments that a login would make."""
        name, home = ("lab", HOME) if user else ("root", "/root")
        return [f"PATH={self.helpers}:{PATH}", f"HOME={home}", f"USER={name}", f"LOGNAME={name}",
                f"XDG_RUNTIME_DIR={RUNTIME if user else '/run'}", "LANG=C.UTF-8",
                f"CONTAINERS_HELPER_BINARY_DIR={self.helpers}"]

    def find(self, name: str) -> list[int]:
        """Processes in the tree that were started as the program *name*, as the machine numbers them.

        Helpers of ours, which it forked, are left out: they have names of their own.
        """
        found = []
        for pid in self.pids():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                is_helper = Path(f"/proc/{pid}/comm").read_bytes().startswith(b"passt-")
            except (FileNotFoundError, ProcessLookupError):
                continue
            # A script has its interpreter's words first.
            if not is_helper and any(word.rpartition(b"/")[2] == name.encode() for word in words[:3]):
                found.append(pid)
        return found

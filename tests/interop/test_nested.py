"""The image of packaging/container: pasta for a user without rights, in a container without rights.

`tools/interop-tree` has made the Debian package and the archive of a small Debian. buildah builds the image
of both, without a network; Podman runs it. `packaging/README.md` has a table of what a container has to
permit for what: these are its rows.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt import __version__
from tests.interop.podman import CLIENT
from tests.interop.tree import CLIENT_LIMIT_S, ROOT
from tests.support.lab import FAR4, FAR6, TREE

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from tests.interop.podman import Podman

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]
IMAGE = "localhost/pasta-ci"
PLACE = "tmp/image"
BUILD = f"""
set -e
cd /{PLACE}
podman import --quiet base.tar localhost/debian >&2
buildah build --network=none --pull=never --build-arg BASE=localhost/debian --tag {IMAGE} . >&2
"""
TUN = "--device=/dev/net/tun"
PINGS = "--sysctl=net.ipv4.ping_group_range=0 1000"
UNMASKED = "--security-opt=unmask=ALL"
UNFILTERED = "--security-opt=seccomp=unconfined"
PASTA = ("pasta", "--config-net", "-q", "--")
CALLS = (*CLIENT, "tcp,udp,end-first,end-last,refused")
# What pasta tells of a container that permits nothing more, and does without.
NOT_PERMITTED = b"""\
cannot mount /proc in the new namespaces: Operation not permitted
cannot write /proc/sys/net/ipv4/ping_group_range in the new namespaces: Read-only file system
cannot set the host name in the new namespaces: Operation not permitted
"""
# A server on the loopback of the container, and a client of it on that of the namespace.
LOOPBACK = """
import socket, subprocess, sys, threading
ask = "import socket; print(socket.create_connection(('127.0.0.1', 9000), 20).recv(100).decode())"
def answer():
    while True:
        server.accept()[0].sendall(b"from the container")
with socket.create_server(("127.0.0.1", 9000)) as server:
    threading.Thread(target=answer, daemon=True).start()
    sys.exit(subprocess.call(["pasta", "--splice-only", "-q", "-T", "9000", "--", "python3", "-c", ask]))
"""


@pytest.fixture(scope="module")
def image(session_podman: Podman) -> str:
    """Build the image; its name."""
    tree = session_podman.tree
    context = Path(f"/proc/{tree.init}/root") / PLACE
    context.mkdir()
    made = ROOT.with_name(f"{ROOT.name}-image")
    [package] = made.glob("passt-py_*.deb")
    for path in (package, made / "base.tar", TREE / "packaging" / "container" / "Containerfile"):
        shutil.copy(path, context)
        (context / path.name).chmod(0o644)
    tree.run(["sh", "-c", BUILD], user=True, timeout=CLIENT_LIMIT_S)
    shutil.rmtree(context)
    return IMAGE


def run(podman: Podman, options: Sequence[str], *command: str, check: bool = True
        ) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a new container of the image, whose user and rights are the image's."""
    setting = ("--rm", "--network=pasta", "--volume=/tmp:/srv:ro", *options)
    return podman.run("run", *setting, IMAGE, *command, check=check)


@pytest.mark.usefixtures("image")
def test_image_has_the_programs_for_a_user_without_rights(podman: Podman) -> None:
    script = "id -u; pasta --version | head -n 1; grep CapEff /proc/self/status; ls /tmp /var/lib/apt/lists"
    uid, version, capabilities, *left = run(podman, (), "sh", "-c", script).stdout.decode().splitlines()
    assert (uid, version) == ("1000", f"pasta {__version__}")
    assert int(capabilities.split()[1], 16) == 0
    assert [line for line in left if line and not line.endswith(":")] == []


@pytest.mark.usefixtures("image")
def test_loopback_needs_nothing(podman: Podman) -> None:
    done = run(podman, (), "python3", "-c", LOOPBACK)
    assert done.stdout == b"from the container\n"
    assert done.stderr == NOT_PERMITTED


@pytest.mark.usefixtures("image")
def test_network_without_a_tun_device_is_one_line(podman: Podman) -> None:
    done = run(podman, (), *PASTA, "true", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(NOT_PERMITTED)
    [line] = done.stderr.removeprefix(NOT_PERMITTED).splitlines()
    assert b"/dev/net/tun" in line


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("more", [
    (), ("--cap-drop=all", "--security-opt=no-new-privileges"), (UNMASKED,), (UNMASKED, UNFILTERED),
], ids=["tun", "no-new-privileges", "unmasked", "unfiltered"])
@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_network_needs_a_tun_device(podman: Podman, more: Sequence[str], address: str) -> None:
    run(podman, (TUN, *more), *PASTA, *CALLS, address, "8000", "50000")


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_pasta_runs_in_pasta(podman: Podman, address: str) -> None:
    run(podman, (TUN,), *PASTA, *PASTA, *CALLS, address, "8000", "50000")


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_ping_needs_the_group_of_the_user(podman: Podman, address: str) -> None:
    ping = (*PASTA, "ping", "-q", "-c", "1", "-W", "5", address)
    assert b"ping_group_range=" in run(podman, (TUN,), *ping, check=False).stderr
    run(podman, (TUN, PINGS), *ping)


@pytest.mark.usefixtures("image")
@pytest.mark.parametrize(("more", "own"), [((), False), ((UNMASKED,), True)], ids=["masked", "unmasked"])
def test_a_proc_of_its_own_needs_an_unmasked_one(podman: Podman, more: Sequence[str], *, own: bool) -> None:
    script = "echo $$; read -r pid rest </proc/self/stat; echo $pid"
    pid, shown = run(podman, (TUN, *more), *PASTA, "sh", "-c", script).stdout.split()
    assert (pid == shown) is own


@pytest.mark.usefixtures("image")
def test_host_name_of_its_own_needs_an_unfiltered_container(podman: Podman) -> None:
    name = ("python3", "-c", "import os; print(os.uname().nodename)")
    options = (TUN, "--hostname=runner")
    assert run(podman, options, *PASTA, *name).stdout == b"runner\n"
    assert run(podman, (*options, UNFILTERED), *PASTA, *name).stdout != b"runner\n"

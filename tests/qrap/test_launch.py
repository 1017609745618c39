"""The whole program: what it starts, with which arguments, on which descriptor.

As the paths of sockets are fixed, the program runs with a directory of the test mounted over /tmp.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from passt import cli
from passt.errors import ConfigError, HostError
from passt.qrap import launch
from passt.qrap.find_passt import MAX_RETRIES
from tests.qrap.fake_passt import ANSWER, FakePasst

TREE = Path(__file__).parents[2]
TMP = "/tmp"  # noqa: S108 - as the programs of the tests see it
PATH = "/usr/local/bin:/usr/bin:/bin"
SPAN = f"{TMP}/passt_1.socket to {TMP}/passt_99.socket"
USAGE = "Try 'qrap --help' for more information."
# Arguments: directory to see as /tmp, tree of the sources (which may be below /tmp), command.
PRIVATE_TMP = """
set -e
mount --bind "$2" /mnt
mount --bind "$1" /tmp
mkdir -p "$2"
mount --bind /mnt "$2"
shift 2
exec "$@"
"""
# Writes which signals it has been told to ignore; then, as Python would change that, goes on as RECORDER.
STAND_IN = """#!/bin/sh
grep SigIgn /proc/$$/status
exec /usr/bin/python3 "$0.py" "$@"
"""
# Writes its arguments, its descriptors, its process, and what passt answered on the descriptor in $FD.
RECORDER = """
import os, socket, sys
print(sys.argv[1:])
listed = os.listdir("/proc/self/fd")
print(sorted(int(name) for name in listed if os.path.exists("/proc/self/fd/" + name)))
print(os.getpid())
if "FD" in os.environ:
    with socket.socket(fileno=int(os.environ["FD"])) as sock:
        print(sock.getblocking(), sock.recv(46, socket.MSG_WAITALL).hex())
        sock.sendall(b"from QEMU")
"""


def ignored_by_callers() -> int:
    """Signals that a program ignores when it is started from here, as a mask: those that we were told to."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = [line for line in status if line.startswith("SigIgn")]
    ours = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1  # that is Python, and it is undone in a child
    return int(line.split()[1], 16) & ~ours


@dataclass
class Machine:
    """Runs qrap with *directory* as /tmp; `kvm` there records what it gets."""

    directory: Path

    def start(self, *arguments: str, fd: int | None = None,
              program: str = "qrap") -> subprocess.Popen[str]:
        # A busy machine may keep the answer back for longer than one where a machine starts.
        code = (f"import signal, sys; sys.path.insert(0, {str(TREE / 'src')!r});"
                "from passt.qrap.find_passt import connect; connect.__kwdefaults__['answer_s'] = 60.0;"
                f"from passt.cli import main; sys.exit(main({[program, *arguments]!r}))")
        environment = {"PATH": f"{TMP}/bin:{PATH}", **({} if fd is None else {"FD": str(fd)})}
        return subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", PRIVATE_TMP, "sh", str(self.directory), str(TREE),
             sys.executable, "-c", code],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def run(self, *arguments: str, fd: int | None = None, feed: str = "") -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, fd=fd) as popen:
            out, err = popen.communicate(feed, 60)
        return subprocess.CompletedProcess(popen.args, popen.returncode, out, err)

    def passt(self, number: int = 1, *, n_refused: int = 0) -> FakePasst:
        return FakePasst(self.directory / f"passt_{number}.socket", n_refused=n_refused)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if os.geteuid() != 0:
        pytest.skip("these tests mount a directory over /tmp, so they must run as root")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kvm.py").write_text(RECORDER, encoding="ascii")
    stand_in = tmp_path / "bin" / "kvm"
    stand_in.write_text(STAND_IN, encoding="ascii")
    stand_in.chmod(0o755)
    return Machine(tmp_path)


pytestmark = pytest.mark.needs_root


@pytest.mark.parametrize("fd", [3, 4, 5, 77])
def test_explicit_form_patches_nothing(machine: Machine, fd: int) -> None:
    arguments = ["-netdev", "socket,id=s", "-device", "e1000"]
    with machine.passt() as passt:
        result = machine.run(str(fd), "kvm", *arguments, fd=fd)
        assert passt.client
        assert passt.client.recv(20) == b"from QEMU"
    assert (result.returncode, result.stderr) == (0, "Connected to /tmp/passt_1.socket\n")
    ignored, recorded, descriptors, _, received = result.stdout.splitlines()
    assert int(ignored.split()[1], 16) == ignored_by_callers()
    assert recorded == repr(arguments)
    assert descriptors == repr([0, 1, 2, fd])
    assert received == f"True {ANSWER.hex()}"


def test_program_may_be_a_path(machine: Machine) -> None:
    with machine.passt(7):
        result = machine.run("9", f"{TMP}/bin/kvm", "x", fd=9)
    assert (result.returncode, result.stderr) == (0, "Connected to /tmp/passt_7.socket\n")


def test_patched_form_starts_qemu_with_a_card(machine: Machine) -> None:
    with machine.passt():
        result = machine.run("-machine", "pc-q35-7.2", "-device", "virtio-net-pci,netdev=n,bus=pci.1",
                             "-netdev", "user,id=n", "-device", "virtio-blk-pci,bus=pci.3,addr=0x0", fd=5)
    assert result.stdout.splitlines()[1:3] == [repr([
        "-machine", "pc-q35-7.2", "-device", "virtio-blk-pci,bus=pci.3,addr=0x0",
        "-device", "virtio-net-pci,bus=pci.4,addr=0x0,netdev=hostnet0,x-txburst=4096",
        "-netdev", "socket,fd=5,id=hostnet0"]), "[0, 1, 2, 5]"]


@pytest.mark.parametrize("question", ["-version", "-help"])
def test_question_goes_to_qemu_without_a_passt(machine: Machine, question: str) -> None:
    result = machine.run("-machine", "none", question)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1] == repr(["-machine", "none", question])


def test_process_stays_the_same(machine: Machine) -> None:
    with machine.start("-version") as popen:
        out, _ = popen.communicate(timeout=60)
    assert int(out.split()[-1]) == popen.pid


def test_no_passt_is_an_error_and_qemu_is_not_started(machine: Machine) -> None:
    result = machine.run("5", "kvm")
    assert (result.returncode, result.stdout, result.stderr) == (
        1, "", f"qrap: no passt is free on any socket from {SPAN}; start one first\n")


def test_next_passt_is_taken_when_the_first_stays_busy(machine: Machine) -> None:
    with machine.passt(1, n_refused=1000) as first, machine.passt(2):
        result = machine.run("5", "kvm", fd=5)
        assert first.n_clients == MAX_RETRIES + 1
    assert (result.returncode, result.stderr) == (
        0, "qrap: /tmp/passt_1.socket: passt is busy with another client\nConnected to /tmp/passt_2.socket\n")


def test_interrupt_ends_the_search(machine: Machine) -> None:
    with machine.passt(1, n_refused=1000) as passt, machine.start("5", "kvm") as popen:
        while not passt.n_clients:
            assert popen.poll() is None
        popen.send_signal(signal.SIGINT)
        out, err = popen.communicate(timeout=60)
        assert (popen.returncode, out, err) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize(("arguments", "message"), [
    ((), f"arguments are missing: FD PROGRAM [ARG]..., or those of QEMU\n{USAGE}"),
    (("5",), f"which program to start with descriptor 5 is missing\n{USAGE}"),
    (("2", "sh"), "descriptor 2: 0, 1 and 2 are in use; choose 3 or more"),
    (("5" * 100, "sh"), f"descriptor {'5' * 100}: no process has so many; choose a smaller one"),
    (("5", "no-such-program"), "program 'no-such-program' is not an executable file, here or in PATH"),
    (("5", "./no-such-program"), "program './no-such-program' is not an executable file, here or in PATH"),
    (("5", "/etc/passwd"), "program '/etc/passwd' is not an executable file, here or in PATH"),
    (("5", "/"), "program '/' is not an executable file, here or in PATH"),
])
def test_mistake_is_told_before_anything_is_tried(
        arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["qrap", *arguments]) == 1
    assert capfd.readouterr() == ("", f"qrap: {message}\n")


def test_number_of_any_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="no process has so many"):
        launch.make_plan(["5" * 5000, "sh"])


def test_descriptor_above_the_limit_is_refused(machine: Machine) -> None:
    with machine.passt():
        result = machine.run("999999999", "kvm")
    message = "Bad file descriptor; choose one below the limit of open files (ulimit -n)"
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == f"qrap: descriptor 999999999: {message}"


def test_program_that_cannot_start_is_an_error(machine: Machine) -> None:
    (machine.directory / "bin" / "kvm").write_text("#!/no/such/interpreter\n", encoding="ascii")
    with machine.passt():
        result = machine.run("5", "kvm")
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        1, "qrap: cannot start /tmp/bin/kvm: No such file or directory")


def test_number_before_an_option_is_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qemu-kvm").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    plan = launch.make_plan(["5", "-m", "64"])
    assert (plan.path, plan.fd) == (str(tmp_path / "qemu-kvm"), 5)
    assert plan.argv[:4] == ["qemu-kvm", "5", "-m", "64"]


@pytest.mark.parametrize(("machine_name", "program"), [
    ("x86_64", "qemu-system-x86_64"), ("i686", "qemu-system-i386"), ("aarch64", "qemu-system-aarch64"),
    ("ppc64le", "qemu-system-ppc64"), ("s390x", "qemu-system-s390x"), ("armv7l", "qemu-system-arm"),
])
def test_qemu_of_this_machine_is_found(machine_name: str, program: str, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    fake = os.uname_result(("Linux", "x", "6.1", "x", machine_name))
    monkeypatch.setattr(os, "uname", lambda: fake)
    monkeypatch.setenv("PATH", f"{tmp_path}/none:{tmp_path}")
    with pytest.raises(HostError, match=f"none of kvm, qemu-kvm, {program}, /usr/libexec/qemu-kvm can be"):
        launch.find_qemu()
    (tmp_path / program).touch(0o755)
    assert launch.find_qemu() == str(tmp_path / program)
    (tmp_path / "qemu-kvm").touch(0o644)
    assert launch.find_qemu() == str(tmp_path / program)
    (tmp_path / "kvm").touch(0o755)
    assert launch.find_qemu() == str(tmp_path / "kvm")


def test_empty_part_of_path_is_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert launch.find_program("here") == "./here"
    monkeypatch.delenv("PATH")
    assert launch.find_program("sh") in {"/bin/sh", "/usr/bin/sh"}


def test_full_machine_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kvm").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = [word for number in range(3, 31) for word in ("-device", f"a,bus=pci.{number}")]
    with pytest.raises(ConfigError, match="no place for a network card"):
        launch.make_plan(["-machine", "q35", *words])


REAL = {
    "pc with a display": ["-machine", "pc", "-device", "virtio-rng-pci"],
    "pc without": ["-machine", "pc-i440fx-7.2", "-nodefaults", "-device", "virtio-rng-pci"],
    "pc with addresses": ["-machine", "pc", "-nodefaults", "-device", "virtio-rng-pci,bus=pci.0,addr=0x2",
                          "-device", "virtio-balloon-pci,bus=pci.0,addr=0x3"],
    "q35": ["-machine", "q35"],
    "q35 with ports": [
        "-machine", "pc-q35-7.2", "-nodefaults",
        *[word for number in range(1, 6) for word in
          ("-device", f"pcie-root-port,port={number},chassis={number},id=pci.{number},bus=pcie.0")],
        "-device", "virtio-rng-pci,bus=pci.3,addr=0x0",
        "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,bus=pci.1,addr=0x0"],
    "q35 in JSON": [
        "-machine", "q35", "-nodefaults", "-netdev", '{"type":"user","id":"n"}',
        "-device", '{"driver":"virtio-net-pci","netdev":"n"}', "-device", '{"driver":"virtio-rng-pci"}'],
    "none named": ["-device", "virtio-rng-pci", "-net", "nic,model=e1000", "-net", "user"],
}


@pytest.mark.parametrize("arguments", REAL.values(), ids=REAL.keys())
def test_real_qemu_takes_the_patched_arguments(machine: Machine, arguments: list[str]) -> None:
    qemu = shutil.which("qemu-system-x86_64", path=PATH)
    if qemu is None:
        pytest.skip("qemu-system-x86_64 is missing: 'make test' installs it")
    (machine.directory / "bin" / "kvm").unlink()
    (machine.directory / "bin" / "kvm").symlink_to(qemu)
    with machine.passt() as passt:
        result = machine.run("-accel", "tcg", "-m", "64", "-S", "-display", "none", "-monitor", "stdio",
                             *arguments, feed="info network\nquit\n")
        assert passt.client
        assert passt.client.recv(1) == b"", "QEMU has let go of the connection"
    assert (result.returncode, result.stderr) == (0, "Connected to /tmp/passt_1.socket\n")
    shown = [line.strip() for line in result.stdout.splitlines() if "index=0" in line]
    assert len(shown) == 2, result.stdout
    assert "model=virtio-net-pci" in shown[0]
    assert "hostnet0" in shown[1]
    assert "type=socket" in shown[1]

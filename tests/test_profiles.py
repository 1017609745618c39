"""The profiles in share/ for AppArmor and SELinux: they compile, and cover an installation's files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import apparmor

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.slow     # `make test-fast` does without the tools

TREE = Path(__file__).parent.parent
SELINUX = TREE / "share" / "selinux"
MODULE = "passt_python"
LAUNCHER = TREE / "src" / "launcher" / "launcher.c"
PYTHON_NAME = "python3.11"
# In capabilities(7)'s order; what root's start and a start in a user namespace take: `run/credentials.py`.
BOTH = {"dac_override": 1, "dac_read_search": 2, "fowner": 3, "setgid": 6, "setuid": 7, "setpcap": 8,
        "net_bind_service": 10, "sys_admin": 21}  # fmt: skip
PASTA = {"kill": 5, "net_admin": 12, "sys_ptrace": 19, "setfcap": 31}


# AppArmor


@pytest.mark.parametrize("name", apparmor.PROFILES)
def test_profile_compiles_without_a_warning(name: str) -> None:
    done = apparmor.parse(apparmor.POLICY / "apparmor.d" / name)
    # The system's own abstractions may be written for a newer interface of the kernel than ours.
    warnings = [line for line in done.stderr.splitlines()
                if b"differs from policy declared feature abi" not in line]
    assert (done.returncode, done.stdout, warnings) == (0, b"", [])


@pytest.mark.parametrize(("old", "new"), [
    ("signal send,", "signal sned,"),
    ("capability net_admin,", "capability net_amdin,"),
    ("include <abstractions/passt-python>", "include <abstractions/passt-pyhton>"),
    ("/** px -> pasta-python-command,", "/** ux,"),       # a warning
    ("/dev/net/tun rw,", "/dev/net/tun rw,\n  /usr/bin/* ix,"),  # two ways to execute the same file
    ("/dev/net/tun rw,", "/dev/net/tun rw"),
])  # fmt: skip
def test_spoiled_profile_is_refused(old: str, new: str, tmp_path: Path) -> None:
    text = (apparmor.POLICY / "apparmor.d" / "pasta-python").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "profile").write_text(text.replace(old, new), encoding="utf-8")
    done = apparmor.parse(tmp_path / "profile")
    assert (done.returncode, done.stderr) != (0, b"")


def test_every_file_of_the_policy_is_used() -> None:
    """Also that the files for AppArmor 3 stand for some of the others."""
    files = {str(path.relative_to(apparmor.POLICY / "apparmor.d"))
             for path in (apparmor.POLICY / "apparmor.d").rglob("*") if path.is_file()}
    texts = [(apparmor.POLICY / "apparmor.d" / name).read_text(encoding="utf-8") for name in files]
    included = {name for text in texts for name in re.findall(r"^ *include <(.*)>$", text, re.MULTILINE)}
    assert files <= included | set(apparmor.PROFILES)
    older = {str(path.relative_to(apparmor.POLICY / "before-4.0"))
             for path in (apparmor.POLICY / "before-4.0").rglob("*") if path.is_file()}
    assert older <= files


@pytest.mark.parametrize("name", apparmor.PROFILES)
def test_user_namespaces_are_permitted(name: str) -> None:
    """A parser before 4.0 cannot check the rule, so that it is there is read."""
    newest = apparmor.POLICY / "apparmor.d"
    text = (newest / "abstractions" / "passt-python-userns").read_text(encoding="utf-8")
    assert re.search(r"^userns,$", text, re.MULTILINE)
    abi = (newest / "tunables" / "passt-python-abi").read_text(encoding="utf-8")
    assert "abi <abi/4.0>," in abi
    done = apparmor.parse(apparmor.POLICY / "apparmor.d" / name, "--preprocess")
    flat = done.stdout.decode()
    assert flat.index("passt-python-abi") < flat.index("\nprofile ")
    found = dict(re.findall(r"\nprofile (\S+) (.*?)\n}", flat, re.DOTALL))
    for profile in found.keys() - {"pasta-python"}:  # its launcher makes none
        assert "passt-python-userns" in found[profile], profile
    assert found


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, apparmor.Profile]:
    """Compile the profiles, with one more prefix."""
    return apparmor.load(tmp_path_factory.mktemp("apparmor"), ["/opt/a venv", "/usr"])


def places() -> list[str]:
    """Where the launcher looks for the package, below a prefix: with the name of an interpreter."""
    text = LAUNCHER.read_text(encoding="utf-8")
    table = text[text.index("PLACES[] = {"):text.index("};")]
    found = re.findall(r'^ *"(.*)",', table.replace('" PYTHON_NAME "', PYTHON_NAME), re.MULTILINE)
    assert "" in found  # the last one, of `pip install --target`
    return found


@pytest.mark.parametrize("program", ["pasta", "passt"])
@pytest.mark.parametrize("home", ["/usr/local", "/usr/local/lib/passt", "/opt/a venv", "/usr"])
def test_places_of_an_installation_are_covered(
    profiles: Mapping[str, apparmor.Profile], program: str, home: str
) -> None:
    launcher = profiles[f"{program}-python"]
    inner = profiles.get(f"{program}-python-program", launcher)
    assert launcher.attaches_to(f"{home}/bin/{program}")
    assert launcher.allows(f"{home}/bin/{program}", "rm", owner=False)
    for python in (f"{home}/bin/{PYTHON_NAME}", "/usr/bin/python3.14"):
        assert launcher.allows(python, "x", owner=False)
        assert inner.allows(python, "rm", owner=False)
    assert inner.allows(f"{home}/pyvenv.cfg", "r", owner=False)
    for place in places():
        package = f"{home}{place}/passt"
        assert inner.allows(f"{package}/__main__.py", "r", owner=False), place
        assert inner.allows(f"{package}/host/syscalls.cpython-311.so", "rm", owner=False), place
        assert inner.allows(f"{package}/__pycache__/cli.cpython-311.pyc", "r", owner=False), place
        assert not inner.allows(f"{package}/cli.py", "w", owner=False), place


def test_places_of_others_are_not_covered(profiles: Mapping[str, apparmor.Profile]) -> None:
    for path in ("/home/user/.local/bin/pasta", "/opt/other/bin/pasta", "/usr/bin/pasta.real", "/pasta"):
        assert not profiles["pasta-python"].attaches_to(path)


def test_usr_is_left_to_the_c_program(tmp_path: Path) -> None:
    default = apparmor.load(tmp_path)
    for name in ("pasta", "passt"):
        assert default[f"{name}-python"].attaches_to(f"/usr/local/bin/{name}")
        assert not default[f"{name}-python"].attaches_to(f"/usr/bin/{name}")


def test_what_a_launcher_executes_is_an_interpreter(profiles: Mapping[str, apparmor.Profile]) -> None:
    for name in ("pasta-python", "passt-python"):
        for path in ("/bin/sh", "/usr/bin/env", "/usr/bin/python3", "/home/user/python3.11"):
            assert not profiles[name].allows(path, "x", owner=True), path


def test_passt_executes_nothing_else(profiles: Mapping[str, apparmor.Profile]) -> None:
    for path in ("/usr/local/bin/passt", "/usr/local/lib/passt/bin/qrap", "/home/user/x", "/lib/x.so"):
        assert not profiles["passt-python"].allows(path, "x", owner=True)


@pytest.mark.parametrize("home", ["/usr/local", "/usr/local/lib/passt", "/opt/a venv", "/usr"])
def test_passt_keeps_its_profile_in_its_reader_alone(profiles: Mapping[str, apparmor.Profile], home: str
                                                     ) -> None:
    for place in places():
        directory = f"{home}{place}/passt/process"
        assert profiles["passt-python"].allows(f"{directory}/passt-reader", "xrm", owner=False), place
        for name in ("passt-configurer", "passt-reader2", "other", "landlock.py"):
            assert not profiles["passt-python"].allows(f"{directory}/{name}", "x", owner=False), place
        assert not profiles["passt-python"].allows(f"{directory}/passt-reader", "w", owner=False), place


def test_program_of_pasta_executes_every_command(profiles: Mapping[str, apparmor.Profile]) -> None:
    """Interpreters too, which the launcher alone takes for the program."""
    for path in ("/bin/sh", "/usr/bin/python3.11", "/usr/local/bin/passt", "/home/user/x", "/srv/x"):
        assert profiles["pasta-python-program"].allows(path, "x", owner=False)


@pytest.mark.parametrize("path", [
    "/dev/null", "/dev/tty", "/dev/pts/7", "/dev/ttyS0", "/home/user/out", "/root/out", "/srv/data/out",
    "/tmp/out", "/var/log/out",  # noqa: S108 - names only
    "/run/user/1000/out", "/mnt/disk/out",
])  # fmt: skip
def test_redirection_of_a_command_is_kept(profiles: Mapping[str, apparmor.Profile], path: str) -> None:
    """The kernel closes what any profile on the way to the command has no rule for."""
    for name in ("pasta-python", "pasta-python-program"):
        assert profiles[name].allows(path, "rw", owner=False)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/tty", "/dev/pts/7", "/run/systemd/journal/stdout"])
def test_passt_keeps_its_standard_descriptors(profiles: Mapping[str, apparmor.Profile], path: str) -> None:
    assert profiles["passt-python"].allows(path, "rw", owner=False)


@pytest.mark.parametrize("directory", [
    "/home/user", "/root", "/tmp",  # noqa: S108 - a name only
    "/run/user/1000/libvirt/qemu/run/passt", "/run/libvirt/qemu/passt",
    "/var/log/libvirt/qemu",
])  # fmt: skip
def test_passt_has_the_files_of_its_callers(profiles: Mapping[str, apparmor.Profile], directory: str) -> None:
    for name in ("vm.socket", "vm.pid", "vm.log", "vm.pcap"):
        assert profiles["passt-python"].allows(f"{directory}/{name}", "rw", owner=True)
        assert not profiles["passt-python"].allows(f"{directory}/{name}", "w", owner=False)


@pytest.mark.parametrize("path", [
    "/memfd:pc.ram (deleted)", "/dev/shm/ram", "/dev/hugepages/libvirt/qemu/1-vm/ram",  # noqa: S108 - names only
    "/var/lib/libvirt/qemu/ram/1-vm/pc.ram",
])  # fmt: skip
def test_passt_alone_has_the_memory_of_a_machine(profiles: Mapping[str, apparmor.Profile], path: str) -> None:
    """Files of other users, which come over the socket."""
    assert profiles["passt-python"].allows(path, "rw", owner=False)
    assert not profiles["passt-python"].allows(path, "x", owner=False)


@pytest.mark.parametrize("path", [
    "/etc/shadow", "/root/.ssh/id_ed25519", "/home/user/.gnupg/secring.gpg", "/home/user/.bashrc",
    "/proc/sys/kernel/core_pattern", "/dev/mem", "/dev/sda", "/usr/bin/x", "/etc/cron.d/x",
])  # fmt: skip
def test_what_none_of_them_may_write(profiles: Mapping[str, apparmor.Profile], path: str) -> None:
    for name in ("pasta-python", "passt-python", "pasta-python-program"):
        # pasta's files may be any of the command's, so AppArmor keeps but the worst away.
        if name.startswith("passt") or not path.endswith((".gpg", "ed25519")):
            assert not profiles[name].allows(path, "w", owner=True), name


def test_capabilities(profiles: Mapping[str, apparmor.Profile]) -> None:
    assert profiles["passt-python"].capabilities == set(BOTH.values())
    assert profiles["pasta-python-program"].capabilities == {*BOTH.values(), *PASTA.values()}
    assert profiles["pasta-python"].capabilities == set()


# SELinux


def check_module(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Compile the policy module *text*."""
    (directory / f"{MODULE}.te").write_text(text, encoding="utf-8")
    return subprocess.run(
        ["checkmodule", "-M", "-m", "-o", directory / f"{MODULE}.mod", directory / f"{MODULE}.te"],
        capture_output=True, text=True, check=False, timeout=300)


def enforcement() -> str:
    """Return the source of the module."""
    return (SELINUX / f"{MODULE}.te").read_text(encoding="utf-8")


def test_module_compiles_and_is_packed(tmp_path: Path) -> None:
    done = check_module(enforcement(), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    packed = subprocess.run(
        ["semodule_package", "-o", tmp_path / f"{MODULE}.pp", "-m", tmp_path / f"{MODULE}.mod",
         "-f", SELINUX / f"{MODULE}.fc"], capture_output=True, text=True, check=False, timeout=300)
    assert (packed.returncode, packed.stdout, packed.stderr) == (0, "", "")
    content = (tmp_path / f"{MODULE}.pp").read_bytes()
    assert b"pasta_python_exec_t:s0" in content


@pytest.mark.parametrize(("old", "new"), [
    ("role system_r types", "role sytsem_r types"),
    ("self:netlink_route_socket nlmsg_write", "self:netlink_route_socket nlmsg_wirte"),
    (" nsfs_t, ", " "),
    ("allow pasta_python_t tun_tap_device_t", "allow pasta_pyhton_t tun_tap_device_t"),
])  # fmt: skip
def test_spoiled_module_is_refused(old: str, new: str, tmp_path: Path) -> None:
    text = enforcement()
    assert old in text
    assert check_module(text.replace(old, new, 1), tmp_path).returncode != 0


def test_interfaces_compile(tmp_path: Path) -> None:
    """Each in a module of its own, as m4(1) and the macros of the reference policy expand it."""
    text = (SELINUX / f"{MODULE}.if").read_text(encoding="utf-8")
    found = re.findall(r"^interface\(`(\w+)',`\n(.*?)\n'\)$", text, re.DOTALL | re.MULTILINE)
    assert len(found) == text.count("interface(`") > 0
    own = set(re.findall(r"^type (\w+)|^attribute (\w+)", enforcement(), re.MULTILINE))
    names = {name for pair in own for name in pair if name}
    classes = """
        type caller_t;
        class process { transition signal sigkill signull };
        class file { getattr open read map execute };
        class unix_stream_socket connectto;"""
    for name, body in found:
        required = re.search(r"gen_require\(`(.*?)'\)", body, re.DOTALL)
        assert required
        assert set(re.findall(r"\w+_t\b|passt_python_program", required[1])) <= names, name
        rules = body.replace(required[0], "").replace("$1", "caller_t")
        module = f"module {MODULE} 1.0;\nrequire {{{classes}\n{required[1]}\n}}\n{rules}\n"
        done = check_module(module, tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), name


def contexts() -> list[tuple[str, str]]:
    """Give the paths of the module's contexts, with their types."""
    text = (SELINUX / f"{MODULE}.fc").read_text(encoding="utf-8")
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    assert {kind for _, kind, _ in rows} == {"--"}
    return [(path, context.split(":")[2]) for path, _, context in rows]


def test_contexts_are_of_launchers_with_types_of_the_module() -> None:
    """In the layout of `make install`, of which the contexts speak."""
    install = (TREE / "tools" / "install").read_text(encoding="utf-8")
    assert 'ln -sf "../lib/passt/bin/$name" "$prefix/bin/$name"' in install
    found = set()
    for path, name in contexts():
        assert f"type {name}," in enforcement()
        prefix, _, rest = path.partition("/lib/passt/")
        assert prefix in {"/usr/local", "/usr"}
        home, program = os.path.split(rest)
        if home == "bin":
            assert name == f"{program}_python_exec_t"
            found.add((prefix, program))
    assert found == {(prefix, name) for prefix in ("/usr/local", "/usr") for name in ("pasta", "passt")}


def test_contexts_of_the_small_programs_fit_them_alone() -> None:
    for prefix in ("/usr/local", "/usr"):
        patterns = [path for path, name in contexts()
                    if name == "passt_python_helper_exec_t" and path.startswith(f"{prefix}/lib/passt/")]
        assert len(patterns) == 1
        for python in (PYTHON_NAME, "python3.14t"):
            process = f"{prefix}/lib/passt/lib/{python}/site-packages/passt/process"
            for name in ("reader", "configurer"):
                assert re.fullmatch(patterns[0], f"{process}/passt-{name}")
            for name in ("landlock.py", "passt-reader2", "passt-reader/x"):
                assert not re.fullmatch(patterns[0], f"{process}/{name}")


def test_both_kinds_know_the_same_capabilities() -> None:
    rules = re.findall(r"^allow (\w+) self:(capability|cap_userns) {(.*?)};", enforcement(),
                       re.DOTALL | re.MULTILINE)
    for kind in ("capability", "cap_userns"):
        found = {domain: set(names.split()) for domain, what, names in rules if what == kind}
        assert found == {"passt_python_program": set(BOTH), "pasta_python_t": set(PASTA)}


def test_tools_are_there() -> None:
    """A skip would hide that nobody checks the profiles."""
    for name in (apparmor.PARSER, "checkmodule", "semodule_package", "strace"):
        assert shutil.which(name), f"{name} is missing: 'make test' installs it"

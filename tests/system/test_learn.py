"""--learn: real programs run, and run again with the rules that they needed, and with nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from passt.config.policy_file import parse_policy
from passt.forward.learning import UNFINISHED
from tests.support.lab import FAR4, FAR6, HOST4, OUTSIDE4, PATH, PROGRAMS, Lab
from tests.support.processes import is_readable, wait_until
from tests.system.machines import Guest, passt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.lab import Running

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(not all(shutil.which(name, path=PATH) for name in ("git", "openssl")),
                       reason="git or openssl is missing: 'make test' installs them"),
]

NAME = "www.good.test"
FORWARD4 = "198.51.100.53"
OPTIONS = ("--config-net", "-t", "none", "-u", "none", "-T", "none", "-U", "none")
FORWARD = ("--dns-forward", FORWARD4)
ECHO = 8007
INSIDE = 'mount --bind "$1" "$(realpath /etc/resolv.conf)" && shift && exec "$@"'
SITE = """
import functools, http.server, ssl, sys
address, directory, pem = sys.argv[1:]
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=directory)
server = http.server.ThreadingHTTPServer((address, 443), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(pem)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("ready", flush=True)
server.serve_forever()
"""
GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": PATH,
       "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
       "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def start(place_running: Running) -> Running:
    """Wait until a server says that it is ready."""
    output = place_running.popen.stdout
    assert output is not None
    assert is_readable(output.fileno(), 60)
    assert output.readline() == b"ready\n"
    return place_running


def make_repository(site: Path) -> None:
    """Make a repository that is served as files."""
    work = site / "work"
    subprocess.run(["git", "init", "-q", str(work)], check=True, env=GIT)
    (work / "file").write_text("content\n", encoding="ascii")
    for argv in (["-C", str(work), "add", "file"], ["-C", str(work), "commit", "-q", "-m", "first"],
                 ["clone", "-q", "--bare", str(work), str(site / "thing.git")],
                 ["-C", str(site / "thing.git"), "update-server-info"]):
        subprocess.run(["git", *argv], check=True, env=GIT)


def make_index(site: Path) -> None:
    """Make an index of Python packages with one wheel."""
    directory = site / "simple" / "thing"
    directory.mkdir(parents=True)
    info = "thing-1.0.dist-info"
    files = {"thing.py": "VALUE = 1\n",
             f"{info}/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
                              "Tag: py3-none-any\n"}
    record = ""
    with zipfile.ZipFile(directory / "thing-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
            record += f"{name},sha256={digest},{len(text)}\n"
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    (directory / "index.html").write_text(
        '<!DOCTYPE html><a href="thing-1.0-py3-none-any.whl">thing-1.0-py3-none-any.whl</a>',
        encoding="ascii")


def make_archive(site: Path, directory: Path) -> None:
    """Make an archive of Debian packages with one of them."""
    control = directory / "deb" / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    fields = "Package: thing\nVersion: 1.0\nArchitecture: all\nMaintainer: a <a@b>\nDescription: thing\n"
    control.write_text(fields, encoding="ascii")
    archive = site / "apt"
    archive.mkdir()
    package = archive / "thing_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(directory / "deb"), str(package)], check=True,
                   stdout=subprocess.DEVNULL)
    data = package.read_bytes()
    (archive / "Packages").write_text(
        f"{fields}Filename: ./{package.name}\nSize: {len(data)}\n"
        f"SHA256: {hashlib.sha256(data).hexdigest()}\n", encoding="ascii")


def make_registry(site: Path) -> None:
    """Make a registry of npm with one package."""
    package = json.dumps({"name": "thing", "version": "1.0.0"}).encode()
    (site / "npm").mkdir()
    tarball = site / "thing-1.0.0.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        member = tarfile.TarInfo("package/package.json")
        member.size = len(package)
        archive.addfile(member, io.BytesIO(package))
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    (site / "npm" / "thing").write_text(json.dumps({
        "name": "thing", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {
            "name": "thing", "version": "1.0.0",
            "dist": {"tarball": f"https://{NAME}/{tarball.name}", "integrity": f"sha512-{digest}"}}}}),
        encoding="ascii")


def make_files(directory: Path) -> Path:
    """Make a certificate and a directory of files to be served; return the PEM."""
    pem, files = directory / "site.pem", directory / "site"
    files.mkdir()
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", "-"],
        check=True, capture_output=True)
    pem.write_bytes(made.stdout)
    (files / "file").write_text("content\n", encoding="ascii")
    return pem


@contextmanager
def served(lab: Lab, server: list[str], way: str = "good", answer: str = FAR4) -> Iterator[Running]:
    """Run *server* on the outside, and a name server of the host's that knows it by *answer*."""
    resolv: Path = lab.host.directory / "etc" / "resolv.conf"
    before = resolv.read_text(encoding="ascii")
    running = lab.outside.spawn(server, stderr=subprocess.DEVNULL)
    names = start(lab.host.spawn(["/usr/bin/python3", "-I", str(PROGRAMS / "name_server.py"), "127.0.0.79",
                                  way, answer]))
    resolv.write_text("nameserver 127.0.0.79\n", encoding="ascii")
    try:
        yield running
    finally:
        resolv.write_text(before, encoding="ascii")
        running.kill()
        names.kill()


@pytest.fixture
def site(lab: Lab, tmp_path: Path) -> Iterator[Path]:
    """Serve files on the outside by HTTPS, at a name that the host's name server knows; return the PEM."""
    pem = make_files(tmp_path)
    argv = [sys.executable, "-I", "-c", SITE, FAR4, str(pem.with_suffix("")), str(pem)]
    with served(lab, argv) as running:
        start(running)
        yield pem


def run(lab: Lab, options: tuple[str, ...], command: list[str], *, user: bool, server: str = FORWARD4) -> str:
    """Run *command* in a namespace that asks *server*, our forwarder; return what it prints."""
    inside = lab.directory / "etc" / "resolv.inside"
    inside.write_text(f"nameserver {server}\n", encoding="ascii")
    forward = FORWARD if server == FORWARD4 else ()
    argv = ["sh", "-c", INSIDE, "sh", str(inside), *command]
    result = lab.run([*OPTIONS, *forward, *options], argv, user=user, timeout=280)
    return result.stdout.decode()


def probe(lab: Lab, *words: str) -> list[str]:
    return ["/usr/bin/python3", "-I", str(lab.directory / "escapes.py"), *words]


def rules_in(path: Path) -> list[str]:
    rules = parse_policy(path.read_bytes())
    assert not rules.allows_rest
    return [rule.text for rule in rules.rules]


def git(directory: Path, pem: Path) -> list[str]:
    return ["env", *(f"{key}={value}" for key, value in GIT.items()), "git", "-c", f"http.sslCAInfo={pem}",
            "clone", "-q", f"https://{NAME}/thing.git", str(directory / "clone")]


def pip(directory: Path, pem: Path) -> list[str]:
    return [sys.executable, "-m", "pip", "install", "--quiet", "--isolated", "--disable-pip-version-check",
            "--no-cache-dir", "--cert", str(pem), "--index-url", f"https://{NAME}/simple", "--target",
            str(directory / "target"), "thing"]


def apt(directory: Path, pem: Path) -> list[str]:
    """Update, and download a package, with nothing of the machine's own state."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True)
    (directory / "status").touch()
    (directory / "sources.list").write_text(f"deb [trusted=yes] https://{NAME}/apt ./\n", encoding="ascii")
    options = {"Dir::Etc::SourceList": directory / "sources.list", "Dir::Etc::SourceParts": "-",
               "Dir::State": directory / "state", "Dir::State::Status": directory / "status",
               "Dir::Cache": directory / "cache", "APT::Sandbox::User": "root", "Acquire::Retries": "0",
               "Acquire::https::CaInfo": pem, "Acquire::https::Proxy": "DIRECT"}
    words = " ".join(f"-o {key}={value}" for key, value in options.items())
    script = f"apt-get {words} -qq update && cd {directory} && apt-get {words} -qq download thing"
    return ["sh", "-c", script]


def npm(directory: Path, pem: Path) -> list[str]:
    """Install a package, with nothing of the machine's own state."""
    options = {"registry": f"https://{NAME}/npm/", "cafile": pem, "cache": directory / "cache",
               "prefix": directory, "audit": "false", "fund": "false", "update-notifier": "false",
               "userconfig": directory / "user", "globalconfig": directory / "global"}
    return ["env", f"HOME={directory}", f"PATH={PATH}", "npm", "install", "--silent",
            *(f"--{key}={value}" for key, value in options.items()), "thing"]


# Debian's npm comes with hundreds of packages, so nothing installs it for this test.
PROGRAMS_TRIED = {"git": (git, "clone/file"), "pip": (pip, "target/thing.py"),
                  **({"apt": (apt, "thing_1.0_all.deb")} if shutil.which("dpkg-deb", path=PATH) else {}),
                  **({"npm": (npm, "node_modules/thing/package.json")} if shutil.which("npm", path=PATH)
                     else {})}


@pytest.mark.parametrize("program", PROGRAMS_TRIED)
def test_program_runs_again_with_what_was_learned(lab: Lab, tmp_path: Path, site: Path, program: str) -> None:
    make_repository(site.with_suffix(""))
    make_index(site.with_suffix(""))
    make_registry(site.with_suffix(""))
    if program == "apt":
        make_archive(site.with_suffix(""), tmp_path)
    command, made = PROGRAMS_TRIED[program]
    learned = tmp_path / "learned.toml"
    for name, options in (("first", ("--learn", str(learned))), ("second", ("--policy", str(learned))),
                          ("third", ("--policy", str(learned), "--verify-names"))):
        directory = tmp_path / name
        directory.mkdir()
        run(lab, options, command(directory, site), user=False)
        assert (directory / made).stat().st_size
        assert rules_in(learned) == [f"allow tcp:{NAME}:443"]
    # What the program did not need is closed.
    word = f"tcp,{FAR4},{ECHO}"
    assert run(lab, ("--policy", str(learned)), probe(lab, word), user=False) == f"{word} ECONNREFUSED\n"


@pytest.mark.parametrize("server", [FORWARD4, OUTSIDE4])
def test_curl_as_a_user_and_as_root(lab: Lab, user: bool, scratch: Path, site: Path, server: str) -> None:
    """Without --dns-forward the forwarder is the gateway here, as the host asks a server on its loopback."""
    learned = scratch / "learned.toml"
    certificate = lab.directory / "etc" / "site.pem"
    shutil.copy(site, certificate)
    certificate.chmod(0o644)
    try:
        command = ["curl", "-sS", "--cacert", str(certificate), f"https://{NAME}/file"]
        assert run(lab, ("--learn", str(learned)), command, user=user, server=server) == "content\n"
        assert rules_in(learned) == [f"allow tcp:{NAME}:443"]
        assert learned.stat().st_uid == os.stat(scratch).st_uid
        assert run(lab, ("--policy", str(learned)), command, user=user, server=server) == "content\n"
    finally:
        certificate.unlink()


NGINX = """
daemon off;
master_process off;
user root;
pid {directory}/nginx.pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {address}:443 ssl http2;
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        root {directory}/site;
    }}
}}
"""
# Nobody is there, and nobody says so.
SILENT6 = "2001:db8:2::99"


@pytest.fixture
def silent(lab: Lab) -> Iterator[None]:
    lab.outside.run(["ip", "-6", "route", "add", "blackhole", f"{SILENT6}/128"])
    yield
    lab.outside.run(["ip", "-6", "route", "del", "blackhole", f"{SILENT6}/128"])


@pytest.mark.usefixtures("silent")
@pytest.mark.skipif(shutil.which("nginx", path=PATH) is None,
                    reason="nginx is missing: 'make test' installs it")
@pytest.mark.parametrize("addresses", [FAR4, f"{FAR4},{SILENT6}"], ids=["one", "a silent one, too"])
def test_http2_and_a_family_that_is_silent_or_denied(lab: Lab, tmp_path: Path, addresses: str) -> None:
    """A client tries IPv6, and 200 ms later IPv4 (RFC 8305); two files come over one connection."""
    pem, learned = make_files(tmp_path), tmp_path / "learned.toml"
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(directory=tmp_path, address=FAR4, pem=pem), encoding="ascii")
    argv = ["nginx", "-p", str(tmp_path), "-c", str(config), "-e", str(tmp_path / "error.log")]
    url = f"https://{NAME}/file"
    command = ["curl", "-sS", "-v", "--stderr", "-", "--http2", "--cacert", str(pem), "-w",
               "%{http_version} %{remote_ip} %{num_connects}\\n", url, url]
    with served(lab, argv, "both", addresses):
        wait_until(lambda: b":443 " in lab.outside.run(["ss", "-Hltn"]).stdout, "nginx listens")
        for options in (("--learn", str(learned)), ("--policy", str(learned)),
                        ("--policy", str(learned), "--deny", "::/0")):
            lines = run(lab, options, command, user=False).splitlines()
            assert [line for line in lines if not line.startswith(("*", "<", ">", "{", "}"))] == [
                "content", f"2 {FAR4} 1", "content", f"2 {FAR4} 0"]
            tried = any(line.startswith("*") and "Trying" in line and SILENT6 in line for line in lines)
            assert tried == (SILENT6 in addresses)
            assert rules_in(learned) == [f"allow tcp:{NAME}:443"]


@pytest.mark.usefixtures("site")
def test_all_kinds_of_flows_run_again(lab: Lab, user: bool, scratch: Path) -> None:
    """Both families, ports, protocols, the host behind the gateway, the bypass, and names alone."""
    learned = scratch / "learned.toml"
    words = [f"tcp,{FAR6},{ECHO}", f"udp,{FAR6},{ECHO}", f"udp,{OUTSIDE4},{ECHO}", f"tcp,127.0.0.1,{ECHO}",
             f"ask,{FORWARD4},idle.good.test,A,udp"]
    bypass = ("-T", str(ECHO))
    outcome = "".join(f"{word} open\n" for word in words[:-1])
    assert run(lab, (*bypass, "--learn", str(learned)), probe(lab, *words), user=user) == (
        f"{outcome}{words[-1]} NOERROR {FAR4}\n")
    assert rules_in(learned) == [
        f"allow tcp:127.0.0.1:{ECHO}", f"allow udp:127.0.0.1:{ECHO}", f"allow tcp:[{FAR6}]:{ECHO}",
        f"allow udp:[{FAR6}]:{ECHO}", "allow dns"]
    closed = [f"tcp,{FAR4},{ECHO}", f"tcp,{OUTSIDE4},8000"]
    assert run(lab, (*bypass, "--policy", str(learned)), probe(lab, *words, *closed), user=user) == (
        f"{outcome}{words[-1]} NOERROR {FAR4}\n" + "".join(f"{word} ECONNREFUSED\n" for word in closed))


def test_signal_ends_the_run_and_the_file_is_whole(lab: Lab, user: bool, scratch: Path) -> None:
    learned = scratch / "learned.toml"
    word = f"tcp,{FAR4},{ECHO}"
    script = f"{' '.join(probe(lab, word))}; sleep 1000"
    for signum in (signal.SIGTERM, signal.SIGKILL):
        running = lab.start([*OPTIONS, *FORWARD, "--learn", str(learned)], ["sh", "-c", script], user=user)
        output = running.popen.stdout
        assert output is not None
        assert is_readable(output.fileno(), 120)
        assert output.readline().decode() == f"{word} open\n"
        assert learned.read_bytes() == UNFINISHED
        running.send(signum)
        running.finish(60)
        if signum == signal.SIGTERM:
            assert rules_in(learned) == [f"allow tcp:{FAR4}:{ECHO}"]
        else:
            assert learned.read_bytes() == UNFINISHED


def test_machine_of_passt_runs_again(lab: Lab, user: bool, scratch: Path) -> None:
    learned = scratch / "learned.toml"
    words = [f"tcp,{FAR4},{ECHO}", f"udp,{FAR6},{ECHO}"]
    outcome = "".join(f"{word} open\n" for word in words)
    closed = f"tcp,{FAR6},{ECHO}"
    for option, more in (("--learn", []), ("--policy", [closed])):
        with passt(lab, option, str(learned), user=user, name="learn") as (_, path):
            guest = Guest(lab, path)
            guest.configure(HOST4)
            found = guest.place.run(probe(lab, *words, *more), timeout=280).stdout.decode()
            guest.close()
        assert found == outcome + (f"{closed} ECONNREFUSED\n" if more else "")
        assert rules_in(learned) == [f"allow tcp:{FAR4}:{ECHO}", f"allow udp:[{FAR6}]:{ECHO}"]


@pytest.mark.parametrize(("options", "message"), [
    (("--learn", "/nowhere/a.toml"), "option '--learn' /nowhere/a.toml: cannot write the file: No such file"),
    (("--learn", "a.toml", "--allow", "private"),
     "option '--learn' a.toml allows all, to see which rules are needed; leave out --allow, --deny and"),
])
def test_mistake_is_one_line(lab: Lab, options: tuple[str, ...], message: str) -> None:
    result = lab.run(options, ["true"], user=False, check=False)
    assert result.returncode == 1
    assert result.stderr.decode().startswith(f"pasta: {message}")
    assert result.stderr.count(b"\n") == 1
    assert not os.path.exists("/a.toml")


def test_start_that_fails_leaves_no_file(lab: Lab, user: bool, scratch: Path) -> None:
    learned = scratch / "learned.toml"
    result = lab.run([*OPTIONS, "--learn", str(learned), "--netns", "/nowhere"], user=user, check=False)
    assert result.returncode == 1
    assert not learned.exists()
